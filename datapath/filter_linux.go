// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/nft"
)

// observeFilter reads the nftables table.
func (h *kernel) observeFilter(ctx context.Context) (netstate.Filter, error) {
	t, err := h.nft.Table(ctx, netstate.FilterTable)
	return netstate.FilterOf(t), err
}

// applyFilter makes the nftables table f, or deletes it.
func (h *kernel) applyFilter(ctx context.Context, op netstate.Op, f netstate.Filter) error {
	if op == netstate.OpDelete {
		f = netstate.Filter{}
	}
	have, err := h.nft.Table(ctx, netstate.FilterTable)
	if err != nil {
		return err
	}
	return explainFilter(netstate.Change{Op: op, Item: f}, h.nft.Change(have, f.Table()))
}

// applySources carries out changes of the elements of the maps in one transaction.
func (h *kernel) applySources(changes []netstate.Change) error {
	err := h.nft.Update(func(tx *nft.Tx) error { return addSources(tx, changes) })
	if onlyGone(changes, err) {
		return nil
	}
	return explainFilter(changes[0], err)
}

// explainFilter adds the change to the error of a transaction with it.
func explainFilter(ch netstate.Change, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nft.ErrForeign):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	case isFilter(ch):
		return fmt.Errorf("table inet %s: %w", netstate.FilterTable, nft.ExplainReplace(err, "nf_tables with fib for family inet (modules nf_tables and nft_fib_inet)"))
	}
	return fmt.Errorf("%s: %w", ch, err)
}

// isFilter reports whether a change replaces the table or deletes it.
func isFilter(c netstate.Change) bool {
	_, ok := c.Item.(netstate.Filter)
	return ok
}

// addSources adds changes to a transaction.
func addSources(tx *nft.Tx, changes []netstate.Change) error {
	for i := 0; i < len(changes); {
		m := elementsAtHead(changes[i:])
		change := tx.AddElements
		if changes[i].Op == netstate.OpDelete {
			change = tx.DeleteElements
		}
		if err := change(netstate.FilterTable, m); err != nil {
			return err
		}
		i += len(m.Elements)
	}
	return nil
}

// elementsAtHead returns the elements at the head of changes that belong to one map and
// have one operation.
func elementsAtHead(changes []netstate.Change) nft.Set {
	var m nft.Set
	for i, ch := range changes {
		s, ok := ch.Item.(netstate.Source)
		if !ok || ch.Op != changes[0].Op {
			break
		}
		next := s.SourceMap()
		if i == 0 {
			m = next
		} else if next.Name != m.Name {
			break
		} else {
			m.Elements = append(m.Elements, next.Elements...)
		}
	}
	return m
}

// onlyGone reports whether all changes are deletions and one failed because the item
// was already gone.
func onlyGone(changes []netstate.Change, err error) bool {
	for _, ch := range changes {
		if ch.Op != netstate.OpDelete {
			return false
		}
	}
	return errors.Is(err, unix.ENOENT)
}
