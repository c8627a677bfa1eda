// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

func env(m map[string]string) func(string) string { return func(k string) string { return m[k] } }

// TestDurationsInLog checks that the JSON log has durations as text.
func TestDurationsInLog(t *testing.T) {
	var log strings.Builder
	newLog(&log, slog.LevelInfo).Info("x", "took", 1500*time.Millisecond, slog.Group("g", "retryIn", 2*time.Minute))
	if got := log.String(); !strings.Contains(got, `"took":"1.5s"`) || !strings.Contains(got, `"retryIn":"2m0s"`) {
		t.Errorf("log %s, want 1.5s and 2m0s", got)
	}
}

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
