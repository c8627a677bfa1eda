// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/trace"
)

const traceAbout = `trace explains the way of a packet from a pod, or from the node, to a destination
and the way of the answer back, decision by decision, and names the faults. Exit
status 3 means that it found a fault.

  vpcctl trace 10.0.1.23 8.8.8.8 -proto tcp -port 443
  vpcctl trace -sandbox /run/netns/cni-1234 10.0.1.23 10.0.2.7
  vpcctl trace -agent localhost:61679 default/web-0 8.8.8.8
  vpcctl trace -state saved.json 10.0.1.23 8.8.8.8

The source is an address or, with -agent, a pod as NAMESPACE/NAME. NOT CHECKED lists
what trace cannot check: without -agent which ENI owns an address, so that it may
miss a wrong ENI, and without -sandbox the inside of the pod. On a live node trace
also asks the kernel, as "ip route get" does. It names packet filters of other
programs in nftables, such as a FORWARD chain with policy drop, but does not evaluate
them. It does not translate services: use the address of an endpoint.`

// errFault is the error for a fault that was found and printed.
var errFault = errors.New("fault")

// trace runs "vpcctl trace".
func runTrace(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("trace", flag.ContinueOnError)
	var w where
	w.register(fs)
	state := fs.String("state", "", "use the state in `file`, written by \"vpcctl state save\", instead of this node's")
	proto := fs.String("proto", "", "`protocol` of the packet, for rules that match it: icmp, tcp, udp, sctp or a number")
	port := fs.Uint("port", 0, "destination `port`, for rules that match it")
	link := fs.String("link", "", "host `link` from which the packet comes; empty means that of the source")
	out := outputFlag(fs, formatText, formatJSON, formatYAML)
	pos, err := parseMixed(fs, std, args, traceAbout, "SOURCE DESTINATION")
	if err != nil {
		return err
	}
	if len(pos) != 2 {
		return wrong(fs, std, fmt.Sprintf("%d arguments, want a source and a destination", len(pos)))
	}
	dst, err := netip.ParseAddr(pos[1])
	if err != nil {
		return wrong(fs, std, fmt.Sprintf("destination %q is not an address", pos[1]))
	}
	if *port > 65535 {
		return wrong(fs, std, fmt.Sprintf("-port %d: want 0 to 65535", *port))
	}
	s, err := w.read(ctx, *state)
	if err != nil {
		return err
	}
	src, err := s.address(pos[0], dst)
	if err != nil {
		return err
	}
	flow := trace.Flow{Src: src, Dst: dst, HostLink: *link, Proto: *proto, Port: uint16(*port)}
	if err := flow.Validate(); err != nil {
		return wrong(fs, std, err.Error())
	}
	if flow.HostLink == "" {
		flow.HostLink = s.linkOf(src)
	}
	path := trace.Trace(s.View, flow)
	if *state == "" && w.bundle == "" {
		if err := w.confirm(ctx, &path); err != nil {
			return err
		}
	}
	text, err := json.Marshal(path)
	if err != nil {
		return err
	}
	if err := out.print(std.out, json.RawMessage(text), func() { fmt.Fprint(std.out, path) }); err != nil {
		return err
	}
	if !path.OK() {
		return errFault
	}
	return nil
}

// confirm asks the kernel for its decisions and adds faults where they differ.
func (w *where) confirm(ctx context.Context, path *trace.Path) error {
	faults, err := trace.Confirm(ctx, w.netns, *path)
	path.Faults = append(path.Faults, faults...)
	return err
}

// address returns the source by its name: an address, or a pod, which stands for its
// address of the family of dst.
func (s saved) address(name string, dst netip.Addr) (netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return a, nil
	}
	for _, p := range s.Pods {
		if p.Namespace+"/"+p.Pod == name && p.Addr.Is4() == dst.Is4() {
			return p.Addr, nil
		}
	}
	if len(s.Pods) == 0 {
		return netip.Addr{}, fmt.Errorf("%q is not an address, and no pods are known; use -agent for pods", name)
	}
	return netip.Addr{}, fmt.Errorf("the agent has no pod %q with an address of the family of %s; pods are named NAMESPACE/NAME", name, dst)
}

// linkOf returns the host link of the pod with the address, or "".
func (s saved) linkOf(a netip.Addr) string {
	for _, p := range s.Pods {
		if p.Addr == a {
			return p.Link
		}
	}
	return ""
}
