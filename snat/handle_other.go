// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package snat

import "context"

// Handle works on the tables of one network namespace.
type Handle struct{}

// Open returns a handle on the network namespace at path, on the current one if
// path is empty. The caller closes it.
func Open(path string) (*Handle, error) { return nil, ErrNotSupported }

// Close lets go of the namespace and leaves the rules as they are.
func (h *Handle) Close() error { return nil }

// Apply makes the table hold r, in one transaction. It changes nothing if that
// is so already, and reports whether it changed something. Flows that exist keep
// their translation.
func (h *Handle) Apply(ctx context.Context, r Ruleset) (changed bool, err error) {
	return false, ErrNotSupported
}

// Observe reads the table; an absent one is an empty Ruleset.
func (h *Handle) Observe(ctx context.Context) (Ruleset, error) { return Ruleset{}, ErrNotSupported }

// Remove deletes the table. It is no error if there is none.
func (h *Handle) Remove(ctx context.Context) error { return ErrNotSupported }

// Watch keeps the table as cfg.Desired wants it until ctx ends.
func (h *Handle) Watch(ctx context.Context, cfg WatchConfig) error { return ErrNotSupported }
