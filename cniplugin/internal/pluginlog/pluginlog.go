// SPDX-License-Identifier: Apache-2.0

// Package pluginlog opens the logs of CNI plugins, as the fields pluginLogFile and
// pluginLogLevel of a network configuration describe them.
package pluginlog

import (
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/vpcnet/vpcnet/internal/logfile"
)

// onStderr reports whether a log with the given pluginLogFile is on standard error.
func onStderr(file string) bool { return file == "" || file == "stderr" }

// ValidFile reports whether file is a valid pluginLogFile.
func ValidFile(file string) bool { return onStderr(file) || filepath.IsAbs(file) }

// Level returns the level of a log with the given pluginLogFile and pluginLogLevel. The
// level fatal is above all levels that plugins log. Empty means info for a file, and warn
// for standard error, which a runtime writes to its own log.
func Level(file, level string) (slog.Level, error) {
	if level == "" {
		if onStderr(file) {
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

// Open opens the log. A file has lines of JSON and is rotated. If it cannot be opened, or
// is not valid, the log is on standard error, because a log that cannot be opened must not
// prevent a pod from starting.
func Open(file string, level slog.Level, stderr io.Writer) (l *slog.Logger, closeLog func()) {
	toStderr := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	if onStderr(file) {
		return toStderr, func() {}
	}
	var f *logfile.File
	err := fmt.Errorf("%s is not an absolute path", file)
	if ValidFile(file) {
		f, err = logfile.Open(file)
	}
	if err != nil {
		toStderr.Warn("log file cannot be opened", "err", err)
		return toStderr, func() {}
	}
	return slog.New(logfile.NewHandler(f, level)), func() { _ = f.Close() }
}
