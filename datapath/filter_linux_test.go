// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/nft"
	"golang.org/x/sys/unix"
)

// filtered returns a lab whose node has its filter, and the node's state.
func filtered(t *testing.T) (*lab, netstate.State) {
	t.Helper()
	l := newLab(t, datapath.Flat)
	if err := l.h.EnsureNode(t.Context(), *l.n); err != nil {
		t.Fatal(err)
	}
	whole, err := l.h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(whole.Filter.Chains) == 0 {
		t.Fatal("the node has no filter")
	}
	return l, whole
}

// TestObserveWhileTableChanges: what is seen of a table that comes and goes is
// the table or none, and no error.
func TestObserveWhileTableChanges(t *testing.T) {
	l, whole := filtered(t)
	stop := make(chan struct{})
	var changer sync.WaitGroup
	changer.Go(func() {
		for {
			for _, op := range []netstate.Op{netstate.OpDelete, netstate.OpAdd} {
				select {
				case <-stop:
					return
				default:
				}
				if err := l.h.Apply(t.Context(), []netstate.Change{{Op: op, Item: whole.Filter}}); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	defer changer.Wait()
	defer close(stop)
	seen := map[bool]int{}
	for n := 0; n < 10000 && (seen[true] < 200 || seen[false] < 200); n++ {
		have, err := l.h.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		there := len(have.Filter.Chains) > 0
		seen[there]++
		// Between the requests of one look a table may be replaced by its like.
		if diff := cmp.Diff(whole.Filter.String(), have.Filter.String()); there && diff != "" {
			t.Fatalf("half a table (-want +got):\n%s", diff)
		}
	}
	if len(seen) < 2 {
		t.Errorf("seen with and without the table: %v", seen)
	}
}

// TestApplyAfterError: of a change that is refused, or that no rule can be made of,
// nothing goes with the next one.
func TestApplyAfterError(t *testing.T) {
	l, whole := filtered(t)
	first := whole.Filter.Sources[0]
	bad := first
	bad.Chain = "missing"
	err := l.h.Apply(t.Context(), []netstate.Change{{Op: netstate.OpDelete, Item: first}, {Op: netstate.OpAdd, Item: bad}})
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("Apply of an element without its chain = %v, want ENOENT", err)
	}
	odd := whole.Filter
	odd.Chains = append(slices.Clone(odd.Chains), netstate.Chain{Name: "odd", Rules: []netstate.FilterRule{nft.ParseRule("no rule of nft")}})
	if err := l.h.Apply(t.Context(), []netstate.Change{{Op: netstate.OpAdd, Item: odd}}); !errors.Is(err, datapath.ErrInvalid) {
		t.Errorf("Apply of a rule that is not known = %v, want ErrInvalid", err)
	}
	if err := l.h.Apply(t.Context(), []netstate.Change{{Op: netstate.OpDelete, Item: first}}); err != nil {
		t.Fatal(err)
	}
	have, err := l.h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := whole.Filter
	want.Sources = want.Sources[1:]
	if diff := cmp.Diff(want.String(), have.Filter.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestForeignTables: tables of others, and ones of our name in other families,
// stay out of what is observed.
func TestForeignTables(t *testing.T) {
	l := newLab(t, datapath.Flat)
	on(t, l.node, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.AddTable(&nftables.Table{Name: netstate.FilterTable, Family: nftables.TableFamilyIPv4})
		other := c.AddTable(&nftables.Table{Name: "other", Family: nftables.TableFamilyINet})
		c.AddChain(&nftables.Chain{Table: other, Name: "sources"})
		return c.Flush()
	})
	have, err := l.h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(netstate.Filter{}.String(), have.Filter.String()); diff != "" {
		t.Errorf("foreign tables are taken for ours:\n%s", diff)
	}
}
