// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/datapath"
)

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
