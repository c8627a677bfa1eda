// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath"
)

// add allocates, wires and prints. When a step fails, what was done is undone in
// the reverse order.
func add(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, c.conf.timeout())
	defer cancel()
	prev, err := parsePrevResult(c.conf.PrevResult)
	if err != nil {
		return err
	}
	if err := c.needSandbox(); err != nil {
		return err
	}
	if err := removeTombstone(c.conf.tombstones(), c.Attachment); err != nil {
		return newError(CodeIOFailure, "tombstone of an earlier DEL cannot be removed", err.Error())
	}
	h, err := datapath.Open("")
	if err != nil {
		return datapathFailure(err)
	}
	defer h.Close()
	resp, err := c.client(agentWait).Add(ctx, AddRequest{Attachment: c.Attachment, Netns: c.netns, Pod: c.pod})
	if err != nil {
		if answered := new(AgentError); errors.As(err, &answered) || errors.Is(err, ErrAgentAway) {
			return agentFailure(err)
		}
		return errors.Join(agentFailure(err), c.undo(ctx, h)) // it may still be working on it
	}
	if err := c.wire(ctx, h, prev, resp); err != nil {
		return errors.Join(err, c.undo(ctx, h))
	}
	return nil
}

// wire makes the pod that the agent's answer describes, and prints the result.
func (c *call) wire(ctx context.Context, h *datapath.Handle, prev result, resp AddResponse) error {
	p, err := c.wanted(resp)
	if err != nil {
		return err
	}
	w, err := h.AddPod(ctx, p)
	if err != nil {
		return datapathFailure(err)
	}
	r, err := addWiring(prev, c.conf.CNIVersion, c.netns, w)
	if err != nil {
		return err
	}
	return emit(c.out, r)
}

// undo takes back an ADD that failed. While the kernel does not let the pod's
// network go, the address stays with the attachment, and the runtime's DEL tries
// again.
func (c *call) undo(ctx context.Context, h *datapath.Handle) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
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
