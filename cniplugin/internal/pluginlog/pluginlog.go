// SPDX-License-Identifier: Apache-2.0

// Package pluginlog opens the logs of CNI plugins, as the fields pluginLogFile and
// pluginLogLevel of a network configuration describe them.
package pluginlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// ToStderr reports whether a log with the given pluginLogFile is on standard error.
func ToStderr(file string) bool { return file == "" || file == "stderr" }

// ValidFile reports whether file is a valid pluginLogFile.
func ValidFile(file string) bool { return ToStderr(file) || filepath.IsAbs(file) }

// Level returns the level of a log with the given pluginLogFile and pluginLogLevel. The
// level fatal is above all levels that plugins log. Empty means info for a file, and warn
// for standard error, which a runtime writes to its own log.
func Level(file, level string) (slog.Level, error) {
	if level == "" {
		if ToStderr(file) {
			return slog.LevelWarn, nil
		}
		return slog.LevelInfo, nil
	}
	if strings.EqualFold(level, "fatal") {
		return slog.LevelError + 1, nil
	}
	var l slog.Level
	err := l.UnmarshalText([]byte(level))
	return l, err
}

// Open opens the log. If that fails, or the file is not valid, it logs to standard error
// instead, because a log that cannot be opened must not prevent a pod from starting.
func Open(file string, level slog.Level, stderr io.Writer) (l *slog.Logger, closeLog func()) {
	options := &slog.HandlerOptions{Level: level}
	if ToStderr(file) {
		return slog.New(slog.NewTextHandler(stderr, options)), func() {}
	}
	f, err := openFile(file)
	if err != nil {
		l := slog.New(slog.NewTextHandler(stderr, options))
		l.Warn("log file cannot be opened", "err", err)
		return l, func() {}
	}
	return slog.New(slog.NewJSONHandler(f, options)), func() { f.Close() }
}

// openFile opens a log file for appending. It accepts regular files and devices: a FIFO
// blocks if no process reads it.
func openFile(path string) (*os.File, error) {
	if !ValidFile(path) {
		return nil, fmt.Errorf("%s is not an absolute path", path)
	}
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() && info.Mode().Type() != fs.ModeDevice|fs.ModeCharDevice:
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
}
