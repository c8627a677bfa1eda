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

// applyFilter carries out changes of the nftables table in one transaction.
func (h *kernel) applyFilter(changes []netstate.Change) error {
	err := h.nft.Update(func(tx *nft.Tx) error { return addFilter(tx, changes) })
	switch {
	case err == nil || onlyGone(changes, err):
		return nil
	case errors.Is(err, nft.ErrForeign):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return fmt.Errorf("%s: %w", changes[0], err)
}

// addFilter adds changes to a transaction.
func addFilter(tx *nft.Tx, changes []netstate.Change) error {
	for i := 0; i < len(changes); {
		if f, ok := changes[i].Item.(netstate.Filter); ok {
			if changes[i].Op == netstate.OpDelete {
				f = netstate.Filter{}
			}
			if err := tx.Replace(f.Table()); err != nil {
				return err
			}
			i++
			continue
		}
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
