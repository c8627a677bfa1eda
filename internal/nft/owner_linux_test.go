// SPDX-License-Identifier: Apache-2.0

package nft_test

import (
	"errors"
	"os"
	"testing"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// TestOwned has another program flush the ruleset, delete an owned table and change it.
// After the end of the owner another socket takes the table over as it is.
func TestOwned(t *testing.T) {
	ns, s, _ := monitored(t)
	want := everything()
	want.Owned = true
	replace(t, s, want)
	got := read(t, s)
	if !got.Owned {
		t.Log("this kernel has no tables that outlive their owner: the table has no owner")
		want.Owned = false
	}
	if !got.Equal(want) {
		t.Fatalf("written:\n%s", got)
	}
	if !want.Owned {
		return
	}
	run(t, ns, "flush ruleset")
	for _, script := range []string{
		"delete table inet ours", "flush chain inet ours first", "add rule inet ours first accept",
		"add element inet ours four { 203.0.113.0/24 }", "add table inet ours { flags dormant; }",
	} {
		if err := try(t, ns, script); err == nil {
			t.Errorf("another program could %s", script)
		}
	}
	if got := read(t, s); !got.Equal(want) {
		t.Errorf("another program changed the table:\n%s", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	orphan := want
	orphan.Orphan = true
	if got := read(t, s); !got.Equal(orphan) {
		t.Errorf("after the end of the owner:\n%s", got)
	}

	f, err := os.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	next := nft.New(f)
	t.Cleanup(func() {
		if err := errors.Join(next.Close(), f.Close()); err != nil {
			t.Error(err)
		}
	})
	before := handle(t, next)
	changed := everything()
	changed.Owned, changed.Chains[1].Rules = true, []nft.Rule{nft.NewRule(nft.Drop{})}
	if err := next.Change(orphan, changed); err != nil {
		t.Fatal(err)
	}
	if got := read(t, next); !got.Equal(changed) || handle(t, next) != before {
		t.Errorf("the next owner has changed it to:\n%s", got)
	}
	if err := s.Change(changed, want); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a change by the owner before: %v, want %v", err, os.ErrPermission)
	}
	if err := next.Change(changed, nft.Table{Name: "ours"}); err != nil || !read(t, next).IsEmpty() {
		t.Errorf("deletion: %v", err)
	}
}

// TestOwnedInThePlace makes an owned table in the place of one without an owner, and the
// other way around.
func TestOwnedInThePlace(t *testing.T) {
	s := socket(t)
	for _, owned := range []bool{false, true, false} {
		have := read(t, s)
		want := nft.Table{Name: "ours", Owned: owned, Chains: []nft.Chain{{Name: "c", Rules: []nft.Rule{nft.NewRule(nft.Drop{})}}}}
		if err := s.Change(have, want); err != nil {
			t.Fatal(err)
		}
		got := read(t, s)
		if owned && !got.Owned {
			t.Log("this kernel has no tables that outlive their owner")
			want.Owned = false
		}
		if !got.Equal(want) {
			t.Errorf("owned %t:\n%s", owned, got)
		}
	}
}
