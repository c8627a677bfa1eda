// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// opened opens the journals in dir and the pool, and returns what was logged.
func opened(t *testing.T, dir string) (*journals, *ipam.Pool, string) {
	t.Helper()
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	j, err := openJournals(t.Context(), dir, log)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := j.openPool(ipam.Config{}, log)
	if err != nil {
		t.Fatal(err)
	}
	return j, pool, out.String()
}

// TestDamagedJournals: the agent starts, with nothing in its pool, and says what
// it lost. A start like any other says nothing.
func TestDamagedJournals(t *testing.T) {
	dir := t.TempDir()
	start := func(want ...string) *journals {
		t.Helper()
		j, pool, log := opened(t, dir)
		if len(pool.View().ENIs) > 0 && len(want) > 0 {
			t.Errorf("the pool has %+v", pool.View().ENIs)
		}
		for _, w := range want {
			if !strings.Contains(log, w) {
				t.Errorf("log %q, want it to have %q", log, w)
			}
		}
		if len(want) == 0 && log != "" {
			t.Errorf("log %q, want none", log)
		}
		return j
	}
	j := start()
	contradiction := ipam.Event{Kind: ipam.EventReleased, At: time.Now(), Attachment: ipam.Attachment{Network: "n", ContainerID: "c", IfName: "i"}}
	if err := j.pool.Append([]ipam.Event{contradiction}); err != nil {
		t.Fatal(err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	j = start("pool.log.damaged-1", "event 0")
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pool.log", "intents.head"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("damage"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	j = start("pool.log.damaged-2", "intents.head.damaged-1", "journal is damaged")
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if err := start().close(); err != nil {
		t.Fatal(err)
	}
}
