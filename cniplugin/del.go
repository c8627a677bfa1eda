// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin/internal/statedir"
	"github.com/vpcnet/vpcnet/datapath"
)

// del succeeds even if parts of the pod or all of it are missing already. It fails
// only if the kernel does not delete the pod's network, because then the address
// is still in use.
func del(ctx context.Context, c *call) error {
	defer c.lockForDel(ctx)()
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	p := c.podOf(c.Attachment, c.netns)
	if err := checkSandbox(c.netns); err != nil {
		p.Netns = "" // the sandbox is gone, or is the node's namespace, in which DEL deletes nothing
	}
	// A prevResult that cannot be read must not prevent the DEL.
	prev, _ := parsePrevResult(c.conf.PrevResult, c.conf.CNIVersion)
	was, _ := prev.find(p.HostLink(), c.IfName, c.netns)
	return c.remove(ctx, p, was.addrs, prev.further(func(ifName string) string { return c.podOf(c.further(ifName), "").HostLink() }, c.IfName, c.netns))
}

// lockForDel waits for the lock of the attachment, for at most lockWait: the
// holder may be stopped, and the state directory may be unusable. If another
// command holds the lock, lockForDel writes a tombstone and the DEL goes on
// without the lock. If the holder is an ADD that is resumed later, this DEL
// deletes everything that the ADD wired before the tombstone, and the ADD finds
// the tombstone and undoes everything that it wires afterwards.
func (c *call) lockForDel(ctx context.Context) (unlock func()) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	lock, err := statedir.Acquire(ctx, c.conf.tombstones(), c.Attachment.String())
	if err == nil {
		return lock.Release
	}
	c.log.Warn("deleting without the lock of the attachment", "err", err)
	if errors.Is(err, statedir.ErrBusy) {
		c.unlocked = true
		c.leaveTombstone(c.Attachment)
	}
	return func() {}
}

// remove deletes p from the kernel and then releases its addresses. The kernel
// comes first, because an address must not be allocated to another pod while it
// still leads to this one. If the sandbox still exists, remove only takes everything
// from the link, and deletes the link later unless the agent answers that it will.
func (c *call) remove(ctx context.Context, p datapath.Pod, addrs []netip.Addr, further map[string][]netip.Addr) error {
	a := Attachment{Network: c.Network, ContainerID: p.ContainerID, IfName: p.IfName}
	if len(addrs) == 0 {
		addrs, further = c.allocated(ctx, a)
	}
	pods := []datapath.Pod{p}
	for _, ifName := range slices.Sorted(maps.Keys(further)) {
		pods = append(pods, c.podOf(Attachment{a.Network, a.ContainerID, ifName}, p.Netns))
	}
	for i := range pods {
		if i > 0 {
			addrs = further[pods[i].IfName]
		}
		for _, addr := range addrs {
			pods[i].Addrs = append(pods[i].Addrs, datapath.PodAddr{Addr: addr})
		}
	}
	h, err := c.openKernel()
	if err != nil {
		return datapathFailure(err)
	}
	defer h.Close()
	// A path that does not lead to the sandbox says nothing about its interface names, so
	// that only a deleted link is out of the way for the next ADD.
	end := h.RetirePod
	if p.Netns == "" || !h.retires() {
		end = h.DelPod
	}
	for _, p := range pods {
		if err := end(ctx, p); err != nil {
			return datapathFailure(err)
		}
	}
	// An earlier DEL may have been killed after it retired the link, so the agent sweeps
	// after each DEL.
	if c.release(ctx, DelRequest{Attachment: a, Pod: c.pod, Retired: h.retires()}).Sweeps || !h.retires() {
		return nil
	}
	if err := h.Sweep(ctx); err != nil {
		return datapathFailure(err)
	}
	return nil
}

// allocated asks the agent which addresses an attachment and its further interfaces have,
// for a DEL without a
// prevResult. Rules by address outlive the sandbox, and then nothing else in the
// kernel leads to them. Without an answer they stay until the agent sweeps, which
// it does when it starts.
func (c *call) allocated(ctx context.Context, a Attachment) (addrs []netip.Addr, further map[string][]netip.Addr) {
	if c.agentStuck {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	resp, err := c.client(0).Check(ctx, CheckRequest{a})
	if err != nil {
		c.recordTimeout(err)
		c.log.Debug("addresses of the attachment are unknown", "err", err)
		return nil, nil
	}
	further = map[string][]netip.Addr{}
	for _, i := range resp.Interfaces {
		further[i.IfName] = addrsOf(AddResponse{Addresses: i.Addresses})
	}
	return addrsOf(resp), further
}

// release asks the agent to release addresses, and writes a tombstone if the
// agent does not answer. If the tombstone cannot be written, the agent still
// releases the addresses when it compares its allocations with the sandboxes that
// exist. The runtime could do nothing about such an error, so it goes to the log
// only.
func (c *call) release(ctx context.Context, req DelRequest) DelResponse {
	wait := releaseTimeout
	if c.agentStuck {
		wait = stuckTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	resp, err := c.client(0).Del(ctx, req)
	if e := (*AgentError)(nil); err == nil || errors.As(err, &e) && e.Code == CodeUnknownContainer {
		if c.unlocked {
			return resp // the tombstone is for the holder of the lock, which has not seen it yet
		}
		if err := removeTombstone(c.conf.tombstones(), req.Attachment); err != nil {
			c.log.Warn("tombstone of an earlier command cannot be removed", "err", err)
		}
		return resp
	}
	c.recordTimeout(err)
	if c.plugin.Allocator != nil {
		c.releaseErr = errors.Join(c.releaseErr, CNIError(err))
		return DelResponse{}
	}
	c.log.Warn("agent has not released the addresses; leaving a tombstone", "err", err)
	c.leaveTombstone(req.Attachment)
	return DelResponse{}
}

func (c *call) leaveTombstone(a Attachment) {
	if err := WriteTombstone(c.conf.tombstones(), Tombstone{Attachment: a, At: time.Now()}); err != nil {
		c.log.Error("tombstone cannot be written", "err", err)
	}
}
