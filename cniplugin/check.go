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

// check compares the result that ADD gave to the runtime, the addresses that the
// agent has allocated, and the state of the kernel.
func check(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, c.conf.timeout())
	defer cancel()
	if len(c.conf.PrevResult) == 0 {
		return &Error{Code: CodeInvalidConfig, Msg: "missing prevResult", Details: "CHECK compares with the result of ADD"}
	}
	prev, err := parsePrevResult(c.conf.PrevResult, c.conf.CNIVersion)
	if err != nil {
		return err
	}
	if err := c.validateSandbox(); err != nil {
		return err
	}
	resp, err := c.client(agentWait).Check(ctx, CheckRequest{c.Attachment})
	layouts := []datapath.Layout{datapath.Layout(resp.Layout)}
	if errors.Is(err, errNoMethod) {
		resp, err = c.recorded(prev), nil
		layouts = []datapath.Layout{datapath.PerPod, datapath.Flat} // which one ADD used is not recorded
	}
	if err != nil {
		return CNIError(err)
	}
	pods, err := c.desiredPods(resp)
	if err != nil {
		return err
	}
	if c.plugin.Wiring == nil {
		for _, p := range pods {
			if err := c.compare(prev, p.Wiring()); err != nil {
				return err
			}
		}
	}
	h, err := c.openKernel()
	if err != nil {
		return datapathFailure(err)
	}
	defer h.Close()
	for _, p := range pods {
		for _, p.Layout = range layouts {
			if err = h.CheckPod(ctx, p, resp); err == nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		if drift := (*datapath.DriftError)(nil); errors.As(err, &drift) {
			return &Error{Code: CodeCheckFailed, Msg: "network of the pod differs from what ADD made", Details: err.Error()}
		}
		return datapathFailure(err)
	}
	return nil
}

// recorded returns the response of an Allocator without Check, as far as the result
// of ADD has it.
func (c *call) recorded(prev result) (resp AddResponse) {
	was, _ := prev.find(c.podOf(c.Attachment, c.netns).HostLink(), c.IfName, c.netns)
	for _, addr := range was.addrs {
		resp.Addresses = append(resp.Addresses, Address{Addr: addr})
	}
	return resp
}

// compare returns an error if prev differs from what ADD would print now. It
// ignores what later plugins in the chain have added to prev.
func (c *call) compare(prev result, w datapath.Wiring) error {
	differs := func(what string, was, is any) error {
		return &Error{
			Code: CodeCheckFailed, Msg: what + " in prevResult differs from the attachment's",
			Details: fmt.Sprintf("prevResult has %v, want %v", was, is),
		}
	}
	was, found := prev.find(w.HostLink, w.SandboxLink, c.netns)
	if !found {
		return &Error{
			Code: CodeCheckFailed, Msg: "prevResult does not have the attachment",
			Details: fmt.Sprintf("want interface %s and, in %s, interface %s", w.HostLink, c.netns, w.SandboxLink),
		}
	}
	if was.host.MAC != w.HostMAC.String() {
		return differs("MAC of "+w.HostLink, was.host.MAC, w.HostMAC)
	}
	if was.inside.MAC != w.SandboxMAC.String() {
		return differs("MAC of "+w.SandboxLink, was.inside.MAC, w.SandboxMAC)
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
