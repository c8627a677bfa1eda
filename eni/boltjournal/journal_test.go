// SPDX-License-Identifier: Apache-2.0

package boltjournal_test

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/bbolt"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/boltjournal"
)

// open opens the journal at path and closes it when the test ends, or before
// by the function it returns.
func open(t *testing.T, path string) (*bbolt.DB, *boltjournal.Journal) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	j, err := boltjournal.New(db)
	if err != nil {
		t.Fatal(err)
	}
	return db, j
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.db")
	block := netip.MustParsePrefix("10.0.0.16/28")
	made := eni.ENI{ID: "eni-1", Addr: netip.MustParseAddr("10.0.0.5"), Prefixes: []netip.Prefix{block}, Tags: map[string]string{"a": "b"}}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	first := eni.Intent{ID: "1", Op: eni.OpProvision, Start: at, Changed: at, Created: at, Made: &made, Blocks: []netip.Prefix{block}, Card: 1, Device: 2}
	second := eni.Intent{ID: "2", Op: eni.OpRetire, ENI: "eni-2"}

	db, j := open(t, path)
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
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, j = open(t, path)
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
	path := filepath.Join(t.TempDir(), "agent.db")
	db, j := open(t, path)
	if err := j.Put(t.Context(), eni.Intent{}); err == nil {
		t.Error("stored an intent without ID")
	}
	err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("eni-intents")).Put([]byte("1"), []byte("{half"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := j.All(t.Context()); err == nil {
		t.Errorf("garbage is taken for %v", got)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Put(t.Context(), eni.Intent{ID: "1"}); err == nil {
		t.Error("stored in a closed file")
	}
	if err := j.Remove(t.Context(), "1"); err == nil {
		t.Error("removed from a closed file")
	}
	if _, err := boltjournal.New(db); err == nil {
		t.Error("opened a closed file")
	}
}
