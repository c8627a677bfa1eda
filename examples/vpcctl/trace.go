// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"github.com/vpcnet/vpcnet/datapath/trace"
	"net/netip"
)

const traceAbout = `trace explains the way of a packet from a pod, or from the node, to a destination
and the way of the answer back, decision by decision, and names what is wrong
with it. Exit status 3 means that it found a fault.

  vpcctl trace 10.0.1.23 8.8.8.8 -proto tcp -port 443
  vpcctl trace -sandbox /run/netns/cni-1234 10.0.1.23 10.0.2.7
  vpcctl trace -agent localhost:61679 default/web-0 8.8.8.8
  vpcctl trace -state saved.json 10.0.1.23 8.8.8.8

The source is an address or, with -agent, a pod as NAMESPACE/NAME. What could not
be judged stands behind NOT CHECKED: without -agent which ENI owns an address, so
that a wrong ENI may not be seen, and without -sandbox what is inside the pod. On
a live node the kernel is asked as well, as "ip route get" does. Packet filters of
other programs, as a FORWARD chain with policy drop, are named as far as they are
in nftables, and not read; services are not translated: ask about an endpoint.`

// errFault marks a trace that found a fault, which has been printed.
var errFault = errors.New("fault")

// trace runs "vpcctl trace".
func runTrace(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("trace", flag.ContinueOnError)
	var w where
	w.register(fs)
	state := fs.String("state", "", "explain the state in `file`, as \"vpcctl state save\" writes it, and not this node's")
	proto := fs.String("proto", "", "`protocol` of the packet: icmp, tcp, udp, sctp or a number; rules of other programs may go by it")
	port := fs.Uint("port", 0, "destination `port`; rules of other programs may go by it")
	link := fs.String("link", "", "host `link` the packet comes from; found by the source, or told by the agent, if empty")
	format := fs.String("o", "text", "output `format`: text or json")
	pos, err := parseMixed(fs, std, args, traceAbout, "SOURCE DESTINATION")
	if err != nil {
		return err
	}
	if len(pos) != 2 {
		return wrong(fs, std, "want a source and a destination")
	}
	if *format != "text" && *format != "json" {
		return wrong(fs, std, fmt.Sprintf("-o %q is neither text nor json", *format))
	}
	dst, err := netip.ParseAddr(pos[1])
	if err != nil {
		return wrong(fs, std, fmt.Sprintf("destination %q is no address", pos[1]))
	}
	if *port > 65535 {
		return wrong(fs, std, fmt.Sprintf("-port %d is not in 0..65535", *port))
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
	if *state == "" {
		if err := w.confirm(ctx, &path); err != nil {
			return err
		}
	}
	return printPath(std, path, *format)
}

// confirm adds the kernel's own answer where it is another.
func (w *where) confirm(ctx context.Context, path *trace.Path) error {
	faults, err := trace.Confirm(ctx, w.netns, *path)
	path.Faults = append(path.Faults, faults...)
	return err
}

func printPath(std stdio, path trace.Path, format string) error {
	if format == "json" {
		enc := json.NewEncoder(std.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(path); err != nil {
			return err
		}
	} else {
		fmt.Fprint(std.out, path)
	}
	if !path.OK() {
		return errFault
	}
	return nil
}

// address finds the source: an address, or a pod's address of dst's family.
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
		return netip.Addr{}, fmt.Errorf("%q is no address, and no pods are known: name the agent's introspection address by -agent", name)
	}
	return netip.Addr{}, fmt.Errorf("the agent knows no pod %q with an address for %s; pods are named NAMESPACE/NAME", name, dst)
}

// linkOf returns the host link of the pod with an address, if the agent knows it.
func (s saved) linkOf(a netip.Addr) string {
	for _, p := range s.Pods {
		if p.Addr == a {
			return p.Link
		}
	}
	return ""
}
