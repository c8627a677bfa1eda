// SPDX-License-Identifier: Apache-2.0

package agentdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/vpcnet/vpcnet/internal/wal"
)

// version1 returns a file of version 1 with n events and one intent. Many events
// need branch pages, and long events need several pages each.
func version1(t testing.TB, n, size int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), fileName)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, PageSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		events, err := tx.CreateBucket([]byte(bucketEvents))
		meta, err2 := tx.CreateBucket([]byte(bucketMeta))
		intents, err3 := tx.CreateBucket([]byte(bucketIntents))
		err = errors.Join(err, err2, err3, meta.Put([]byte(keyFormat), []byte(format)), intents.Put([]byte("a"), []byte("b")))
		for i := range n {
			k, err4 := events.NextSequence()
			err = errors.Join(err, err4, events.Put(binary.BigEndian.AppendUint64(nil, k), fmt.Append(nil, i, strings.Repeat("x", size))))
		}
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestReadsWhatBoltWrites reads files of a single page and of a tree of pages.
func TestReadsWhatBoltWrites(t *testing.T) {
	for _, c := range []struct{ n, size int }{{0, 0}, {1, 0}, {30, 100}, {5000, 300}, {100, 9000}} {
		var db DB
		db.read(version1(t, c.n, c.size))
		if db.Pool.Err != nil || db.Intents.Err != nil || len(db.Pool.Items) != c.n || len(db.Intents.Items) != 1 {
			t.Fatalf("%d events of %d bytes: %d events (%v), %d intents (%v)", c.n, c.size, len(db.Pool.Items), db.Pool.Err, len(db.Intents.Items), db.Intents.Err)
		}
		for i, item := range db.Pool.Items {
			if want := fmt.Sprint(i, strings.Repeat("x", c.size)); string(item) != want {
				t.Fatalf("event %d: %.20q, want %.20q", i, item, want)
			}
		}
	}
}

// TestCycle: reading a tree with a cycle ends with an error. bbolt would recurse
// for ever.
func TestCycle(t *testing.T) {
	data := version1(t, 5000, 300)
	tree, err := openTree(data)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for id := uint64(2); id < tree.end; id++ {
		p := data[id*4096:]
		if order.Uint16(p[8:]) == flagBranch {
			order.PutUint64(p[pageHeader+8:], id)
			changed++
		}
	}
	var db DB
	if db.read(data); changed == 0 || !errors.Is(db.Pool.Err, wal.ErrDamaged) {
		t.Errorf("%d branches changed; events: %v", changed, db.Pool.Err)
	}
}

// FuzzRead: reading a file never panics.
func FuzzRead(f *testing.F) {
	f.Add(version1(f, 0, 0))
	f.Add(version1(f, 3, 10))
	f.Add(version1(f, 100, 100))
	f.Fuzz(func(t *testing.T, data []byte) {
		var db DB
		db.read(data)
		for _, p := range []Part{db.Pool, db.Intents} {
			if p.Err != nil && (len(p.Items) > 0 || !errors.Is(p.Err, wal.ErrDamaged)) {
				t.Errorf("%d items, and the error %v", len(p.Items), p.Err)
			}
		}
	})
}

// FuzzTree reads the pages below the meta pages. FuzzRead hardly reaches them,
// because the meta pages have checksums.
func FuzzTree(f *testing.F) {
	data := version1(f, 100, 100)
	f.Add(data[2*4096:], uint64(5))
	f.Fuzz(func(t *testing.T, data []byte, root uint64) {
		data = append(make([]byte, 2*4096), data...)
		tree := tree{data: data, page: 4096, end: uint64(len(data) / 4096), root: root, seen: map[uint64]bool{}}
		pairs, err := tree.pairs(root)
		if err != nil {
			return
		}
		for _, p := range pairs {
			_, _, _ = tree.bucket(p)
		}
	})
}
