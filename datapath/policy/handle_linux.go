// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/vpcnet/vpcnet/internal/nft"
)

// namespace is the table in one network namespace. It implements [system].
type namespace struct {
	file   *os.File
	socket *nft.Socket
	// plain makes tables without an owner, as on kernels that have no owners.
	plain bool

	mu     sync.Mutex
	closed bool
	// applied is the table as this handle has left it, nil before the first time.
	applied *nft.Table
}

func open(path string) (system, error) {
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	n := &namespace{file: file, socket: nft.New(file)}
	// The first connection shows whether the namespace can be entered. A kernel without
	// nftables has no table, and Apply says what it lacks.
	if err := n.socket.Do(func(*nftables.Conn) error { return nil }); err != nil && !errors.Is(err, nft.ErrMissing) {
		return nil, errors.Join(fmt.Errorf("policy: %w", explain(err)), n.Close())
	}
	return n, nil
}

func (n *namespace) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	return errors.Join(n.socket.Close(), n.file.Close())
}

// exclusively calls fn while no other call uses or closes the namespace.
func (n *namespace) exclusively(ctx context.Context, fn func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.closed {
		return fmt.Errorf("policy: handle: %w", os.ErrClosed)
	}
	if err := fn(); err != nil {
		return fmt.Errorf("policy: table inet %s: %w", tableName, explain(err))
	}
	return nil
}

// explain adds the needed capabilities to a permission error.
func explain(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: CAP_NET_ADMIN in the namespace is needed, CAP_SYS_ADMIN to enter another one, and that no other process owns the table", err)
	}
	return err
}

func (n *namespace) Apply(ctx context.Context, s State) (changed bool, err error) {
	if err := s.validate(); err != nil {
		return false, err
	}
	err = n.exclusively(ctx, func() error {
		have, err := n.known(ctx)
		if err != nil {
			return err
		}
		if !have.IsEmpty() && !have.Owned { // made on this kernel, which has no owners
			n.plain = true
		}
		want := s.table()
		want.Owned = !n.plain
		if changed = nft.Differ(have, want); !changed {
			n.applied = &want
			return nil
		}
		return n.change(ctx, have, want)
	})
	return changed && err == nil, err
}

// known returns the table as this handle has left it, or before the first time the kernel's.
func (n *namespace) known(ctx context.Context) (nft.Table, error) {
	if n.applied != nil {
		return *n.applied, nil
	}
	return n.socket.Table(ctx, tableName)
}

// change makes the table want, which is have. The caller holds n.mu.
//
// New chains come first, in a transaction of their own. The kernel chooses the old or the
// new rules for a packet when the packet enters the hook, but looks in a map for elements
// that are valid at the time of the lookup: a packet that meets the end of the transaction
// could find the way to a new chain and pass through the old form of it, which is empty.
func (n *namespace) change(ctx context.Context, have, want nft.Table) error {
	if between := prepared(have, want); !have.IsEmpty() && nft.Differ(have, between) {
		if err := n.socket.Change(have, between); err != nil {
			return explainChange(err)
		}
		have = between
		n.applied = &have
	}
	if err := n.socket.Change(have, want); err != nil {
		return explainChange(err)
	}
	if want.Owned && n.applied == nil {
		// The kernel may have no owners of tables.
		t, err := n.socket.Table(ctx, tableName)
		if err != nil {
			return err
		}
		want.Owned, n.plain = t.Owned, !t.Owned
	}
	n.applied = &want
	return nil
}

// prepared returns have with the chains and sets that only want has.
func prepared(have, want nft.Table) nft.Table {
	t := have
	t.Owned, t.Orphan = want.Owned, false
	t.Chains, t.Sets = slices.Clone(have.Chains), slices.Clone(have.Sets)
	for _, k := range want.Chains {
		if !slices.ContainsFunc(have.Chains, func(h nft.Chain) bool { return h.Name == k.Name }) {
			t.Chains = append(t.Chains, k)
		}
	}
	for _, s := range want.Sets {
		if !slices.ContainsFunc(have.Sets, func(h nft.Set) bool { return h.Name == s.Name }) {
			if s.IsMap {
				s.Elements = nil
			}
			t.Sets = append(t.Sets, s)
		}
	}
	return t
}

// explainChange adds to an error which parts of the kernel the table needs.
func explainChange(err error) error {
	return nft.ExplainReplace(err, "nf_tables with ct and concatenated intervals for family inet (Linux 5.6)")
}

func (n *namespace) Observe(ctx context.Context) (s State, ours bool, err error) {
	err = n.exclusively(ctx, func() error {
		t, err := n.socket.Table(ctx, tableName)
		if err == nil {
			s, ours = stateOf(t)
		}
		return err
	})
	return s, ours, err
}

func (n *namespace) Remove(ctx context.Context) error {
	return n.exclusively(ctx, func() error {
		have, err := n.socket.Table(ctx, tableName)
		none := nft.Table{Name: tableName}
		if err == nil && !have.IsEmpty() {
			err = n.socket.Change(have, none)
		}
		if err == nil {
			n.applied = &none
		}
		return err
	})
}
