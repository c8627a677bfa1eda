// SPDX-License-Identifier: Apache-2.0

package waljournal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/waljournal"
	"github.com/vpcnet/vpcnet/internal/filedamage"
	"github.com/vpcnet/vpcnet/internal/wal"
)

// ids opens the journal in dir and returns the IDs of its intents.
func ids(t *testing.T, dir string) ([]string, waljournal.Report) {
	t.Helper()
	j, r, err := waljournal.Open(t.Context(), dir, waljournal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	all, err := j.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, in := range all {
		out = append(out, in.ID)
	}
	return out, r
}

// TestDamage opens 1,680 damaged journals. Each must be refused, or return the
// undamaged list.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	for i := range 20 {
		in := eni.Intent{ID: fmt.Sprint(100 + i), Op: eni.OpProvision}
		if err := j.Put(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if err := j.Remove(t.Context(), in.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	closeJournal(t, j)
	want, _ := ids(t, dir)
	var refused atomic.Int64
	t.Run("all", func(t *testing.T) {
		for _, k := range filedamage.Kinds() {
			t.Run(k.Name, func(t *testing.T) {
				t.Parallel() // the tests wait for the disk
				for seed := range 60 {
					if damaged(t, dir, k, seed, want) {
						refused.Add(1)
					}
				}
			})
		}
	})
	t.Logf("%d journals were refused", refused.Load())
}

// damaged damages a file in a copy of dir and reports whether the journal was
// refused. If not, it must return the same list.
func damaged(t *testing.T, dir string, k filedamage.Kind, seed int, want []string) bool {
	t.Helper()
	name := []string{"intents.log", "intents.log", "intents.head"}[seed%3]
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := k.Apply(rand.New(rand.NewPCG(uint64(seed), 1)), filepath.Join(to, name)); err != nil {
		t.Fatal(err)
	}
	got, r := ids(t, to)
	refused := errors.Is(r.Why, waljournal.ErrDamaged) && len(r.SetAside) > 0 && len(got) == 0
	if !refused && (r.Why != nil || !slices.Equal(got, want)) {
		t.Errorf("%s, seed %d: report %+v, intents %v", name, seed, r, got)
	}
	return refused
}

// version1 writes intents to dir in the format of version 1.
func version1(t *testing.T, dir string, intents map[string]string) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "agent.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("ipam-events"))
		meta, err2 := tx.CreateBucket([]byte("ipam-meta"))
		b, err3 := tx.CreateBucket([]byte("eni-intents"))
		err = errors.Join(err, err2, err3, meta.Put([]byte("format"), []byte("1")))
		for id, value := range intents {
			err = errors.Join(err, b.Put([]byte(id), []byte(value)))
		}
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestMigration checks that the intents of version 1 are imported once.
func TestMigration(t *testing.T) {
	dir := t.TempDir()
	version1(t, dir, map[string]string{"1": `{"ID":"1","Op":"retire"}`, "2": `{"ID":"2","Op":"assign"}`})
	for i := range 2 {
		got, r := ids(t, dir)
		if !slices.Equal(got, []string{"1", "2"}) || r.Migrated != (i == 0) || r.Created || r.Why != nil {
			t.Errorf("open %d: %v, report %+v", i, got, r)
		}
	}
}

// TestDamagedMigration checks that a damaged journal of version 1 is set aside.
func TestDamagedMigration(t *testing.T) {
	for name, c := range map[string]struct {
		value string
		size  int64
	}{"intent": {"{half", 0}, "file": {`{"ID":"1"}`, 5000}} {
		dir := t.TempDir()
		version1(t, dir, map[string]string{"1": c.value})
		if c.size > 0 {
			if err := os.Truncate(filepath.Join(dir, "agent.db"), c.size); err != nil {
				t.Fatal(err)
			}
		}
		got, r := ids(t, dir)
		if len(got) > 0 || !errors.Is(r.Why, waljournal.ErrDamaged) || len(r.SetAside) != 1 {
			t.Errorf("damaged %s: %v, report %+v", name, got, r)
		}
		if _, r := ids(t, dir); r.Why != nil || r.Created {
			t.Errorf("damaged %s, opened again: report %+v", name, r)
		}
	}
}

// TestUnknownEntry checks that an entry that cannot be decoded, but has the right
// checksum, counts as one of a later version and stays.
func TestUnknownEntry(t *testing.T) {
	dir := t.TempDir()
	closeJournal(t, open(t, dir))
	log, _, err := wal.Open(t.Context(), dir, wal.Config{Name: "intents", Sync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(log.Append([][]byte{[]byte(`{"later":1}`)}), log.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, err := waljournal.Open(t.Context(), dir, waljournal.Config{}); !errors.Is(err, waljournal.ErrFormat) {
			t.Fatalf("open: %v", err)
		}
	}
}

// TestInUse checks that a journal can be open only once.
func TestInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, _, err := waljournal.Open(t.Context(), dir, waljournal.Config{}); !errors.Is(err, waljournal.ErrInUse) {
		t.Errorf("open: %v", err)
	}
}
