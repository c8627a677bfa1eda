// SPDX-License-Identifier: Apache-2.0

package filejournal_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/filejournal"
)

var _ eni.Intents = (*filejournal.Journal)(nil)

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "intents.json")
	open := func() *filejournal.Journal {
		t.Helper()
		j, err := filejournal.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	block := netip.MustParsePrefix("10.0.0.16/28")
	made := eni.ENI{ID: "eni-1", Addr: netip.MustParseAddr("10.0.0.5"), Prefixes: []netip.Prefix{block}, Tags: map[string]string{"a": "b"}}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	first := eni.Intent{ID: "1", Op: eni.OpProvision, Start: at, Changed: at, Created: at, Made: &made, Blocks: []netip.Prefix{block}, Card: 1, Device: 2}
	second := eni.Intent{ID: "2", Op: eni.OpRetire, ENI: "eni-2"}

	j := open()
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
	got, err := open().All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]eni.Intent{first, second}, got, cmp.Comparer(same[netip.Prefix]), cmp.Comparer(same[netip.Addr])); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}

	// A crash while writing leaves the other file, which nobody reads.
	if err := os.WriteFile(path+".new", []byte("{half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := open().All(t.Context()); err != nil || len(got) != 2 {
		t.Errorf("after a crash: %d intents, %v", len(got), err)
	}
}

func same[T comparable](a, b T) bool { return a == b }

func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"garbage": "{", "newer": `{"Version": 99}`} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := filejournal.Open(path); err == nil {
			t.Errorf("%s is taken for a journal", name)
		}
	}
	j, err := filejournal.Open(filepath.Join(dir, "missing", "intents.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Put(t.Context(), eni.Intent{ID: "1"}); err == nil {
		t.Error("stored in a directory that is not there")
	}
	if got, _ := j.All(t.Context()); len(got) != 0 {
		t.Errorf("%d intents although none could be stored", len(got))
	}
}
