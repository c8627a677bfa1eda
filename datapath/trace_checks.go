// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
)

// forwarding checks that the node is a router. For IPv4 the setting of the link
// that the packet comes by decides, which the node's own sets when it is written.
func (t *tracer) forwarding(l *leg) {
	if l.in == "" {
		return
	}
	key := "net.ipv4.ip_forward"
	if l.dst.Is6() {
		key = "net.ipv6.conf.all.forwarding"
	}
	value := t.v.Node.sysctl(key)
	link := linkSysctl("ipv4", l.in, "forwarding", "").Key
	if own := t.v.Node.sysctl(link); l.dst.Is4() && own != "" && own != value {
		key, value = link, own
	}
	if value == "0" {
		t.fault(FaultNoForwarding, "%s is 0", key)
	}
}

// deliver follows a packet to a pod of this node.
func (t *tracer) deliver(l *leg, link string) end {
	if !t.usable(l, link) || !t.port(l.dst, link) {
		return end{}
	}
	n, ok := t.v.Node.neighbor(link, l.dst)
	if !ok {
		t.fault(FaultNoNeighbor, "no permanent entry for pod %s on %s", l.dst, link)
		return end{}
	}
	l.hop(link, "delivers it to the pod", n.String())
	want := ""
	if p, ok := t.v.podWith(l.dst); ok {
		want = p.SandboxMAC().String()
	}
	if s := t.v.Sandbox; s != nil && s.hasAddress(l.dst) {
		want = podMAC(*s, l.dst, n.MAC)
	} else {
		t.note(NoteSandbox, "what is inside the pod with %s", l.dst)
	}
	if want != "" && want != n.MAC {
		t.fault(FaultStaleNeighbor, "the node sends to MAC %s, but pod %s has %s", n.MAC, l.dst, want)
		return end{}
	}
	return end{reached: true, pod: link}
}

// podMAC returns the MAC at which a sandbox takes packets for its address: that
// of the link that has it or, beside an ipvlan link, of the veth pair.
func podMAC(s State, a netip.Addr, like string) string {
	holder, _ := s.link(s.holder(a))
	if holder.Kind != "ipvlan" {
		return holder.MAC
	}
	mac := ""
	for _, l := range s.Links {
		if l.Kind == "veth" && (mac == "" || l.MAC == like) {
			mac = l.MAC
		}
	}
	return mac
}

// reverse applies reverse path filtering, which only IPv4 has: strict filtering
// drops a packet if the way back to its sender is another link, and loose
// filtering if there is none. The kernel looks for that way as if the answer came
// by the link that the packet shall leave by, and without its mark.
func (t *tracer) reverse(l *leg, out string) bool {
	if l.in == "" || l.src.Is6() {
		return true
	}
	key := linkSysctl("ipv4", l.in, "rp_filter", "").Key
	mode := max(t.v.Node.sysctl(key), t.v.Node.sysctl("net.ipv4.conf.all.rp_filter"))
	v := t.v.Node.lookup(query{src: l.dst, dst: l.src, iif: out, proto: l.proto})
	if mode == "" || mode == "0" || v.by(l.in) {
		return true
	}
	if isVLANLink(out) && isStrictLink(l.in) {
		t.explain(&leg{query: query{dst: l.src}}, t.dueTo(l.src, l.in, out), v)
	}
	if mode == "2" {
		bare := !slices.ContainsFunc(t.v.Node.Addresses, func(a Address) bool { return a.Link == l.in && a.Prefix.Addr().Is4() })
		if v.found && !v.local && !v.refuses() && !bare {
			return true
		}
		t.fault(FaultNoReverse, "%s drops what comes from %s: reverse path filtering is %s, and the way to it is %s", l.in, l.src, mode, v)
		return false
	}
	t.fault(FaultStrictReverse, "%s drops what comes from %s: reverse path filtering is %s, and without a mark the way to it is %s", l.in, l.src, mode, v)
	return false
}
