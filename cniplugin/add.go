// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin/internal/statedir"
	"github.com/vpcnet/vpcnet/datapath"
)

// add allocates addresses, wires the pod and prints the result. When a step
// fails, add undoes the earlier steps in reverse order before the deadline.
func add(ctx context.Context, c *call) error {
	timeout := c.conf.timeout()
	deadline := time.Now().Add(timeout)
	prev, err := parsePrevResult(c.conf.PrevResult, c.conf.CNIVersion)
	if err != nil {
		return err
	}
	if err := c.validateSandbox(); err != nil {
		return err
	}
	const reserved = 10 // undo gets at most a tenth of the time
	work, cancel := context.WithDeadline(ctx, deadline.Add(-min(timeout/reserved, undoTime)))
	defer cancel()
	lock, err := statedir.Acquire(work, c.conf.tombstones(), c.Attachment.String())
	if err != nil {
		return lockFailure(err)
	}
	defer lock.Release()
	if err := removeTombstone(c.conf.tombstones(), c.Attachment); err != nil {
		return &Error{Code: CodeIOFailure, Msg: "tombstone of an earlier DEL cannot be removed", Details: err.Error()}
	}
	h, err := c.openKernel()
	if err != nil {
		return datapathFailure(err)
	}
	defer h.Close()
	resp, err := c.client(timeout).Add(work, AddRequest{
		Attachment: c.Attachment, Netns: c.netns, Pod: c.pod, Addrs: c.wants.addrs, MAC: c.wants.macText(), Annotations: c.wants.annotations,
		Interfaces: c.plugin.Wiring == nil, Modes: c.plugin.Wiring == nil,
		Mode: c.conf.Mode, SecurityGroups: c.wants.groups, Enforcement: c.conf.Enforcement,
	})
	if err != nil {
		c.recordTimeout(err)
		if !mayHaveAllocated(err) {
			return CNIError(err)
		}
		return errors.Join(CNIError(err), c.undo(ctx, h, deadline, nil))
	}
	if err := c.wire(work, h, prev, allocation{resp, lock.Since}); err != nil {
		return errors.Join(err, c.undo(ctx, h, deadline, resp.Interfaces))
	}
	return nil
}

// lockFailure returns the CNI error of an ADD that did not get the lock of its
// attachment.
func lockFailure(err error) *Error {
	if errors.Is(err, statedir.ErrBusy) {
		return &Error{
			Code: CodeTryAgainLater, Msg: ReasonAttachmentBusy + ": " + statedir.ErrBusy.Error(),
			Details: "it holds the lock of the attachment; check whether its process is stopped",
		}
	}
	return &Error{Code: CodeIOFailure, Msg: "the attachment cannot be locked in the state directory", Details: err.Error()}
}

// mayHaveAllocated reports whether the agent may have allocated addresses although
// Add returned err: the agent received the call and did not refuse it.
func mayHaveAllocated(err error) bool {
	if broken := (*brokenError)(nil); errors.As(err, &broken) {
		return true
	}
	answered := new(AgentError)
	return !errors.As(err, &answered) && !errors.Is(err, ErrAgentAway)
}

// allocation is the agent's answer to an ADD, and the time since when the ADD has
// held the lock of its attachment.
type allocation struct {
	AddResponse
	lockedSince time.Time
}

// wire wires the pod that the agent's answer describes, and prints the result. It
// confirms the allocation before and after wiring, which costs nothing unless the
// ADD has taken seconds. The first check avoids wiring addresses that are lost.
// The second check covers a DEL that ran before there was anything to delete.
// Such a DEL can also be the reason why wiring failed.
func (c *call) wire(ctx context.Context, h *kernel, prev result, given allocation) error {
	pods, err := c.desiredPods(given.AddResponse)
	if err == nil {
		err = c.wants.checkAddrs(given.AddResponse)
	}
	if err != nil {
		return err
	}
	if err := c.confirm(ctx, given); err != nil {
		return err
	}
	made := make([]*Result, len(pods))
	var failed error
	for i, p := range pods {
		if made[i], failed = h.add(ctx, p, given.AddResponse); failed != nil {
			break
		}
	}
	if err := c.confirm(ctx, given); err != nil {
		return errors.Join(err, failed)
	}
	if failed != nil {
		return datapathFailure(failed)
	}
	r := prev
	for _, m := range made {
		if r, err = r.add(m, c.conf.CNIVersion); err != nil {
			return err
		}
	}
	return r.write(c.out, c.conf.CNIVersion)
}

