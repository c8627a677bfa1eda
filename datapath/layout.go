// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// State returns the network of n without pods. Links must be filled in. The
// wanted state says nothing about the primary ENI's link, address and routes but
// its MTU: they are the system's.
func (n Node) State() netstate.State {
	var s netstate.State
	families := n.families()
	for _, ipv6 := range families {
		s.Rules = append(s.Rules, n.rules(ipv6)...)
		s.Sysctls = append(s.Sysctls, n.forwarding(ipv6)...)
		s = netstate.Join(s, n.enforcement(ipv6), n.held(ipv6))
	}
	for _, e := range n.ENIs {
		s = netstate.Join(s, e.state())
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
func (n Node) stateIn(have netstate.State) netstate.State {
	s := n.State()
	if have.Sysctl(forwarding6) != "1" {
		return s
	}
	for _, e := range n.ENIs {
		key := acceptRA(e.Link)
		if e.Primary() && have.Sysctl(key) == "0" && slices.ContainsFunc(have.Routes, e.isDefault6) {
			s.Sysctls = slices.DeleteFunc(slices.Clone(s.Sysctls), func(x netstate.Sysctl) bool { return x.Key == key })
		}
	}
	return s
}

// isDefault6 reports whether r is the node's IPv6 default route by the ENI.
func (e ENI) isDefault6(r netstate.Route) bool {
	return e.Link != "" && r.Link == e.Link && r.Table == netstate.TableMain && r.Dst == anywhere(netip.IPv6Unspecified()) && r.Type == ""
}

// families lists false for IPv4, true for IPv6, as far as an ENI has them.
func (n Node) families() []bool {
	var has [2]bool
	for _, e := range n.ENIs {
		for _, a := range e.Addrs {
			has[netstate.Btoi(a.Addr().Is6())] = true
		}
		for _, p := range e.Sources {
			has[netstate.Btoi(p.Addr().Is6())] = true
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

// rules returns the node's rules of one family.
func (n Node) rules(ipv6 bool) []netstate.Rule {
	add := func(rules []netstate.Rule, r netstate.Rule) []netstate.Rule {
		r.IPv6, r.Protocol = ipv6, claims.RuleProtocol
		return append(rules, r)
	}
	var rules []netstate.Rule
	if n.layout() == Flat {
		rules = add(rules, netstate.Rule{Priority: claims.PriorityToPod, Table: claims.TablePods})
	}
	rules = add(rules, netstate.Rule{Priority: claims.PriorityPrimaryMark, Mark: claims.MarkPrimary, Mask: claims.MarkPrimary, Table: netstate.TableMain})
	for _, p := range n.ServicePrefixes {
		if p.Addr().Is6() == ipv6 {
			rules = add(rules, netstate.Rule{Priority: claims.PriorityService, To: p.Masked(), Table: netstate.TableMain})
		}
	}
	for _, e := range n.ENIs {
		if e.Primary() || !e.speaks(ipv6) {
			continue
		}
		// In the layout per-pod no mark comes from a source: rules of pods do
		// that, and must not come before those for answers (package snat).
		marked := netstate.Rule{Priority: claims.PriorityFromPod, Mark: uint32(e.MarkNumber()), Mask: claims.MarkENI, Table: e.Table()}
		if n.layout() == PerPod {
			marked.Priority, marked.Mask = claims.PriorityPrimaryMark, claims.MarkMask
		}
		rules = add(rules, marked)
		for _, a := range e.Addrs {
			if a.Addr().Is6() == ipv6 {
				rules = add(rules, netstate.Rule{Priority: claims.PriorityFromENI, From: netstate.HostPrefix(a.Addr()), Table: e.Table()})
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

func acceptRA(link string) string { return netstate.LinkSysctl("ipv6", link, "accept_ra", "").Key }

// forwarding returns the settings that make the node a router for its pods.
func (n Node) forwarding(ipv6 bool) []netstate.Sysctl {
	if ipv6 {
		return []netstate.Sysctl{{Key: "net.ipv6.conf.all.disable_ipv6", Value: "0"}, {Key: forwarding6, Value: "1"}}
	}
	return []netstate.Sysctl{{Key: "net.ipv4.ip_forward", Value: "1"}}
}

// state returns the link, addresses, table and settings of one ENI; nothing if
// its link is not there.
func (e ENI) state() netstate.State {
	var s netstate.State
	if e.Link == "" {
		return s
	}
	s.Sysctls = e.sysctls()
	if e.Primary() {
		if e.MTU != 0 {
			s.Links = []netstate.Link{{Name: e.Link, MAC: e.MAC.String(), MTU: e.MTU, Up: true}}
		}
		return s
	}
	s.Links = []netstate.Link{{Name: e.Link, MAC: e.MAC.String(), MTU: e.MTU, Up: true}}
	for _, a := range e.Addrs {
		// The kernel's route to the subnet would send the node's own packets
		// to the subnet out by this ENI with the primary ENI's address.
		s.Addresses = append(s.Addresses, netstate.Address{Link: e.Link, Prefix: a, NoPrefixRoute: true})
		gw := e.gateway(a)
		s.Routes = append(s.Routes,
			netstate.Route{Dst: netstate.HostPrefix(gw), Link: e.Link, Table: e.Table(), Protocol: claims.RouteProtocol},
			netstate.Route{Dst: anywhere(gw), Via: gw, Link: e.Link, Table: e.Table(), Protocol: claims.RouteProtocol})
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
func (e ENI) sysctls() []netstate.Sysctl {
	link := strings.ReplaceAll(e.Link, ".", "/")
	var s []netstate.Sysctl
	if e.speaks(false) {
		s = append(s, netstate.Sysctl{Key: "net.ipv4.conf." + link + ".rp_filter", Value: "2"}, netstate.Sysctl{Key: "net.ipv4.conf." + link + ".forwarding", Value: "1"})
	}
	if !e.speaks(true) {
		return s
	}
	conf := "net.ipv6.conf." + link
	s = append(s, netstate.Sysctl{Key: conf + ".disable_ipv6", Value: "0"})
	if e.Primary() {
		return append(s, netstate.Sysctl{Key: acceptRA(e.Link), Value: "2"})
	}
	return append(s, netstate.Sysctl{Key: acceptRA(e.Link), Value: "0"}, netstate.Sysctl{Key: conf + ".accept_dad", Value: "0"})
}

// filter returns our nftables table: a pod's packet is dropped unless the way
// back to its source is the link that it came from; then the source finds the
// ENI's mark. A verdict map is used, and a chain an ENI, because that way the
// other bits of a mark stay as they are on every kernel. The source of a pod on a
// branch ENI under Strict is checked by rules, see Branch: the lookup here does
// not know them.
func (n Node) filter(families []bool) netstate.Filter {
	from := netstate.Chain{Name: "from-pod", Rules: []string{"fib saddr . iif oif missing drop"}}
	branch := netstate.Chain{Name: "from-branch"}
	hook := netstate.Chain{
		Name: "prerouting", Hook: "prerouting", Priority: netstate.PriorityMangle,
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
	var f netstate.Filter
	var chains []netstate.Chain
	if n.Enforcement == Strict && len(branch.Rules) > 0 {
		hook.Rules = append(hook.Rules,
			fmt.Sprintf("iifname %q accept", claims.BranchPrefix+"*"), fmt.Sprintf("iifname %q jump from-branch", claims.StrictPrefix+"*"))
		chains = append(chains, branch)
	}
	if n.layout() == Flat {
		for _, e := range n.ENIs {
			if e.Primary() {
				continue
			}
			name := fmt.Sprintf("eni-%d", e.MarkNumber())
			chains = append(chains, netstate.Chain{Name: name, Rules: []string{markRule(e.MarkNumber())}})
			for _, p := range e.Sources {
				if e.speaks(p.Addr().Is6()) {
					f.Sources = append(f.Sources, netstate.Source{Prefix: p.Masked(), Chain: name})
				}
			}
		}
	}
	f.Chains = append(append([]netstate.Chain{hook}, chains...), from)
	return f
}

// refused returns the rules of one family for what no pod may send.
func (n Node) refused(ipv6 bool) []string {
	ip, service := "ip", claims.Metadata4
	var rules []string
	if ipv6 {
		ip, service = "ip6", claims.Metadata6
		rules = append(rules, "icmpv6 type nd-router-advert drop")
	}
	if n.RefuseMetadata {
		rules = append(rules, fmt.Sprintf("%s daddr %s reject", ip, service))
	}
	return rules
}

// vmapRule looks the source up in the map of its family.
func vmapRule(ipv6 bool) string {
	return fmt.Sprintf("%s saddr vmap @%s", netstate.IpKeyword(ipv6), netstate.SourceMaps[netstate.Btoi(ipv6)].Name)
}

// markRule sets the ENI number in the mark and leaves the other bits.
func markRule(number int) string {
	return fmt.Sprintf("meta mark set meta mark & %#08x | %#08x", ^uint32(claims.MarkENI)|uint32(number), number)
}

// routedHost returns the host side of a veth pair, and how packets find it.
func (p Pod) routedHost() netstate.State {
	s := netstate.State{Links: []netstate.Link{{
		Name: p.HostLink(), Kind: "veth", MAC: p.HostMAC().String(), MTU: p.MTU, Up: true, Peer: p.sandboxEnd(),
	}}}
	s.Sysctls = p.hostSysctls(p.HostLink())
	table := claims.TablePods
	if p.layout() == PerPod {
		table = netstate.TableMain
	}
	for _, a := range p.Addrs {
		dst := netstate.HostPrefix(a.Addr)
		s.Neighbors = append(s.Neighbors, netstate.Neighbor{Link: p.HostLink(), Addr: a.Addr, MAC: p.SandboxMAC().String()})
		s.Routes = append(s.Routes, netstate.Route{Dst: dst, Link: p.HostLink(), Table: table, Protocol: claims.RouteProtocol})
		if p.layout() != PerPod {
			continue
		}
		rule := netstate.Rule{IPv6: a.Addr.Is6(), Protocol: claims.RuleProtocol}
		rule.Priority, rule.To, rule.Table = claims.PriorityToPod, dst, netstate.TableMain
		s.Rules = append(s.Rules, rule)
		if a.Table != 0 && a.Table != netstate.TableMain {
			rule.Priority, rule.From, rule.To, rule.Table = claims.PriorityFromPod, dst, netip.Prefix{}, a.Table
			s.Rules = append(s.Rules, rule)
		}
	}
	return s.Canonical()
}

// hostSysctls are the settings of the link on the node that leads to the pod. A
// pod is no router to the node, and a link that is told to forward follows no
// change of the node's own setting.
func (p Pod) hostSysctls(link string) []netstate.Sysctl {
	s := []netstate.Sysctl{refuseRouter(link)}
	if p.speaks(false) {
		s = append(s, netstate.LinkSysctl("ipv4", link, "forwarding", "1"))
	}
	if p.speaks(true) {
		s = append(s, enableIPv6(link))
	}
	return s
}

// routedSandbox returns the sandbox side of a veth pair: everything goes to the
// node.
func (p Pod) routedSandbox() netstate.State {
	s := p.uplink(p.sandboxEnd(), func(a netip.Addr) netip.Addr { return Gateway(a, p.Index) })
	s.Links = []netstate.Link{{Name: p.sandboxEnd(), Kind: "veth", MAC: p.SandboxMAC().String(), MTU: p.MTU, Up: true}}
	for _, a := range p.Addrs {
		s.Neighbors = append(s.Neighbors, netstate.Neighbor{Link: p.sandboxEnd(), Addr: Gateway(a.Addr, p.Index), MAC: p.HostMAC().String()})
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
