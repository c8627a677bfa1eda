// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// opened opens the journals in dir and the pool, and returns the log.
func opened(t *testing.T, dir string) (*journals, *ipam.Pool, string) {
	t.Helper()
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	j, err := openJournals(t.Context(), dir, "boot", time.Time{}, log)
	if err == nil {
		err = j.openIntents(t.Context(), dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	pool, err := j.openPool(ipam.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return j, pool, out.String()
}

// TestDamagedJournals checks that the agent starts with an empty pool if its
// journals are damaged, and reports what it lost. A normal start reports no loss.
func TestDamagedJournals(t *testing.T) {
	dir := t.TempDir()
	start := func(want ...string) *journals {
		t.Helper()
		j, pool, log := opened(t, dir)
		if len(pool.View().ENIs) > 0 && len(want) > 0 {
			t.Errorf("the pool has %+v, want nothing", pool.View().ENIs)
		}
		if reported := len(j.lost) > 0; reported != (len(want) > 0) {
			t.Errorf("events %v, want %v", j.lost, want)
		}
		for _, w := range want {
			if !strings.Contains(log, w) {
				t.Errorf("log %q, want %q in it", log, w)
			}
		}
		if len(want) == 0 && strings.Contains(log, "level=ERROR") {
			t.Errorf("log %q, want no error", log)
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

// TestRebootResetsJournal checks that allocations end with a reboot, and that the
// cooldown of addresses begins at the boot. A start in the same boot keeps
// allocations.
func TestRebootResetsJournal(t *testing.T) {
	dir := t.TempDir()
	booted := time.Now().Add(-10 * time.Second)
	for _, start := range []struct {
		boot    string
		holds   bool
		cooling int
	}{{"first", false, 0}, {"first", true, 0}, {"second", false, 16}} {
		j, err := openJournals(t.Context(), dir, start.boot, booted, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		pool, err := j.openPool(ipam.Config{Cooldown: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(pool.Lookup(attachment("a"))) > 0; got != start.holds {
			t.Errorf("boot %s: pod a holds an address: %v, want %v", start.boot, got, start.holds)
		}
		err = errors.Join(pool.SetENI(ipam.ENI{ID: "eni-0"}), pool.SetReady("eni-0", true),
			pool.AddBlocks(ipam.Block{Prefix: netip.MustParsePrefix("10.0.0.16/28"), ENI: "eni-0"}))
		if err != nil {
			t.Fatal(err)
		}
		if got := pool.View().ENIs[0].Blocks[0].Cooling; got != start.cooling {
			t.Errorf("boot %s: %d addresses are cooling, want %d", start.boot, got, start.cooling)
		}
		if start.cooling == 0 {
			if _, err := pool.Allocate(t.Context(), ipam.Request{Attachment: attachment("a")}); err != nil {
				t.Error(err)
			}
		}
		if err := j.close(); err != nil {
			t.Fatal(err)
		}
	}
}
