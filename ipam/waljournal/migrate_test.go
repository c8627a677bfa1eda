// SPDX-License-Identifier: Apache-2.0

package waljournal_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/vpcnet/vpcnet/internal/filedamage"
	"github.com/vpcnet/vpcnet/internal/wal"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/waljournal"
)

// version1 writes the journal of version 1 into dir.
func version1(t *testing.T, dir string, events []ipam.Event, intents map[string]string) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "agent.db"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	update := func(f func(tx *bbolt.Tx) error) {
		t.Helper()
		if err := db.Update(f); err != nil {
			t.Fatal(err)
		}
	}
	update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("ipam-events"))
		meta, err2 := tx.CreateBucket([]byte("ipam-meta"))
		return errors.Join(err, err2, meta.Put([]byte("format"), []byte("1")))
	})
	update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("eni-intents"))
		for id, value := range intents {
			err = errors.Join(err, b.Put([]byte(id), []byte(value)))
		}
		return err
	})
	for _, e := range events {
		update(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("ipam-events"))
			n, err := b.NextSequence()
			value, err2 := ipam.EncodeEvent(e)
			return errors.Join(err, err2, b.Put(binary.BigEndian.AppendUint64(nil, n), value))
		})
	}
}

// version1Opens opens the file as version 1 does, and returns its error.
func version1Opens(t *testing.T, dir string) error {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "agent.db"), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	return db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists([]byte("ipam-events")); err != nil {
			return err
		}
		meta, err := tx.CreateBucketIfNotExists([]byte("ipam-meta"))
		if err != nil {
			return err
		}
		switch have := string(meta.Get([]byte("format"))); have {
		case "1":
			return nil
		case "":
			return meta.Put([]byte("format"), []byte("1"))
		default:
			return fmt.Errorf("format %q instead of %q", have, "1")
		}
	})
}

// many returns the events of a pool that has been in use.
func many(t *testing.T) []ipam.Event {
	t.Helper()
	_, events := usedJournal(t)
	return events
}

func TestMigration(t *testing.T) {
	events := many(t)
	for name, c := range map[string]struct {
		booted  time.Time
		want    []ipam.Event
		migrate bool
	}{
		"of this boot":       {booted: time.Now().Add(-time.Hour), want: events, migrate: true},
		"boot unknown":       {want: events, migrate: true},
		"from before a boot": {booted: time.Now().Add(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			version1(t, dir, events, nil)
			for i := range 2 {
				cfg := config()
				cfg.BootTime = c.booted
				j, r, err := waljournal.Open(t.Context(), dir, cfg)
				if err != nil {
					t.Fatal(err)
				}
				got, err := j.Load()
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, got, netipEqual, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); diff != "" && len(c.want)+len(got) > 0 {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if r.Created || r.Migrated != (c.migrate && i == 0) || r.Rebooted != (!c.migrate && i == 0) || r.Why != nil {
					t.Errorf("open %d: report %+v", i, r)
				}
				if err := version1Opens(t, dir); err == nil || !strings.Contains(err.Error(), "start that version again, or drain the node") {
					t.Errorf("version 1 opens the file with %v, want an error that says what to do", err)
				}
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestFreshIsSealed: version 1 also refuses a directory in which it never ran.
func TestFreshIsSealed(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if err := version1Opens(t, dir); err == nil {
		t.Error("version 1 opens the file, want an error")
	}
}

// TestMigrationLeavesIntents: the file is not sealed while it has intents to
// migrate.
func TestMigrationLeavesIntents(t *testing.T) {
	dir := t.TempDir()
	version1(t, dir, many(t), map[string]string{"1": `{"ID":"1"}`})
	_, closed := open(t, dir)
	if err := version1Opens(t, dir); err != nil {
		t.Errorf("the file is sealed although it has intents to migrate: %v", err)
	}
	closed()
}

// TestInUseByVersion1: Open fails while a process of version 1 has the file open.
func TestInUseByVersion1(t *testing.T) {
	dir := t.TempDir()
	version1(t, dir, nil, nil)
	db, err := bbolt.Open(filepath.Join(dir, "agent.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := waljournal.Open(t.Context(), dir, config()); !errors.Is(err, waljournal.ErrInUse) {
		t.Errorf("open: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

// TestMigrationOfDamage: the events of a damaged file of version 1 are unchanged,
// or the file is set aside. Version 1 had no checksums, so a changed bit that
// results in another valid event cannot be detected.
func TestMigrationOfDamage(t *testing.T) {
	events := many(t)
	dir := t.TempDir()
	version1(t, dir, events, nil)
	count := map[string]int{}
	for _, k := range filedamage.Kinds() {
		for seed := range 10 {
			what := fmt.Sprintf("%s, seed %d", k.Name, seed)
			to := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			if err := k.Apply(rand.New(rand.NewPCG(uint64(seed), 1)), filepath.Join(to, "agent.db")); err != nil {
				t.Fatal(err)
			}
			j, r, err := waljournal.Open(t.Context(), to, config())
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			got, err := j.Load()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			switch {
			case r.Why != nil:
				if !errors.Is(r.Why, waljournal.ErrDamaged) || len(r.SetAside) != 1 || len(got) > 0 {
					t.Errorf("%s: report %+v, %d events", what, r, len(got))
				}
				if _, err := os.Lstat(r.SetAside[0]); err != nil {
					t.Errorf("%s: set aside: %v", what, err)
				}
				count["refused"]++
			case k.Name == "missing":
				if !r.Created {
					t.Errorf("%s: report %+v", what, r)
				}
			case len(got) != len(events):
				t.Errorf("%s: %d events, want %d", what, len(got), len(events))
			case slices.EqualFunc(got, events, func(a, b ipam.Event) bool { return cmp.Equal(a, b, netipEqual) }):
				count["unchanged"]++
			default:
				count["another event"]++
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%v", count)
	if count["another event"] > 20 {
		t.Errorf("%d of 280 files gave other events, want at most 20", count["another event"])
	}
}

// TestUnknownEvent: a journal with an event of a newer version is refused, and not
// changed.
func TestUnknownEvent(t *testing.T) {
	dir := t.TempDir()
	_, closed := open(t, dir)
	closed()
	log, _, err := wal.Open(t.Context(), dir, wal.Config{Name: "pool", BootID: config().BootID})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(log.Append([][]byte{[]byte(`{"kind":"from-the-future"}`)}), log.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, err := waljournal.Open(t.Context(), dir, config()); !errors.Is(err, waljournal.ErrFormat) {
			t.Fatalf("open: %v", err)
		}
	}
}

func TestDiscard(t *testing.T) {
	dir, _ := usedJournal(t)
	j, _ := open(t, dir)
	names, err := j.Discard()
	if err != nil || len(names) != 2 {
		t.Fatalf("discard: %v, %v", names, err)
	}
	if got, err := j.Load(); err != nil || len(got) > 0 {
		t.Errorf("%d events, %v", len(got), err)
	}
}
