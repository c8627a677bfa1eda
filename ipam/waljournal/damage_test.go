// SPDX-License-Identifier: Apache-2.0

package waljournal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/internal/filedamage"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/waljournal"
)

// usedJournal creates the journal of a pool that has been in use, and returns its
// events.
func usedJournal(t *testing.T) (dir string, want []ipam.Event) {
	t.Helper()
	dir = t.TempDir()
	j, closed := open(t, dir)
	p := fill(t, j)
	for i := range 20 {
		if _, err := p.Allocate(t.Context(), request(i)); err != nil {
			t.Fatal(err)
		}
		if i%3 > 0 {
			if _, err := p.Release(request(i).Attachment); err != nil {
				t.Fatal(err)
			}
		}
	}
	want, err := j.Load()
	if err != nil {
		t.Fatal(err)
	}
	closed()
	return dir, want
}

// reopen opens dir and checks that the journal has the wanted events, or that
// Open reported damage. It reports whether the events were there.
func reopen(t *testing.T, dir, what string, want []ipam.Event) bool {
	t.Helper()
	j, r, err := waljournal.Open(t.Context(), dir, config())
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer j.Close()
	got, err := j.Load()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if r.Why != nil {
		if !errors.Is(r.Why, waljournal.ErrDamaged) || len(r.SetAside) == 0 || len(got) > 0 || r.Readable > len(want) {
			t.Fatalf("%s: refused with report %+v and %d events", what, r, len(got))
		}
		return false
	}
	if diff := cmp.Diff(want, got, netipEqual, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s: damage not detected (-want +got):\n%s", what, diff)
	}
	return true
}

// TestDamage damages 1,680 files. In each case the events are the same, or Open
// reports the damage.
func TestDamage(t *testing.T) {
	dir, want := usedJournal(t)
	victims := []string{"pool.log", "pool.log", "pool.log", "pool.head", "agent.db"}
	count := map[bool]int{}
	for _, k := range filedamage.Kinds() {
		for seed := range 60 {
			name := victims[seed%len(victims)]
			to := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			if err := k.Apply(rand.New(rand.NewPCG(uint64(seed), 1)), filepath.Join(to, name)); err != nil {
				t.Fatal(err)
			}
			same := reopen(t, to, fmt.Sprintf("%s: %s, seed %d", name, k.Name, seed), want)
			if count[same]++; !same && name == "agent.db" {
				t.Errorf("%s of the sealed agent.db: the events are lost", k.Name)
			}
		}
	}
	t.Logf("%d journals had all events, %d were refused", count[true], count[false])
}
