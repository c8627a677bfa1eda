// SPDX-License-Identifier: Apache-2.0

package snat

import "context"

// Handle works on the table in one network namespace, over netlink. It needs
// CAP_NET_ADMIN there, CAP_SYS_ADMIN to enter another namespace, and a kernel with
// nf_tables and nat for family inet (Linux 5.2). It is safe for concurrent use.
type Handle struct{ sys system }

// system is the operating system's part of a [Handle]. Only Linux has one.
type system interface {
	Close() error
	Apply(ctx context.Context, r Ruleset) (changed bool, err error)
	Observe(ctx context.Context) (Ruleset, error)
	Watch(ctx context.Context, cfg WatchConfig) error
	// Edit reads a table and makes it what edit returns, and reports whether it changed it.
	Edit(ctx context.Context, table string, edit func(have Ruleset) Ruleset) (changed bool, err error)
}

// Open returns a handle on the network namespace at path, or on that of the calling
// thread if path is empty. The caller closes the handle. On every system but Linux
// Open returns [ErrNotSupported].
func Open(path string) (*Handle, error) {
	sys, err := open(path)
	if err != nil {
		return nil, err
	}
	return &Handle{sys: sys}, nil
}

// Close releases the namespace and leaves the rules as they are.
func (h *Handle) Close() error { return h.sys.Close() }

// Apply makes the table hold r, in one transaction, and reports whether it changed
// the table; if the table holds r already, Apply leaves it alone. Existing flows keep
// their translation and their mark. Apply repairs earlier changes by other programs
// without reporting them; only [Handle.Watch] does that.
func (h *Handle) Apply(ctx context.Context, r Ruleset) (changed bool, err error) {
	return h.sys.Apply(ctx, r)
}

// Observe reads the table; an absent table is an empty Ruleset. A part of the table
// that this package never writes is a comment in the text of the Ruleset, and makes it
// differ from the Ruleset of every [Config].
func (h *Handle) Observe(ctx context.Context) (Ruleset, error) { return h.sys.Observe(ctx) }

// Remove deletes the table. An absent table is not an error.
func (h *Handle) Remove(ctx context.Context) error {
	_, err := h.sys.Apply(ctx, Ruleset{})
	return err
}

// Watch keeps the table equal to what cfg.Desired returns, until ctx ends, and returns
// the error of ctx. The kernel reports each change of nftables; Watch reads the table
// only after a report about it or when reports were lost, and replaces a table that
// differs in one transaction, within a few milliseconds. Existing flows keep their
// translation. Watch never changes other tables.
//
// Apply and Remove of the same Handle are not changes by other programs: Watch neither
// reports nor undoes them, unless Desired returns something else by then. Run at most
// one Watch for each Handle.
func (h *Handle) Watch(ctx context.Context, cfg WatchConfig) error { return h.sys.Watch(ctx, cfg) }
