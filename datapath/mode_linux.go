// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// effects are what a mode does in the kernel that is not the same for all modes.
type effects interface {
	// refuse returns ErrAddressTaken if a further link of the pod belongs to another pod.
	// links are those of the node by name.
	refuse(p Pod, links map[string]rtnl.Link) error
	// place makes the links of an addition, or moves them to where the pod needs them.
	// It sets addition.made before it makes anything. Links that DelPod must find have
	// their aliases before they are of use.
	place(ctx context.Context, a *addition) error
	// ready returns when the pod's interface can send.
	ready(ctx context.Context, a *addition) error
	// release takes away, or gives back, what the mode has beside the veth pair. It is
	// called in every mode for each DEL of a pod that may have more than a veth pair,
	// because such a DEL may know nothing but the pod's key. It succeeds if there is
	// nothing.
	release(ctx context.Context, d *deletion) error
}

// resolvePod finds the links of the pod's ENIs by MAC. A link that moves may be in the
// sandbox already, so that the node has none.
func (h *kernel) resolvePod(ctx context.Context, p Pod) (Pod, error) {
	if len(p.mode().enis()) == 0 {
		return p, nil
	}
	if r, err := p.Resolve(nil); err == nil {
		return r, nil
	}
	var links []netstate.Link
	err := h.withConn(ctx, func(c *rtnl.Conn) error {
		o, err := rtnl.DumpLinks(c)
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
