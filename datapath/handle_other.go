// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package datapath

import (
	"context"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Handle works on the network of one namespace; here it cannot be opened.
type Handle struct{}

// Open returns [ErrNotSupported].
func Open(string) (*Handle, error) { return nil, ErrNotSupported }

// Close does nothing.
func (h *Handle) Close() error { return nil }

// Observe returns [ErrNotSupported].
func (h *Handle) Observe(context.Context) (netstate.State, error) {
	return netstate.State{}, ErrNotSupported
}

// Apply returns [ErrNotSupported].
func (h *Handle) Apply(context.Context, []netstate.Change) error { return ErrNotSupported }

// EnsureNode returns [ErrNotSupported].
func (h *Handle) EnsureNode(context.Context, Node) error { return ErrNotSupported }

// Ensure returns [ErrNotSupported].
func (h *Handle) Ensure(context.Context, Desired) error { return ErrNotSupported }

// RemoveENI returns [ErrNotSupported].
func (h *Handle) RemoveENI(context.Context, Node, string) error { return ErrNotSupported }

// AddPod returns [ErrNotSupported].
func (h *Handle) AddPod(context.Context, Pod) (Wiring, error) { return Wiring{}, ErrNotSupported }

// DelPod returns [ErrNotSupported].
func (h *Handle) DelPod(context.Context, Pod) error { return ErrNotSupported }

// CheckPod returns [ErrNotSupported].
func (h *Handle) CheckPod(context.Context, Pod) error { return ErrNotSupported }

// RetirePod returns [ErrNotSupported].
func (h *Handle) RetirePod(context.Context, Pod) error { return ErrNotSupported }

// Sweep returns [ErrNotSupported].
func (h *Handle) Sweep(context.Context) error { return ErrNotSupported }

// Watch returns [ErrNotSupported].
func (h *Handle) Watch(context.Context, WatchConfig) error { return ErrNotSupported }

// InUse returns [ErrNotSupported].
func (h *Handle) InUse(context.Context, []netip.Prefix) ([]Use, error) { return nil, ErrNotSupported }

// LookupAddrs returns [ErrNotSupported].
func (h *Handle) LookupAddrs(context.Context, []netip.Addr) ([]Use, error) {
	return nil, ErrNotSupported
}

// HostLinks returns [ErrNotSupported].
func (h *Handle) HostLinks(context.Context) (map[string]bool, error) { return nil, ErrNotSupported }

// SandboxID returns [ErrNotSupported].
func SandboxID(string) (uint64, error) { return 0, ErrNotSupported }
