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
	defer c.lockPatiently(ctx)()
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	p := c.podOf(c.Attachment, c.netns)
	if err := checkSandbox(c.netns); err != nil {
		p.Netns = "" // gone, or the node's own, in which nothing is to be deleted
	}
	// A prevResult that cannot be read is no reason to keep a pod.
	prev, _ := parsePrevResult(c.conf.PrevResult)
	was, _ := prev.find(p.HostLink(), c.IfName, c.netns)
	return c.remove(ctx, p, was.addrs)
}

// lockPatiently waits for the lock of the attachment, but not for ever: its
// holder may be stopped, and the state directory may be unusable. For the holder,
// should it be an ADD that goes on, there is a tombstone before anything is
// deleted: what that ADD has wired by the time of the tombstone, this DEL deletes,
// and what it wires afterwards, it takes back itself.
func (c *call) lockPatiently(ctx context.Context) (unlock func()) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	lock, err := lockAttachment(ctx, c.conf.tombstones(), c.Attachment)
	if err == nil {
		return lock.unlock
	}
	c.log.Warn("deleting without the lock of the attachment", "err", err)
	if errors.Is(err, errBusy) {
		c.overtaking = true
		c.leaveTombstone(c.Attachment)
	}
	return func() {}
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
	if c.stuck {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	resp, err := c.client(0).Check(ctx, CheckRequest{a})
	if err != nil {
		c.note(err)
		c.log.Debug("agent does not say what the attachment has", "err", err)
		return nil
	}
	return addrsOf(resp)
}

// release gives addresses back, or leaves a tombstone from which the agent will
// learn it. If not even that can be written, the agent still finds out when it
// compares its allocations with the sandboxes that exist; the runtime could do
// no more about it, so it is told in the log only.
func (c *call) release(ctx context.Context, req DelRequest) DelResponse {
	wait := releaseTimeout
	if c.stuck {
		wait = stuckTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	resp, err := c.client(0).Del(ctx, req)
	if e := (*AgentError)(nil); err == nil || errors.As(err, &e) && e.Code == CodeUnknownContainer {
		if c.overtaking {
			return resp // the holder of the lock has not seen the tombstone yet
		}
		if err := removeTombstone(c.conf.tombstones(), req.Attachment); err != nil {
			c.log.Warn("tombstone of an earlier command cannot be removed", "err", err)
		}
		return resp
	}
	c.note(err)
	c.log.Warn("agent has not taken the addresses back; leaving a tombstone", "err", err)
	c.leaveTombstone(req.Attachment)
	return DelResponse{}
}

func (c *call) leaveTombstone(a Attachment) {
	if err := WriteTombstone(c.conf.tombstones(), Tombstone{Attachment: a, At: time.Now()}); err != nil {
		c.log.Error("tombstone cannot be written", "err", err)
	}
}
