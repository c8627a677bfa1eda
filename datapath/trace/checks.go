// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// forwarding checks that the node forwards packets. In IPv4 the setting of the link by
// which the packet comes in decides. Writing the global setting also sets those of all
// links.
func (t *tracer) forwarding(l *leg) {
	if l.in == "" {
		return
	}
	key := "net.ipv4.ip_forward"
	if l.Dst.Is6() {
		key = "net.ipv6.conf.all.forwarding"
	}
	value := t.v.Node.Sysctl(key)
	link := netstate.LinkSysctl("ipv4", l.in, "forwarding", "").Key
	if own := t.v.Node.Sysctl(link); l.Dst.Is4() && own != "" && own != value {
		key, value = link, own
	}
	if value == "0" {
		t.fault(FaultNoForwarding, "%s is 0", key)
	}
}

// deliver follows a packet to a pod of this node.
func (t *tracer) deliver(l *leg, link string) end {
	if !t.usable(l, link) || !t.port(l.Dst, link) {
		return end{}
	}
	n, ok := t.v.Node.Neighbor(link, l.Dst)
	if !ok {
		t.fault(FaultNoNeighbor, "no permanent entry for pod %s on %s", l.Dst, link)
		return end{}
	}
	l.hop(link, "delivers it to the pod", n.String())
	want := ""
	if p, ok := t.v.podWith(l.Dst); ok {
		want = p.SandboxMAC().String()
	}
	if s := t.v.Sandbox; s != nil && s.HasAddress(l.Dst) {
		want = podMAC(*s, l.Dst, n.MAC)
	} else {
		t.note(NoteSandbox, "what is inside the pod with %s", l.Dst)
	}
	if want != "" && want != n.MAC {
		t.fault(FaultStaleNeighbor, "the node sends to MAC %s, but pod %s has %s", n.MAC, l.Dst, want)
		return end{}
	}
	return end{reached: true, pod: link}
}

// podMAC returns the MAC at which a sandbox receives packets from the node for one of its
// addresses: the MAC of the link that has the address or, if that is an ipvlan link, of
// the veth pair.
func podMAC(s netstate.State, a netip.Addr, like string) string {
	holder, _ := s.Link(s.Holder(a))
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

// reverse applies reverse path filtering, which exists in IPv4 only. Strict filtering
// drops a packet if the route back to its source uses another link than the one it came
// in by; loose filtering drops it if there is no route back. The kernel looks that route
// up without the packet's mark, as if the answer came in by the link by which the packet
// is going to leave.
func (t *tracer) reverse(l *leg, out string) bool {
	if l.in == "" || l.Src.Is6() {
		return true
	}
	key := netstate.LinkSysctl("ipv4", l.in, "rp_filter", "").Key
	mode := max(t.v.Node.Sysctl(key), t.v.Node.Sysctl("net.ipv4.conf.all.rp_filter"))
	v := t.v.Node.Lookup(netstate.Query{Src: l.Dst, Dst: l.Src, IIF: out, Proto: l.Proto})
	if mode == "" || mode == "0" || v.LeavesBy(l.in) {
		return true
	}
	if isVLANLink(out) && isStrictLink(l.in) {
		t.explain(&leg{Query: netstate.Query{Dst: l.Src}}, t.dueTo(l.Src, l.in, out), v)
	}
	if mode == "2" {
		bare := !slices.ContainsFunc(t.v.Node.Addresses, func(a netstate.Address) bool { return a.Link == l.in && a.Prefix.Addr().Is4() })
		if v.Found && !v.Local && !v.Refuses() && !bare {
			return true
		}
		t.fault(FaultNoReverse, "%s drops what comes from %s: reverse path filtering is %s, and the way to it is %s", l.in, l.Src, mode, v)
		return false
	}
	t.fault(FaultStrictReverse, "%s drops what comes from %s: reverse path filtering is %s, and without a mark the way to it is %s", l.in, l.Src, mode, v)
	return false
}
