// SPDX-License-Identifier: Apache-2.0

package datapath

import "context"

// Handle works on the network of one namespace. It is safe for concurrent use.
type Handle struct{}

// Open opens the namespace at path, or that of the calling thread if path is
// empty.
func Open(path string) (*Handle, error) { return nil, ErrNotSupported }

// Close releases the handle's descriptors.
func (h *Handle) Close() error { return nil }

// Observe reads the whole state of the namespace, ours and others'.
func (h *Handle) Observe(ctx context.Context) (State, error) { return State{}, ErrNotSupported }

// Apply carries out changes in order and stops at the first that fails.
func (h *Handle) Apply(ctx context.Context, changes []Change) error { return ErrNotSupported }

// EnsureNode makes the namespace's network what n wants, whatever it was, and
// verifies it; pods stay as they are. It changes nothing where nothing differs.
// ENIs' links are found by MAC; ErrNoLink means that one is not there yet.
func (h *Handle) EnsureNode(ctx context.Context, n Node) error { return ErrNotSupported }

// RemoveENI takes the ENI with that ID out of n and out of service: its
// addresses, routes, rules and sources go and its link goes down. It succeeds if
// the link or the ENI is gone already.
func (h *Handle) RemoveENI(ctx context.Context, n Node, id string) error { return ErrNotSupported }

// AddPod wires p. Repeating it gives the same answer and repairs what differs.
// On failure it leaves nothing behind.
func (h *Handle) AddPod(ctx context.Context, p Pod) (Wiring, error) { return Wiring{}, ErrNotSupported }

// DelPod removes everything of p that AddPod made. It needs only ContainerID
// and IfName, works when the sandbox is gone, and succeeds when nothing is left.
func (h *Handle) DelPod(ctx context.Context, p Pod) error { return ErrNotSupported }

// CheckPod returns a *DriftError if p is not wired as AddPod would.
func (h *Handle) CheckPod(ctx context.Context, p Pod) error { return ErrNotSupported }
