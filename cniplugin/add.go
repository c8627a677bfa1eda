// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
)

// add allocates, wires and prints. When a step fails, what was done is undone in
// the reverse order, all before the deadline.
func add(ctx context.Context, c *call) error {
	timeout := c.conf.timeout()
	deadline := time.Now().Add(timeout)
	prev, err := parsePrevResult(c.conf.PrevResult)
	if err != nil {
		return err
	}
	if err := c.needSandbox(); err != nil {
		return err
	}
	const reserved = 10 // a tenth of the time at most
	work, cancel := context.WithDeadline(ctx, deadline.Add(-min(timeout/reserved, undoTime)))
	defer cancel()
	lock, err := lockAttachment(work, c.conf.tombstones(), c.Attachment)
	if err != nil {
		return lockFailure(err)
	}
	defer lock.unlock()
	if err := removeTombstone(c.conf.tombstones(), c.Attachment); err != nil {
		return newError(CodeIOFailure, "tombstone of an earlier DEL cannot be removed", err.Error())
	}
	h, err := datapath.Open("")
	if err != nil {
		return datapathFailure(err)
	}
	defer h.Close()
	resp, err := c.client(timeout).Add(work, AddRequest{Attachment: c.Attachment, Netns: c.netns, Pod: c.pod})
	if err != nil {
		c.note(err)
		if !unsettled(err) {
			return agentFailure(err)
		}
		return errors.Join(agentFailure(err), c.undo(ctx, h, deadline))
	}
	if err := c.wire(work, h, prev, allocation{resp, lock.since}); err != nil {
		return errors.Join(err, c.undo(ctx, h, deadline))
	}
	return nil
}

// lockFailure says why an ADD cannot have the lock of its attachment.
func lockFailure(err error) *Error {
	if errors.Is(err, errBusy) {
		return newError(CodeTryAgainLater, ReasonAttachmentBusy+": "+errBusy.Error(), "it holds the attachment's lock; is its process stopped?")
	}
	return newError(CodeIOFailure, "the attachment cannot be locked in the state directory", err.Error())
}

// unsettled reports whether the agent may have allocated addresses though Add
// returned err: it took the call, and did not refuse it.
func unsettled(err error) bool {
	if broken := (*brokenError)(nil); errors.As(err, &broken) {
		return true
	}
	answered := new(AgentError)
	return !errors.As(err, &answered) && !errors.Is(err, ErrAgentAway)
}

// allocation is the agent's answer, to an ADD that has its lock since then.
type allocation struct {
	AddResponse
	since time.Time
}

// wire makes the pod that the agent's answer describes, and prints the result.
// Before and after it confirms the allocation, which costs nothing unless the
// ADD has taken seconds: before, because what is lost need not be wired, and
// after, because only then a DEL that comes finds all there is to delete. A DEL is
// also why wiring may have failed.
func (c *call) wire(ctx context.Context, h *datapath.Handle, prev result, given allocation) error {
	p, err := c.wanted(given.AddResponse)
	if err != nil {
		return err
	}
	if err := c.confirm(ctx, given.since, given.AddResponse); err != nil {
		return err
	}
	w, failed := h.AddPod(ctx, p)
	if err := c.confirm(ctx, given.since, given.AddResponse); err != nil {
		return errors.Join(err, failed)
	}
	if failed != nil {
		return datapathFailure(failed)
	}
	r, err := addWiring(prev, c.conf.CNIVersion, c.netns, w)
	if err != nil {
		return err
	}
	return emit(c.out, r)
}

// undo takes back an ADD that failed. While the kernel does not let the pod's
// network go, the address stays with the attachment, and the runtime's DEL tries
// again. It has undoTime even if the deadline is nearer, because the process was
// stopped.
func (c *call) undo(ctx context.Context, h *datapath.Handle, deadline time.Time) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(time.Until(deadline), undoTime))
	defer cancel()
	if err := h.DelPod(ctx, c.podOf(c.Attachment, c.netns)); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	c.release(ctx, DelRequest{Attachment: c.Attachment, Pod: c.pod})
	return nil
}

// wanted turns the agent's answer into the pod that datapath shall make.
func (c *call) wanted(resp AddResponse) (datapath.Pod, error) {
	p := c.podOf(c.Attachment, c.netns)
	p.Layout = datapath.Layout(resp.Layout)
	p.MTU = cmp.Or(int(c.conf.MTU), resp.MTU)
	for _, a := range resp.Addresses {
		p.Addrs = append(p.Addrs, datapath.PodAddr{Addr: a.Addr, Table: a.Table})
	}
	if resp.HostLinkPrefix != "" && resp.HostLinkPrefix != c.conf.vethPrefix() {
		return p, newError(CodeInvalidConfig, fmt.Sprintf("invalid vethPrefix %q", c.conf.vethPrefix()),
			fmt.Sprintf("the agent has set this node up for %q", resp.HostLinkPrefix))
	}
	if err := p.Validate(); err != nil {
		return p, newError(CodeAgent, ReasonProtocol+": the agent's answer makes no pod", err.Error())
	}
	return p, nil
}
