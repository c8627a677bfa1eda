// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/google/nftables"
)

// KeeperConfig is the configuration of a [Keeper].
type KeeperConfig struct {
	// Path is the path of the network namespace; empty means that of the calling thread.
	Path string
	// Package is the name of the package that begins the errors, and Table that of the table.
	Package, Table string
	// Needs names the parts of the kernel that the table needs, and Rights what the process
	// needs, for the errors.
	Needs, Rights string
}

// Keeper makes a table of family inet in one network namespace hold what its package wants,
// and knows what it has held last by its doing. [Keeper.Watch] undoes the changes of other
// programs. It is safe for concurrent use.
type Keeper struct {
	cfg    KeeperConfig
	file   *os.File
	socket *Socket

	mu      sync.Mutex
	closed  bool
	applied Table
	// count is the number of times that applied was recorded.
	count int
}

// NewKeeper opens the namespace. It changes nothing. A kernel without nftables has no table,
// and the first change says what it lacks. The caller closes the keeper.
func NewKeeper(cfg KeeperConfig) (*Keeper, error) {
	path := cfg.Path
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Package, err)
	}
	k := &Keeper{cfg: cfg, file: file, socket: New(file)}
	// The first connection shows whether the namespace can be entered.
	if err := k.socket.Do(func(*nftables.Conn) error { return nil }); err != nil && !errors.Is(err, ErrMissing) {
		return nil, errors.Join(fmt.Errorf("%s: %w", cfg.Package, k.explain(err)), k.Close())
	}
	return k, nil
}

// Close releases the namespace and leaves the table as it is. Further calls do nothing.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil
	}
	k.closed = true
	return errors.Join(k.socket.Close(), k.file.Close())
}

// explain adds what the process needs to a permission error.
func (k *Keeper) explain(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: %s", err, k.cfg.Rights)
	}
	return err
}

// Exclusively calls fn while no other call uses or closes the keeper. Errors of fn begin with
// the name of the table that it works on: that of the keeper, or another one.
func (k *Keeper) Exclusively(ctx context.Context, table string, fn func(*Held) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if k.closed {
		return fmt.Errorf("%s: handle: %w", k.cfg.Package, os.ErrClosed)
	}
	if err := fn(&Held{k}); err != nil {
		return fmt.Errorf("%s: table inet %s: %w", k.cfg.Package, table, k.explain(err))
	}
	return nil
}

// Applied returns the content that the table has held last by the keeper's doing, and false
// before the first time.
func (k *Keeper) Applied() (Table, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.applied, k.count > 0
}

// Held is a keeper that no other call uses. It is valid until the function returns that has
// got it.
type Held struct{ k *Keeper }

// Applied is [Keeper.Applied].
func (h *Held) Applied() (Table, bool) { return h.k.applied, h.k.count > 0 }

// Read reads a table.
func (h *Held) Read(ctx context.Context, table string) (Table, error) {
	return h.k.socket.Table(ctx, table)
}

// Change is [Socket.Change]. Its error names the parts of the kernel that are missing.
func (h *Held) Change(have, want Table) error {
	return ExplainReplace(h.k.socket.Change(have, want), h.k.cfg.Needs)
}

// Record notes that the table holds t by the keeper's doing.
func (h *Held) Record(t Table) { h.k.applied, h.k.count = t, h.k.count+1 }

// Replace makes the table, which holds have, hold want, and records it.
func (h *Held) Replace(have, want Table) error {
	want.Name = h.k.cfg.Table // an empty table of a package may have none
	if err := h.Change(have, want); err != nil {
		return err
	}
	h.Record(want)
	return nil
}
