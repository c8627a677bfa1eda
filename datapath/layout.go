// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// priorityMangle is where the mangle table hooks in: before the routing
// decision that the mark shall steer.
const priorityMangle = -150

var (
	metadata4 = netip.AddrFrom4([4]byte{169, 254, 169, 254})
	router6   = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 2: 0x0e, 3: 0xc2, 15: 1})
	metadata6 = netip.AddrFrom16([16]byte{0: 0xfd, 2: 0x0e, 3: 0xc2, 14: 0x02, 15: 0x54})
)

// State returns the network of n without pods. Links must be filled in. The
// wanted state says nothing about the primary ENI's link, address and routes but
// its MTU: they are the system's.
func (n Node) State() State {
	var s State
	families := n.families()
	for _, ipv6 := range families {
		s.Rules = append(s.Rules, n.rules(ipv6)...)
		s.Sysctls = append(s.Sysctls, n.forwarding(ipv6)...)
		s = Join(s, n.enforcement(ipv6), n.held(ipv6))
	}
	for _, e := range n.ENIs {
		s = Join(s, e.state())
	}
	s.Filter = n.filter(families)
	return s.Canonical()
}

// stateIn returns the state of n for a namespace that is as have. It says nothing
// about accept_ra of the primary ENI where that is 0, the node forwards already and
// has its IPv6 default route by that ENI. Then not the kernel but a program hears
// the router advertisements, and has told the kernel not to: systemd-networkd,
// NetworkManager and dhcpcd do so, each time they configure the link. Before the node
// begins to forward it is 2 all the same, because with that step the kernel drops
// the route if it was the one who made it, whoever keeps it alive by now.
func (n Node) stateIn(have State) State {
	s := n.State()
	if have.sysctl(forwarding6) != "1" {
		return s
	}
	for _, e := range n.ENIs {
		key := acceptRA(e.Link)
		if e.Primary() && have.sysctl(key) == "0" && slices.ContainsFunc(have.Routes, e.isDefault6) {
			s.Sysctls = slices.DeleteFunc(slices.Clone(s.Sysctls), func(x Sysctl) bool { return x.Key == key })
		}
	}
	return s
}

// isDefault6 reports whether r is the node's IPv6 default route by the ENI.
func (e ENI) isDefault6(r Route) bool {
	return e.Link != "" && r.Link == e.Link && r.Table == TableMain && r.Dst == anywhere(netip.IPv6Unspecified()) && r.Type == ""
}

