// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
)

const (
	// agentWait is how long ADD, CHECK and GC wait for an agent that is away:
	// longer than an agent needs to start, and much shorter than a runtime waits.
	agentWait = 10 * time.Second
	// releaseTimeout bounds one call that gives an address back. A tombstone is
	// as good as an answer, so nobody has to wait for a busy agent.
	releaseTimeout = 5 * time.Second
	// statusTimeout is short because runtimes ask all the time.
	statusTimeout = 5 * time.Second
)

func (c *call) client(wait time.Duration) Client {
	return Client{Socket: c.conf.AgentSocket, Wait: wait}
}

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

func (c *call) podOf(a Attachment, netns string) datapath.Pod {
	return datapath.Pod{
		ContainerID:    a.ContainerID,
		IfName:         a.IfName,
		Netns:          netns,
		HostLinkPrefix: c.conf.vethPrefix(),
	}
}

// needSandbox makes sure that CNI_NETNS is a network namespace other than the
// node's own.
func (c *call) needSandbox() error {
	switch err := checkSandbox(c.netns); {
	case errors.Is(err, datapath.ErrNoSandbox):
		return newError(CodeUnknownContainer, fmt.Sprintf("invalid CNI_NETNS %q", c.netns), err.Error())
	case err != nil:
		return newError(CodeInvalidEnvironment, fmt.Sprintf("invalid CNI_NETNS %q", c.netns), err.Error())
	}
	return nil
}

// datapathFailure gives the kernel's refusal the CNI code that fits.
func datapathFailure(err error) *Error {
	switch {
	case errors.Is(err, datapath.ErrNoSandbox):
		return newError(CodeUnknownContainer, "invalid CNI_NETNS: the sandbox is gone", err.Error())
	case errors.Is(err, datapath.ErrInterfaceTaken):
		return newError(CodeInvalidEnvironment, "invalid CNI_IFNAME: the sandbox has this interface already", err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return newError(CodeTryAgainLater, "the kernel has not finished in time", err.Error())
	}
	return newError(CodeDatapath, "network of the pod cannot be changed", err.Error())
}

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
// nothing else in the kernel leads to them. Without an answer the agent removes
// them when it is back and finds the tombstone.
func (c *call) allocated(ctx context.Context, a Attachment) []netip.Addr {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
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

// check compares what the runtime was told, what the agent holds and what the
// kernel has.
func check(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, c.conf.timeout())
	defer cancel()
	if len(c.conf.PrevResult) == 0 {
		return newError(CodeInvalidConfig, "missing prevResult", "CHECK compares with the result of ADD")
	}
	prev, err := parsePrevResult(c.conf.PrevResult)
	if err != nil {
		return err
	}
	if err := c.needSandbox(); err != nil {
		return err
	}
	resp, err := c.client(agentWait).Check(ctx, CheckRequest{c.Attachment})
	if err != nil {
		return agentFailure(err)
	}
	p, err := c.wanted(resp)
	if err != nil {
		return err
	}
	if err := c.compare(prev, p.Wiring()); err != nil {
		return err
	}
	h, err := datapath.Open("")
	if err != nil {
		return datapathFailure(err)
	}
	defer h.Close()
	if err := h.CheckPod(ctx, p); err != nil {
		if drift := (*datapath.DriftError)(nil); errors.As(err, &drift) {
			return newError(CodeCheckFailed, "network of the pod is not what ADD made", err.Error())
		}
		return datapathFailure(err)
	}
	return nil
}

// compare reports what in prev is not as ADD would make it now. What plugins
// behind this one have added to prev is theirs.
func (c *call) compare(prev result, w datapath.Wiring) error {
	differs := func(what string, was, is any) error {
		return newError(CodeCheckFailed, what+" in prevResult is not the attachment's", fmt.Sprintf("prevResult has %v, it is %v", was, is))
	}
	was, found := prev.find(w.HostLink, c.IfName, c.netns)
	if !found {
		return newError(CodeCheckFailed, "prevResult does not have the attachment",
			fmt.Sprintf("it needs interfaces %s and, in %s, %s", w.HostLink, c.netns, c.IfName))
	}
	if was.host.MAC != w.HostMAC.String() {
		return differs("MAC of "+w.HostLink, was.host.MAC, w.HostMAC)
	}
	if was.inside.MAC != w.SandboxMAC.String() {
		return differs("MAC of "+c.IfName, was.inside.MAC, w.SandboxMAC)
	}
	var addrs []netip.Addr
	for _, a := range w.Addrs {
		addrs = append(addrs, a.Addr())
	}
	for _, a := range addrs {
		if !slices.Contains(was.addrs, a) {
			return differs("address", was.addrs, addrs)
		}
	}
	return nil
}

// gc takes down what the runtime does not list. The list is what keeps running
// pods, so its absence is an error and not an empty list.
func gc(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, c.conf.timeout())
	defer cancel()
	valid, err := validAttachments(c.stdin, c.Network)
	if err != nil {
		return err
	}
	resp, err := c.client(agentWait).GC(ctx, GCRequest{Network: c.Network, Valid: valid})
	if err != nil {
		return agentFailure(err)
	}
	var errs []error
	for _, a := range resp.Stale {
		if a.Network != c.Network || slices.Contains(valid, a) {
			c.log.Error("agent calls an attachment stale that is not", "stale", a.String())
			continue
		}
		if err := c.remove(ctx, c.podOf(a, ""), nil); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return newError(CodeDatapath, fmt.Sprintf("%d stale attachments cannot be removed", len(errs)), err.Error())
	}
	return nil
}

// validAttachments reads the list under either of its names: the specification
// says cni.dev/valid-attachments in its text and cni.dev/attachments elsewhere,
// and libcni sends both.
func validAttachments(stdin []byte, network string) ([]Attachment, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &fields); err != nil {
		return nil, newError(CodeDecodingFailure, "network configuration cannot be read", err.Error())
	}
	const key, otherKey = "cni.dev/valid-attachments", "cni.dev/attachments"
	raw, ok := fields[key]
	if !ok {
		raw, ok = fields[otherKey]
	}
	if !ok {
		return nil, newError(CodeInvalidConfig, "missing "+key, "GC needs the list of attachments in use")
	}
	var list []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, newError(CodeDecodingFailure, key+" cannot be read", err.Error())
	}
	valid := make([]Attachment, 0, len(list))
	for _, a := range list {
		valid = append(valid, Attachment{Network: network, ContainerID: a.ContainerID, IfName: a.IfName})
	}
	return valid, nil
}

// status passes the agent's word on. Codes that mean something else in answer
// to STATUS become the one for a plugin that cannot serve an ADD.
func status(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	err := c.client(0).Status(ctx)
	if err == nil {
		return nil
	}
	e := agentFailure(err)
	if e.Code != CodeLimitedConnectivity {
		e.Code = CodeNotAvailable
	}
	return e
}
