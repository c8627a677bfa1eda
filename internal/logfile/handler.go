// SPDX-License-Identifier: Apache-2.0

package logfile

import (
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// timeFormat is that of amazon-vpc-cni-k8s, in UTC.
const timeFormat = "2006-01-02T15:04:05.000Z"

// NewHandler returns a handler that writes one JSON object a line, with the keys level, ts,
// caller and msg of amazon-vpc-cni-k8s. Durations are texts such as 1.5s.
func NewHandler(w io.Writer, level slog.Leveler) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, AddSource: true, ReplaceAttr: replace})
}

func replace(groups []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String())
	}
	if len(groups) > 0 {
		return a
	}
	switch v := a.Value.Any().(type) {
	case time.Time:
		if a.Key == slog.TimeKey {
			return slog.String("ts", v.UTC().Format(timeFormat))
		}
	case slog.Level:
		if a.Key == slog.LevelKey {
			return slog.String(slog.LevelKey, strings.ToLower(v.String()))
		}
	case *slog.Source:
		if a.Key == slog.SourceKey {
			dir, file := filepath.Split(v.File)
			return slog.String("caller", filepath.Base(dir)+"/"+file+":"+strconv.Itoa(v.Line))
		}
	}
	return a
}
