// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/google/nftables"
	"github.com/vpcnet/vpcnet/internal/nft"
)

// namespace is the table in one network namespace. It implements [system].
type namespace struct {
	file   *os.File
	socket *nft.Socket

	mu      sync.Mutex
	applied applied
	closed  bool
}

// applied is the content that this handle last made the table hold.
type applied struct {
	rules Ruleset
	// count is the number of times it did.
	count int
}

// record notes that the table holds r.
func (a *applied) record(r Ruleset) { a.rules, a.count = r, a.count+1 }

// matches reports whether r is the content that this handle last made the table
// hold. Before the first time every content matches.
func (a *applied) matches(r Ruleset) bool { return a.count == 0 || a.rules.Equal(r) }

func open(path string) (system, error) {
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("snat: %w", err)
	}
	n := &namespace{file: file, socket: nft.New(file)}
	// The first connection shows whether the namespace can be entered. A kernel without
	// nftables has an empty table, and Apply says what it lacks.
	if err := n.socket.Do(func(*nftables.Conn) error { return nil }); err != nil && !errors.Is(err, nft.ErrMissing) {
		return nil, errors.Join(fmt.Errorf("snat: %w", explain(err)), n.Close())
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

// exclusively calls fn, which works on a table, while no other call uses or closes the
// namespace.
func (n *namespace) exclusively(ctx context.Context, table string, fn func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.closed {
		return fmt.Errorf("snat: handle: %w", os.ErrClosed)
	}
	if err := fn(); err != nil {
		return fmt.Errorf("snat: table inet %s: %w", table, explain(err))
	}
	return nil
}

// explain adds the needed capabilities to a permission error.
func explain(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: CAP_NET_ADMIN in the namespace is needed, and CAP_SYS_ADMIN to enter another one", err)
	}
	return err
}

func (n *namespace) Apply(ctx context.Context, r Ruleset) (changed bool, err error) {
	err = n.exclusively(ctx, tableName, func() error {
		have, err := n.read(ctx)
		if err != nil {
			return err
		}
		if have.Equal(r) {
			n.applied.record(r)
			return nil
		}
		changed = true
		return n.replace(have, r)
	})
	return changed && err == nil, err
}

func (n *namespace) Observe(ctx context.Context) (r Ruleset, err error) {
	err = n.exclusively(ctx, tableName, func() (err error) {
		r, err = n.read(ctx)
		return err
	})
	return r, err
}

func (n *namespace) Edit(ctx context.Context, table string, edit func(have Ruleset) Ruleset) (changed bool, err error) {
	err = n.exclusively(ctx, table, func() error {
		t, err := n.socket.Table(ctx, table)
		if err != nil {
			return err
		}
		have := Ruleset{t}
		want := edit(have)
		if want.Equal(have) {
			return nil
		}
		changed = true
		return explainReplace(n.socket.Change(have.table, want.table))
	})
	return changed && err == nil, err
}

// explainReplace adds to an error which parts of the kernel the tables need.
func explainReplace(err error) error {
	return nft.ExplainReplace(err, "nf_tables with fib, ct and nat for family inet (Linux 5.2)")
}

// read reads the table. The caller holds n.mu.
func (n *namespace) read(ctx context.Context) (Ruleset, error) {
	t, err := n.socket.Table(ctx, tableName)
	return Ruleset{t}, err
}

// replace makes the table, which holds have, hold r. The caller holds n.mu.
func (n *namespace) replace(have, r Ruleset) error {
	t := r.table
	t.Name = tableName // an empty Ruleset has none
	if err := n.socket.Change(have.table, t); err != nil {
		return explainReplace(err)
	}
	n.applied.record(r)
	return nil
}

// appliedCount returns the number of times that this handle made the table hold
// something.
func (n *namespace) appliedCount() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.applied.count
}
