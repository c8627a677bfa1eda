// SPDX-License-Identifier: Apache-2.0

package waljournal_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/waljournal"
)

// open opens the journal in dir and closes it when the test ends.
func open(t *testing.T, dir string) *waljournal.Journal {
	t.Helper()
	j, report, err := waljournal.Open(t.Context(), dir, waljournal.Config{})
	if err != nil || report.Why != nil {
		t.Fatalf("open: %+v, %v", report, err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// closeJournal closes a journal that must not fail to close.
func closeJournal(t *testing.T, j *waljournal.Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	block := netip.MustParsePrefix("10.0.0.16/28")
	made := eni.ENI{ID: "eni-1", Addr: netip.MustParseAddr("10.0.0.5"), Prefixes: []netip.Prefix{block}, Tags: map[string]string{"a": "b"}}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	first := eni.Intent{ID: "1", Op: eni.OpProvision, Start: at, Changed: at, Created: at, Made: &made, Blocks: []netip.Prefix{block}, Card: 1, Device: 2}
	second := eni.Intent{ID: "2", Op: eni.OpRetire, ENI: "eni-2"}

	j := open(t, dir)
	for _, in := range []eni.Intent{second, {ID: "1"}, first, {ID: "3"}} {
		if err := j.Put(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := j.Remove(t.Context(), "3"); err != nil {
			t.Fatal(err)
		}
	}
	closeJournal(t, j)
	j = open(t, dir)
	got, err := j.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal := cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})
	if diff := cmp.Diff([]eni.Intent{first, second}, got, equal); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

func TestErrors(t *testing.T) {
	j := open(t, t.TempDir())
	if err := j.Put(t.Context(), eni.Intent{}); err == nil {
		t.Error("Put stored an intent without an ID")
	}
	if err := j.Put(t.Context(), eni.Intent{ID: "0"}); err != nil {
		t.Error(err)
	}
	closeJournal(t, j)
	if err := j.Put(t.Context(), eni.Intent{ID: "1"}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Put after Close: %v", err)
	}
	if err := j.Remove(t.Context(), "0"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Remove after Close: %v", err)
	}
}

// TestFileStaysSmall checks that removed intents are removed from the file too, and
// that concurrent callers do not lose intents.
func TestFileStaysSmall(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 100 {
				id := fmt.Sprint(worker, "-", i)
				if err := j.Put(t.Context(), eni.Intent{ID: id}); err != nil {
					t.Error(err)
				}
				if i < 99 {
					if err := j.Remove(t.Context(), id); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	closeJournal(t, j)
	info, err := os.Stat(dir + "/intents.log")
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 200<<10 {
		t.Errorf("the file has %d bytes after 1600 calls that leave 8 intents, want at most 200 KiB", info.Size())
	}
	got, err := open(t, dir).All(t.Context())
	if err != nil || len(got) != 8 {
		t.Errorf("%d intents, %v; want the 8 that remain", len(got), err)
	}
}

func BenchmarkPut(b *testing.B) {
	j, _, err := waljournal.Open(b.Context(), b.TempDir(), waljournal.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	for b.Loop() {
		if err := j.Put(b.Context(), eni.Intent{ID: "1", Op: eni.OpAssign}); err != nil {
			b.Fatal(err)
		}
	}
}
