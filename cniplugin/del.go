// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
)

// del succeeds whatever is missing already. Only a kernel that refuses to let
// the pod's network go makes it fail, because then the address is still in use.
func del(ctx context.Context, c *call) error {
	p := c.podOf(c.Attachment, c.netns)
	if err := checkSandbox(c.netns); err != nil {
		p.Netns = "" // gone, or the node's own, in which nothing is to be deleted
	}
	// A prevResult that cannot be read is no reason to keep a pod.
	prev, _ := parsePrevResult(c.conf.PrevResult)
	was, _ := prev.find(p.HostLink(), c.IfName, c.netns)
	return c.remove(ctx, p, was.addrs)
}

// remove takes p out of the kernel and gives its addresses back. The kernel
// comes first: an address must not go to another pod while it still leads here.
// Of a sandbox that lives, the link is only cut off, and deleted afterwards if
// the agent does not say that it will.
func (c *call) remove(ctx context.Context, p datapath.Pod, addrs []netip.Addr) error {
	a := Attachment{Network: c.Network, ContainerID: p.ContainerID, IfName: p.IfName}
	if len(addrs) == 0 {
		addrs = c.allocated(ctx, a)
	}
	for _, addr := range addrs {
		p.Addrs = append(p.Addrs, datapath.PodAddr{Addr: addr})
	}
	h, err := datapath.Open("")
	if err != nil {
		return datapathFailure(err)
	}
	defer h.Close()
	if p.Netns == "" {
		if err := h.DelPod(ctx, p); err != nil {
			return datapathFailure(err)
		}
		c.release(ctx, DelRequest{Attachment: a, Pod: c.pod})
		return nil
	}
	if err := h.RetirePod(ctx, p); err != nil {
		return datapathFailure(err)
	}
	if c.release(ctx, DelRequest{Attachment: a, Pod: c.pod, Retired: true}).Sweeps {
		return nil
	}
	if err := h.DelPod(ctx, p); err != nil {
		return datapathFailure(err)
	}
	return nil
}

// allocated asks the agent which addresses an attachment has. It is asked when
// the runtime does not say: rules by address outlive the sandbox, and then
// nothing else in the kernel leads to them. Without an answer they stay until the
// agent sweeps, which it does when it starts.
func (c *call) allocated(ctx context.Context, a Attachment) []netip.Addr {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	resp, err := c.client(0).Check(ctx, CheckRequest{a})
	if err != nil {
		c.log.Debug("agent does not say what the attachment has", "err", err)
		return nil
	}
	var addrs []netip.Addr
	for _, held := range resp.Addresses {
		addrs = append(addrs, held.Addr)
	}
	return addrs
}

// release gives addresses back, or leaves a tombstone from which the agent will
// learn it. If not even that can be written, the agent still finds out when it
// compares its allocations with the sandboxes that exist; the runtime could do
// no more about it, so it is told in the log only.
func (c *call) release(ctx context.Context, req DelRequest) DelResponse {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	dir := c.conf.tombstones()
	resp, err := c.client(0).Del(ctx, req)
	if e := (*AgentError)(nil); err == nil || errors.As(err, &e) && e.Code == CodeUnknownContainer {
		if err := removeTombstone(dir, req.Attachment); err != nil {
			c.log.Warn("tombstone of an earlier command cannot be removed", "err", err)
		}
		return resp
	}
	c.log.Warn("agent has not taken the addresses back; leaving a tombstone", "err", err)
	if err := WriteTombstone(dir, Tombstone{Attachment: req.Attachment, At: time.Now()}); err != nil {
		c.log.Error("tombstone cannot be written", "err", err)
	}
	return DelResponse{}
}
