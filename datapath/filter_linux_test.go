// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vpcnet/vpcnet/datapath"
	"golang.org/x/sys/unix"
)

// TestObserveWhileTableChanges: what is seen of a table that comes and goes is
// the table or none, and no error.
func TestObserveWhileTableChanges(t *testing.T) {
	l := newLab(t, datapath.Flat)
	if err := l.h.EnsureNode(t.Context(), l.n); err != nil {
		t.Fatal(err)
	}
	whole, err := l.h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(whole.Filter.Chains) == 0 {
		t.Fatal("the node has no filter")
	}
	stop := make(chan struct{})
	var changer sync.WaitGroup
	changer.Go(func() {
		for {
			for _, op := range []datapath.Op{datapath.OpDelete, datapath.OpAdd} {
				select {
				case <-stop:
					return
				default:
				}
				if err := l.h.Apply(t.Context(), []datapath.Change{{Op: op, Item: whole.Filter}}); err != nil {
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

// TestSocketAfterError: a refused change leaves nothing behind that the next
// call takes for its answer.
func TestSocketAfterError(t *testing.T) {
	l := newLab(t, datapath.Flat)
	if err := l.h.EnsureNode(t.Context(), l.n); err != nil {
		t.Fatal(err)
	}
	whole, err := l.h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bad := whole.Filter.Sources[0]
	bad.Chain = "missing"
	for range 3 {
		err := l.h.Apply(t.Context(), []datapath.Change{
			{Op: datapath.OpDelete, Item: whole.Filter.Sources[0]},
			{Op: datapath.OpAdd, Item: bad},
			{Op: datapath.OpDelete, Item: whole.Filter.Sources[0]},
		})
		if !errors.Is(err, unix.ENOENT) {
			t.Fatalf("Apply = %v, want ENOENT", err)
		}
		have, err := l.h.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(whole.Filter.String(), have.Filter.String()); diff != "" {
			t.Fatalf("after a refused change (-want +got):\n%s", diff)
		}
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
		c.AddTable(&nftables.Table{Name: datapath.FilterTable, Family: nftables.TableFamilyIPv4})
		other := c.AddTable(&nftables.Table{Name: "other", Family: nftables.TableFamilyINet})
		c.AddChain(&nftables.Chain{Table: other, Name: "sources"})
		return c.Flush()
	})
	have, err := l.h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(datapath.Filter{}.String(), have.Filter.String()); diff != "" {
		t.Errorf("foreign tables are taken for ours:\n%s", diff)
	}
}
