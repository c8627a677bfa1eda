// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// ErrNotSupported is returned on every system but Linux.
var ErrNotSupported = fmt.Errorf("policy: nftables needs Linux: %w", errors.ErrUnsupported)

// Handle works on the table in one network namespace, over netlink. It needs CAP_NET_ADMIN
// there, CAP_SYS_ADMIN to enter another namespace, and a kernel with nf_tables and
// concatenated intervals (Linux 5.6). It is safe for concurrent use.
type Handle struct{ sys system }

// system is the operating system's part of a [Handle]. Only Linux has one.
type system interface {
	Close() error
	Apply(ctx context.Context, s State) (changed bool, err error)
	Remove(ctx context.Context) error
	Observe(ctx context.Context) (s State, ours bool, err error)
	Watch(ctx context.Context, cfg WatchConfig) error
	Denied() ([]Denied, error)
	Denials(ctx context.Context, f func(Denial)) error
}

// Open returns a handle on the network namespace at path, or on that of the calling thread
// if path is empty. The caller closes the handle. On every system but Linux Open returns
// [ErrNotSupported].
func Open(path string) (*Handle, error) {
	sys, err := open(path)
	if err != nil {
		return nil, err
	}
	return &Handle{sys: sys}, nil
}

// Close releases the namespace and leaves the table as it is. From then on every program can
// change it.
func (h *Handle) Close() error { return h.sys.Close() }

// Apply makes the table hold s, and reports whether it changed the table. Packets meet the
// old or the new content; a pod whose class changes is at no time without a class. What the
// new content denies ends at once, also for open connections, and what both allow goes on.
//
// The first Apply of a handle reads the table. Later ones compare s with what the handle has
// applied before, so that their cost does not depend on the number of boxes that stay: they
// leave changes by other programs to [Handle.Watch]. Apply returns an error that wraps
// [ErrInvalid] for a State that the kernel cannot have.
//
// From Linux 6.9 on the handle owns the table from the first Apply on: the kernel refuses
// changes by other programs, and a flush of the ruleset leaves the table alone.
func (h *Handle) Apply(ctx context.Context, s State) (changed bool, err error) {
	return h.sys.Apply(ctx, s)
}

// Observe reads the table. It returns false if the table is absent, or if it holds
// something that Apply never writes; the State then has what could be read.
func (h *Handle) Observe(ctx context.Context) (s State, ours bool, err error) {
	return h.sys.Observe(ctx)
}

// Remove deletes the table, and with it every limit. An absent table is not an error.
func (h *Handle) Remove(ctx context.Context) error { return h.sys.Remove(ctx) }

// Watch keeps the table as the last Apply or Remove of the handle has left it, until ctx
// ends, and returns the error of ctx. The kernel reports each change of nftables; Watch reads
// the table only after a report about it or when reports were lost, and repairs it within a
// few milliseconds. Before the first Apply it changes nothing. Run at most one Watch for
// each Handle.
//
// Where the kernel has owners of tables ([Handle.Apply]) there is nothing to repair. On other
// kernels a flush of the ruleset lets every packet pass until the repair: nothing of
// nftables is left then that could close the way.
func (h *Handle) Watch(ctx context.Context, cfg WatchConfig) error { return h.sys.Watch(ctx, cfg) }

// Denied returns how many packets each class has denied in each direction in which it isolates
// pods, replies included, in the order of names. The count of a class begins at 0 when its
// rules change, such as when it gets its first boxes of a family.
func (h *Handle) Denied() ([]Denied, error) { return h.sys.Denied() }

// Denials calls f with denied packets, as many as [State.LogLimit] allows, until ctx ends, and
// returns the error of ctx. The kernel allows one such call in each namespace.
func (h *Handle) Denials(ctx context.Context, f func(Denial)) error { return h.sys.Denials(ctx, f) }

// WatchConfig is the configuration of [Handle.Watch]. Its zero value is usable.
type WatchConfig struct {
	// Repaired is called after each repair, for metrics. Optional.
	Repaired func(Repair)
	// Logger gets a line for each repair. Optional.
	Logger *slog.Logger
	// Every is the time after which Watch reads the table although the kernel reported no
	// change; 0 is one minute.
	Every time.Duration
}

// Repair describes a repair by Watch.
type Repair struct {
	// Changes are the commands of nft that have undone what other programs had changed,
	// shortened.
	Changes string
	// Took is the time from the kernel's report to the end of the repair, or from the
	// beginning of the comparison if there was no report.
	Took time.Duration
	// By names the programs that changed the table, as "nft (pid 7)", if the kernel told.
	By []string
	// Fighting means that another program changed the table so often that Watch now waits
	// before it repairs it again.
	Fighting bool
	// Err is why the table could not be repaired; Watch tries again.
	Err error
}
