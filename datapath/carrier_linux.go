// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"

	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// waitENI waits for the link of a whole ENI in its sandbox, which is h's.
func (h *Handle) waitENI(ctx context.Context, name string) error {
	link, err := h.findLink(ctx, name)
	if err == nil {
		err = h.withConn(ctx, func(c *rtnl.Conn) error { return rtnl.WaitRunning(ctx, c, link.Index) })
	}
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return nil
}

// waitPair waits for both ends of a pod's veth pair: Watch may have set up the
// host side before AddPod came to the sandbox side.
func (h *Handle) waitPair(ctx context.Context, inside *Handle, link rtnl.Link) error {
	err := inside.withConn(ctx, func(c *rtnl.Conn) error { return rtnl.WaitRunning(ctx, c, link.PeerIndex) })
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return h.withConn(ctx, func(c *rtnl.Conn) error { return rtnl.WaitRunning(ctx, c, link.Index) })
}