// undo reverts an ADD that failed. If the kernel does not delete the pod's
// network, the attachment keeps its address, and the runtime's DEL tries again.
// undo has undoTime even if the deadline is closer, because the process may have
// been stopped.
func (c *call) undo(ctx context.Context, h *kernel, deadline time.Time, further []Interface) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(time.Until(deadline), undoTime))
	defer cancel()
	pods := []datapath.Pod{c.podOf(c.Attachment, c.netns)}
	for _, i := range further {
		pods = append(pods, c.podOf(c.further(i.IfName), c.netns))
	}
	for _, p := range pods {
		if err := h.DelPod(ctx, p); err != nil {
			return fmt.Errorf("undo: %w", err)
		}
	}
	c.release(ctx, DelRequest{Attachment: c.Attachment, Pod: c.pod})
	return nil
}

// desiredPod returns the pod that datapath should wire for the agent's answer.
func (c *call) desiredPod(resp AddResponse) (datapath.Pod, error) {
	p := c.podOf(c.Attachment, c.netns)
	p.Layout = datapath.Layout(resp.Layout)
	p.MTU = cmp.Or(c.conf.MTU, resp.MTU)
	p.MAC, p.Mode = c.wants.mac, resp.Mode
	for _, a := range resp.Addresses {
		p.Addrs = append(p.Addrs, datapath.PodAddr{Addr: a.Addr, Table: a.Table})
	}
	if c.plugin.Wiring != nil {
		return p, nil
	}
	if resp.HostLinkPrefix != "" && resp.HostLinkPrefix != c.conf.vethPrefix() {
		return p, &Error{
			Code: CodeInvalidConfig, Msg: fmt.Sprintf("invalid vethPrefix %q", c.conf.vethPrefix()),
			Details: fmt.Sprintf("the agent uses %q on this node, want the same", resp.HostLinkPrefix),
		}
	}
	if err := p.Validate(); err != nil {
		return p, invalidAnswer(err)
	}
	return p, nil
}

// further returns the attachment of another interface of the same pod.
func (c *call) further(ifName string) Attachment {
	return Attachment{Network: c.Network, ContainerID: c.ContainerID, IfName: ifName}
}

// desiredPods returns the pod that datapath should wire for the agent's answer, and then
// one for each further interface.
func (c *call) desiredPods(resp AddResponse) ([]datapath.Pod, error) {
	first, err := c.desiredPod(resp)
	pods, names := []datapath.Pod{first}, map[string]bool{c.IfName: true}
	for _, i := range resp.Interfaces {
		if err != nil {
			return nil, err
		}
		if c.plugin.Wiring != nil || names[i.IfName] {
			return nil, invalidAnswer(fmt.Errorf("further interface %q: it was not asked for, or is there twice", i.IfName))
		}
		names[i.IfName] = true
		p := c.podOf(c.further(i.IfName), c.netns)
		p.Layout, p.MTU = first.Layout, first.MTU
		for _, a := range i.Addresses {
			p.Addrs = append(p.Addrs, datapath.PodAddr{Addr: a.Addr, Table: a.Table})
		}
		if err = p.Validate(); err != nil {
			err = invalidAnswer(fmt.Errorf("further interface: %w", err))
		}
		pods = append(pods, p)
	}
	return pods, err
}

func invalidAnswer(err error) *Error {
	return &Error{Code: CodeAgent, Msg: ReasonProtocol + ": the agent's answer does not describe a valid pod", Details: err.Error()}
}