// families lists false for IPv4, true for IPv6, as far as an ENI has them.
func (n Node) families() []bool {
	var has [2]bool
	for _, e := range n.ENIs {
		for _, a := range e.Addrs {
			has[btoi(a.Addr().Is6())] = true
		}
		for _, p := range e.Sources {
			has[btoi(p.Addr().Is6())] = true
		}
	}
	var f []bool
	for i, ok := range has {
		if ok {
			f = append(f, i == 1)
		}
	}
	return f
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// rules returns the node's rules of one family.
func (n Node) rules(ipv6 bool) []Rule {
	add := func(rules []Rule, r Rule) []Rule {
		r.IPv6, r.Protocol = ipv6, ruleProtocol
		return append(rules, r)
	}
	var rules []Rule
	if n.layout() == Flat {
		rules = add(rules, Rule{Priority: PriorityToPod, Table: TablePods})
	}
	rules = add(rules, Rule{Priority: PriorityPrimaryMark, Mark: MarkPrimary, Mask: MarkPrimary, Table: TableMain})
	for _, p := range n.ServicePrefixes {
		if p.Addr().Is6() == ipv6 {
			rules = add(rules, Rule{Priority: PriorityService, To: p.Masked(), Table: TableMain})
		}
	}
	for _, e := range n.ENIs {
		if e.Primary() || !e.speaks(ipv6) {
			continue
		}
		// In the layout per-pod no mark comes from a source: rules of pods do
		// that, and must not come before those for answers (package snat).
		marked := Rule{Priority: PriorityFromPod, Mark: uint32(e.number()), Mask: MarkENI, Table: e.Table()}
		if n.layout() == PerPod {
			marked.Priority, marked.Mask = PriorityPrimaryMark, MarkMask
		}
		rules = add(rules, marked)
		for _, a := range e.Addrs {
			if a.Addr().Is6() == ipv6 {
				rules = add(rules, Rule{Priority: PriorityFromENI, From: hostPrefix(a.Addr()), Table: e.Table()})
			}
		}
	}
	return rules
}

// speaks reports whether the ENI has a way out in a family.
func (e ENI) speaks(ipv6 bool) bool {
	for _, a := range e.Addrs {
		if a.Addr().Is6() == ipv6 {
			return true
		}
	}
	return false
}

const forwarding6 = "net.ipv6.conf.all.forwarding"

func acceptRA(link string) string { return linkSysctl("ipv6", link, "accept_ra", "").Key }

// forwarding returns the settings that make the node a router for its pods.
func (n Node) forwarding(ipv6 bool) []Sysctl {
	if ipv6 {
		return []Sysctl{{"net.ipv6.conf.all.disable_ipv6", "0"}, {forwarding6, "1"}}
	}
	return []Sysctl{{"net.ipv4.ip_forward", "1"}}
}

// state returns the link, addresses, table and settings of one ENI; nothing if
// its link is not there.
func (e ENI) state() State {
	var s State
	if e.Link == "" {
		return s
	}
	s.Sysctls = e.sysctls()
	if e.Primary() {
		if e.MTU != 0 {
			s.Links = []Link{{Name: e.Link, MAC: e.MAC.String(), MTU: e.MTU, Up: true}}
		}
		return s
	}
	s.Links = []Link{{Name: e.Link, MAC: e.MAC.String(), MTU: e.MTU, Up: true}}
	for _, a := range e.Addrs {
		// The kernel's route to the subnet would send the node's own packets
		// to the subnet out by this ENI with the primary ENI's address.
		s.Addresses = append(s.Addresses, Address{Link: e.Link, Prefix: a, NoPrefixRoute: true})
		gw := e.gateway(a)
		s.Routes = append(s.Routes,
			Route{Dst: hostPrefix(gw), Link: e.Link, Table: e.Table(), Protocol: RouteProtocol},
			Route{Dst: anywhere(gw), Via: gw, Link: e.Link, Table: e.Table(), Protocol: RouteProtocol})
	}
	return s
}

func anywhere(like netip.Addr) netip.Prefix {
	if like.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// sysctls returns the settings of an ENI's link. With strict reverse path
// filtering packets to a pod would be dropped where the way back, which is
// chosen by a mark that they do not have, is another ENI. Router advertisements
// would put a second default route into table main on a secondary ENI; on the
// primary ENI the node's own default route comes from them, and a kernel that
// forwards hears them only at 2, but see [Node.stateIn]. A secondary ENI's link-local address, made from
// a MAC that is unique in the VPC, needs no duplicate address detection, which
// would keep the ENI from asking for its gateway's MAC for two seconds.
func (e ENI) sysctls() []Sysctl {
	link := strings.ReplaceAll(e.Link, ".", "/")
	var s []Sysctl
	if e.speaks(false) {
		s = append(s, Sysctl{"net.ipv4.conf." + link + ".rp_filter", "2"}, Sysctl{"net.ipv4.conf." + link + ".forwarding", "1"})
	}
	if !e.speaks(true) {
		return s
	}
	conf := "net.ipv6.conf." + link
	s = append(s, Sysctl{conf + ".disable_ipv6", "0"})
	if e.Primary() {
		return append(s, Sysctl{acceptRA(e.Link), "2"})
	}
	return append(s, Sysctl{acceptRA(e.Link), "0"}, Sysctl{conf + ".accept_dad", "0"})
}

// filter returns our nftables table: a pod's packet is dropped unless the way
// back to its source is the link that it came from; then the source finds the
// ENI's mark. A verdict map is used, and a chain an ENI, because that way the
// other bits of a mark stay as they are on every kernel. The source of a pod on a
// branch ENI under Strict is checked by rules, see Branch: the lookup here does
// not know them.
func (n Node) filter(families []bool) Filter {
	from := Chain{Name: "from-pod", Rules: []string{"fib saddr . iif oif missing drop"}}
	branch := Chain{Name: "from-branch"}
	hook := Chain{
		Name: "prerouting", Hook: "prerouting", Priority: priorityMangle,
		Rules: []string{fmt.Sprintf("iifname %q jump from-pod", n.prefix()+"*")},
	}
	for _, ipv6 := range families {
		refused := n.refused(ipv6)
		branch.Rules = append(branch.Rules, refused...)
		from.Rules = append(from.Rules, refused...)
		if n.layout() == Flat {
			from.Rules = append(from.Rules, vmapRule(ipv6))
		}
	}
	var f Filter
	var chains []Chain
	if n.Enforcement == Strict && len(branch.Rules) > 0 {
		hook.Rules = append(hook.Rules,
			fmt.Sprintf("iifname %q accept", branchPrefix+"*"), fmt.Sprintf("iifname %q jump from-branch", strictPrefix+"*"))
		chains = append(chains, branch)
	}
	if n.layout() == Flat {
		for _, e := range n.ENIs {
			if e.Primary() {
				continue
			}
			name := fmt.Sprintf("eni-%d", e.number())
			chains = append(chains, Chain{Name: name, Rules: []string{markRule(e.number())}})
			for _, p := range e.Sources {
				if e.speaks(p.Addr().Is6()) {
					f.Sources = append(f.Sources, Source{Prefix: p.Masked(), Chain: name})
				}
			}
		}
	}
	f.Chains = append(append([]Chain{hook}, chains...), from)
	return f
}

// refused returns the rules of one family for what no pod may send.
func (n Node) refused(ipv6 bool) []string {
	ip, service := "ip", metadata4
	var rules []string
	if ipv6 {
		ip, service = "ip6", metadata6
		rules = append(rules, "icmpv6 type nd-router-advert drop")
	}
	if n.RefuseMetadata {
		rules = append(rules, fmt.Sprintf("%s daddr %s reject", ip, service))
	}
	return rules
}

// vmapRule looks the source up in the map of its family.
func vmapRule(ipv6 bool) string {
	return fmt.Sprintf("%s saddr vmap @%s", ipKeyword(ipv6), sourceMaps[btoi(ipv6)].name)
}

func ipKeyword(ipv6 bool) string {
	if ipv6 {
		return "ip6"
	}
	return "ip"
}

// markRule sets the ENI number in the mark and leaves the other bits.
func markRule(number int) string {
	return fmt.Sprintf("meta mark set meta mark & %#08x | %#08x", ^uint32(MarkENI)|uint32(number), number)
}

// routedHost returns the host side of a veth pair, and how packets find it.
func (p Pod) routedHost() State {
	s := State{Links: []Link{{
		Name: p.HostLink(), Kind: "veth", MAC: p.HostMAC().String(), MTU: p.MTU, Up: true, Peer: p.sandboxEnd(),
	}}}
	s.Sysctls = p.hostSysctls(p.HostLink())
	table := TablePods
	if p.layout() == PerPod {
		table = TableMain
	}
	for _, a := range p.Addrs {
		dst := hostPrefix(a.Addr)
		s.Neighbors = append(s.Neighbors, Neighbor{Link: p.HostLink(), Addr: a.Addr, MAC: p.SandboxMAC().String()})
		s.Routes = append(s.Routes, Route{Dst: dst, Link: p.HostLink(), Table: table, Protocol: RouteProtocol})
		if p.layout() != PerPod {
			continue
		}
		rule := Rule{IPv6: a.Addr.Is6(), Protocol: ruleProtocol}
		rule.Priority, rule.To, rule.Table = PriorityToPod, dst, TableMain
		s.Rules = append(s.Rules, rule)
		if a.Table != 0 && a.Table != TableMain {
			rule.Priority, rule.From, rule.To, rule.Table = PriorityFromPod, dst, netip.Prefix{}, a.Table
			s.Rules = append(s.Rules, rule)
		}
	}
	return s.Canonical()
}

// hostSysctls are the settings of the link on the node that leads to the pod. A
// pod is no router to the node, and a link that is told to forward follows no
// change of the node's own setting.
func (p Pod) hostSysctls(link string) []Sysctl {
	s := []Sysctl{refuseRouter(link)}
	if p.speaks(false) {
		s = append(s, linkSysctl("ipv4", link, "forwarding", "1"))
	}
	if p.speaks(true) {
		s = append(s, enableIPv6(link))
	}
	return s
}

// routedSandbox returns the sandbox side of a veth pair: everything goes to the
// node.
func (p Pod) routedSandbox() State {
	s := p.uplink(p.sandboxEnd(), func(a netip.Addr) netip.Addr { return Gateway(a, p.Index) })
	s.Links = []Link{{Name: p.sandboxEnd(), Kind: "veth", MAC: p.SandboxMAC().String(), MTU: p.MTU, Up: true}}
	for _, a := range p.Addrs {
		s.Neighbors = append(s.Neighbors, Neighbor{Link: p.sandboxEnd(), Addr: Gateway(a.Addr, p.Index), MAC: p.HostMAC().String()})
	}
	return s
}

func (p Pod) speaks(ipv6 bool) bool {
	for _, a := range p.Addrs {
		if a.Addr.Is6() == ipv6 {
			return true
		}
	}
	return false
}

// pathMTU is the MTU of the longest prefix that dst is part of, 0 if there is none.
func (p Pod) pathMTU(dst netip.Prefix) int {
	best := PathMTU{}
	for _, m := range p.PathMTUs {
		if m.Prefix.Contains(dst.Addr()) && m.Prefix.Bits() <= dst.Bits() && (best.MTU == 0 || m.Prefix.Bits() > best.Prefix.Bits()) {
			best = m
		}
	}
	return best.MTU
}
