// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// effects are the operations of a mode on the kernel that differ between modes.
type effects interface {
	// refuse returns ErrAddressTaken if another pod has a link that the pod needs in
	// addition to its veth pair. links are the links of the node by name.
	refuse(p Pod, links map[string]rtnl.Link) error
	// place creates the links of an addition, or moves them to where the pod needs them.
	// It sets addition.made before the first change. It gives links that DelPod must find
	// their aliases before it uses them.
	place(ctx context.Context, a *addition) error
	// ready returns when the pod's interface can send.
	ready(ctx context.Context, a *addition) error
	// release removes, or returns to the node, what the mode has in addition to the veth
	// pair, and succeeds if there is nothing. A DEL of a pod that may have more than a
	// veth pair calls release of every mode, because it may know only the pod's key.
	release(ctx context.Context, d *deletion) error
}

// resolvePod finds the links of the pod's ENIs by MAC. The node has no link of an ENI that
// has already moved into the sandbox.
func (h *kernel) resolvePod(ctx context.Context, p Pod) (Pod, error) {
	if len(p.mode().enis()) == 0 {
		return p, nil
	}
	if r, err := p.Resolve(nil); err == nil {
		return r, nil
	}
	var links []netstate.Link
	err := h.withConn(ctx, func(c *rtnl.Conn) error {
		o, err := c.ObserveLinks()
		links = o.Links
		return err
	})
	if err != nil {
		return p, err
	}
	r, err := p.Resolve(links)
	if errors.Is(err, ErrNoLink) && r.peer() == "" {
		return r, nil
	}
	return r, err
}
