// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/nft"
)

// State returns the wanted network of n without its pods. ENI.Link must be set. Of
// the primary ENI it contains only rules, settings and the MTU: its link, addresses
// and routes belong to the operating system.
func (n Node) State() netstate.State {
	var s netstate.State
	families := n.families()
	parts := make([]netstate.State, 0, 2*len(families)+len(n.ENIs)+1)
	for _, f := range families {
		s.Rules = append(s.Rules, n.rules(f)...)
		s.Sysctls = append(s.Sysctls, forwarding(f)...)
		parts = append(parts, n.enforcement(f), n.held(f))
	}
	for _, e := range n.ENIs {
		parts = append(parts, e.state())
	}
	s.Filter, s.Flows = n.filter(families), n.flows()
	return netstate.Join(append(parts, s)...)
}

// parts returns the part of the state of a namespace that n is responsible for, and the
// wanted state of n there. The latter omits accept_ra of the primary ENI if that setting is 0, the node forwards
// already, and its IPv6 default route uses that ENI. In that case a program processes
// the router advertisements and has told the kernel to ignore them: systemd-networkd,
// NetworkManager and dhcpcd do this each time they configure the link. Before the node
// begins to forward, accept_ra must be 2 nevertheless: enabling forwarding makes the
// kernel drop a default route that it has added itself, even if a program maintains
// that route by now.
func (n Node) parts(have netstate.State) (owned, want netstate.State) {
	want = n.State()
	owned = n.owned(have, want)
	if have.Sysctl(forwarding6) != "1" {
		return owned, want
	}
	for _, e := range n.ENIs {
		key := acceptRA(e.Link)
		if e.Primary() && have.Sysctl(key) == "0" && slices.ContainsFunc(have.Routes, e.isDefault6) {
			want.Sysctls = slices.DeleteFunc(want.Sysctls, func(x netstate.Sysctl) bool { return x.Key == key })
		}
	}
	return owned, want
}

// isDefault6 reports whether r is the node's IPv6 default route by the ENI.
func (e ENI) isDefault6(r netstate.Route) bool {
	return e.Link != "" && r.Link == e.Link && r.Table == netstate.TableMain && r.Dst == anywhere(netip.IPv6Unspecified()) && r.Type == ""
}

// families returns the families of which an ENI has an address or a source.
func (n Node) families() []netstate.Family {
	var list []netstate.Family
	for f := range netstate.Families() {
		of := func(p netip.Prefix) bool { return netstate.FamilyOf(p.Addr()) == f }
		if slices.ContainsFunc(n.ENIs, func(e ENI) bool { return slices.ContainsFunc(e.Addrs, of) || slices.ContainsFunc(e.Sources, of) }) {
			list = append(list, f)
		}
	}
	return list
}

// rules returns the node's rules of one family.
func (n Node) rules(family netstate.Family) []netstate.Rule {
	add := func(rules []netstate.Rule, r netstate.Rule) []netstate.Rule {
		r.IPv6, r.Protocol = family.Is6(), claims.RuleProtocol
		return append(rules, r)
	}
	var rules []netstate.Rule
	if n.layout() == Flat {
		rules = add(rules, netstate.Rule{Priority: claims.PriorityToPod, Table: claims.TablePods})
	}
	rules = add(rules, netstate.Rule{Priority: claims.PriorityPrimaryMark, Mark: claims.MarkPrimary, Mask: claims.MarkPrimary, Table: netstate.TableMain})
	for _, p := range n.ServicePrefixes {
		if netstate.FamilyOf(p.Addr()) == family {
			rules = add(rules, netstate.Rule{Priority: claims.PriorityService, To: p.Masked(), Table: netstate.TableMain})
		}
	}
	for _, e := range n.ENIs {
		if e.Primary() || !e.speaks(family) {
			continue
		}
		// In the layout PerPod the pods' rules choose the ENI by source, and packets
		// have marks only if package snat sets them on answers. The rule for such
		// marks must come before the rules of pods.
		marked := netstate.Rule{Priority: claims.PriorityFromPod, Mark: uint32(e.MarkNumber()), Mask: claims.MarkENI, Table: e.Table()}
		if n.layout() == PerPod {
			marked.Priority, marked.Mask = claims.PriorityPrimaryMark, claims.MarkMask
		}
		rules = add(rules, marked)
		for _, a := range e.Addrs {
			if netstate.FamilyOf(a.Addr()) == family {
				rules = add(rules, netstate.Rule{Priority: claims.PriorityFromENI, From: netstate.HostPrefix(a.Addr()), Table: e.Table()})
			}
		}
	}
	return rules
}

// speaks reports whether the ENI has a gateway of the family. For IPv4 it needs an address
// of its own, which gives the subnet. For IPv6 the addresses of pods are enough, because
// the VPC router has the same address in each subnet; EC2 creates such ENIs.
func (e ENI) speaks(f netstate.Family) bool {
	of := func(p netip.Prefix) bool { return netstate.FamilyOf(p.Addr()) == f }
	return slices.ContainsFunc(e.Addrs, of) || f.Is6() && slices.ContainsFunc(e.Sources, of)
}

// routers returns the gateways of the ENI, one for each family that it speaks.
func (e ENI) routers() []netip.Addr {
	var list []netip.Addr
	own6 := false
	for _, a := range e.Addrs {
		list, own6 = append(list, e.gateway(a)), own6 || a.Addr().Is6()
	}
	if !own6 && e.speaks(netstate.IPv6) {
		list = append(list, e.gateway(netip.PrefixFrom(netip.IPv6Unspecified(), 0)))
	}
	return list
}

const forwarding6 = "net.ipv6.conf.all.forwarding"

// acceptRA returns the key of a link's setting for router advertisements.
func acceptRA(link string) string { return netstate.LinkSysctl("ipv6", link, "accept_ra", "").Key }

// forwarding returns the settings that make a node a router for its pods.
func forwarding(f netstate.Family) []netstate.Sysctl {
	if f == netstate.IPv6 {
		return []netstate.Sysctl{{Key: "net.ipv6.conf.all.disable_ipv6", Value: "0"}, {Key: forwarding6, Value: "1"}}
	}
	return []netstate.Sysctl{{Key: "net.ipv4.ip_forward", Value: "1"}}
}

// state returns the link, addresses, routes and settings of one ENI. It is empty if
// the ENI has no link.
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
		// With the kernel's route to the subnet, the node's own packets to the
		// subnet would leave by this ENI with the primary ENI's address.
		s.Addresses = append(s.Addresses, netstate.Address{Link: e.Link, Prefix: a, NoPrefixRoute: true})
	}
	for _, gw := range e.routers() {
		s.Routes = append(s.Routes,
			netstate.Route{Dst: netstate.HostPrefix(gw), Link: e.Link, Table: e.Table(), Protocol: claims.RouteProtocol},
			netstate.Route{Dst: anywhere(gw), Via: gw, Link: e.Link, Table: e.Table(), Protocol: claims.RouteProtocol})
	}
	return s
}

// anywhere returns the prefix of length 0 in the family of like.
func anywhere(like netip.Addr) netip.Prefix {
	if like.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// sysctls returns the settings of an ENI's link.
//
// rp_filter is 2, loose. Strict filtering would drop packets to a pod whose answers
// leave by another ENI: that ENI is chosen by a mark, which packets to the pod lack.
//
// accept_ra is 0 on a secondary ENI, where router advertisements would add a second
// default route to table main. On the primary ENI they provide the node's own default
// route, and a kernel that forwards accepts them only if the setting is 2; see
// [Node.parts] for the exception.
//
// accept_dad is 0 on a secondary ENI. Its link-local address is made from a MAC that
// is unique in the VPC, and duplicate address detection would delay the resolution of
// the gateway's MAC by two seconds.
func (e ENI) sysctls() []netstate.Sysctl {
	link := strings.ReplaceAll(e.Link, ".", "/")
	var s []netstate.Sysctl
	if e.speaks(netstate.IPv4) {
		s = append(s, netstate.Sysctl{Key: "net.ipv4.conf." + link + ".rp_filter", Value: "2"}, netstate.Sysctl{Key: "net.ipv4.conf." + link + ".forwarding", Value: "1"})
	}
	if !e.speaks(netstate.IPv6) {
		return s
	}
	conf := "net.ipv6.conf." + link
	s = append(s, netstate.Sysctl{Key: conf + ".disable_ipv6", Value: "0"})
	if e.Primary() {
		return append(s, netstate.Sysctl{Key: acceptRA(e.Link), Value: "2"})
	}
	return append(s, netstate.Sysctl{Key: acceptRA(e.Link), Value: "0"}, netstate.Sysctl{Key: conf + ".accept_dad", Value: "0"})
}

// filter returns our nftables table. It drops a packet from a pod unless the route back to
// its source is the link by which it came in, and then sets the mark of the ENI that owns
// the source. It uses a verdict map and a chain for each ENI, because on every kernel this
// leaves the other bits of the mark unchanged. The source of a pod on a branch ENI under
// Strict is checked by routing rules instead, see [Branch]: the lookup in the table does not
// use those rules. The chain comes before table mangle of iptables, where package snat may
// replace the mark of an answer.
func (n Node) filter(families []netstate.Family) netstate.Filter {
	from := netstate.Chain{Name: "from-pod", Rules: []netstate.FilterRule{nft.NewRule(nft.NoReverseRoute{}, nft.Drop{})}}
	branch := netstate.Chain{Name: "from-branch"}
	hook := netstate.Chain{
		Name: "prerouting", Hook: nft.HookPrerouting, Priority: nft.PriorityMangle - 1,
		Rules: []netstate.FilterRule{nft.NewRule(nft.Link{Name: n.prefix() + "*"}, nft.Jump{Chain: from.Name})},
	}
	for _, name := range n.PodLinks {
		if !strings.HasPrefix(name, n.prefix()) {
			hook.Rules = append(hook.Rules, nft.NewRule(nft.Link{Name: name}, nft.Jump{Chain: from.Name}))
		}
	}
	if n.RefuseMetadata { // egress of the other family must not be a way around
		hook.Rules = append(hook.Rules,
			nft.NewRule(nft.Link{Name: claims.EgressPrefix4 + "*"}, nft.Destination{Addr: claims.Metadata4}, nft.Reject{}),
			nft.NewRule(nft.Link{Name: claims.EgressPrefix6 + "*"}, nft.Destination{Addr: claims.Metadata6}, nft.Reject{}))
	}
	for _, family := range families {
		refused := n.refused(family)
		branch.Rules = append(branch.Rules, refused...)
		from.Rules = append(from.Rules, refused...)
		if n.layout() == Flat {
			from.Rules = append(from.Rules, sourceMapRule(family))
		}
	}
	var f netstate.Filter
	var chains []netstate.Chain
	if n.Enforcement == Strict && len(branch.Rules) > 0 {
		hook.Rules = append(hook.Rules,
			nft.NewRule(nft.Link{Name: claims.BranchPrefix + "*"}, nft.Accept{}),
			nft.NewRule(nft.Link{Name: claims.StrictPrefix + "*"}, nft.Jump{Chain: branch.Name}))
		chains = append(chains, branch)
	}
	if n.layout() == Flat {
		for _, e := range n.ENIs {
			if e.Primary() {
				continue
			}
			name := fmt.Sprintf("eni-%d", e.MarkNumber())
			chains = append(chains, netstate.Chain{Name: name, Rules: []netstate.FilterRule{markRule(e.MarkNumber())}})
			for _, p := range e.Sources {
				if e.speaks(netstate.FamilyOf(p.Addr())) {
					f.Sources = append(f.Sources, netstate.Source{Prefix: p.Masked(), Chain: name})
				}
			}
		}
	}
	f.Chains = append(append([]netstate.Chain{hook}, chains...), from)
	return f
}

// refused returns the rules of one family against packets that pods must not send.
func (n Node) refused(f netstate.Family) []netstate.FilterRule {
	service := claims.Metadata4
	var rules []netstate.FilterRule
	if f == netstate.IPv6 {
		service = claims.Metadata6
		rules = append(rules, nft.NewRule(nft.RouterAdvert{}, nft.Drop{}))
	}
	if n.RefuseMetadata {
		rules = append(rules, nft.NewRule(nft.Destination{Addr: service}, nft.Reject{}))
	}
	return rules
}

// sourceMapRule returns the rule that looks the source up in the map of its family.
func sourceMapRule(f netstate.Family) netstate.FilterRule {
	if f == netstate.IPv6 {
		return nft.NewRule(nft.SourceMap{Family: nft.IPv6, Map: netstate.SourceMap6})
	}
	return nft.NewRule(nft.SourceMap{Family: nft.IPv4, Map: netstate.SourceMap4})
}

// markRule returns the rule that sets the number of an ENI in the mark and leaves the
// other bits unchanged.
func markRule(number int) netstate.FilterRule {
	return nft.NewRule(nft.SetMark{Mask: claims.MarkENI, Value: uint32(number)})
}

// A packet to an address that an ENI of the node holds but no pod has would leave by
// the primary ENI, and the VPC would return it or drop it. A connection to a pod that
// has just ended would hang until it times out. Therefore the node answers that such
// addresses are unreachable. Routes to pods take precedence, whatever table they are
// in.

// held returns, for one family, the routes that refuse addresses without a pod, and
// those that exempt the addresses in n.InUse.
func (n Node) held(f netstate.Family) netstate.State {
	var s netstate.State
	used := map[netip.Prefix]bool{}
	for _, a := range n.InUse {
		used[netstate.HostPrefix(a)] = true
	}
	for _, e := range n.ENIs {
		for _, p := range e.Sources {
			if netstate.FamilyOf(p.Addr()) == f && !used[p.Masked()] {
				s.Routes = append(s.Routes, netstate.Route{Dst: p.Masked(), Type: "unreachable", Table: claims.TableHeld, Protocol: claims.HeldProtocol})
			}
		}
	}
	if len(s.Routes) == 0 {
		return s // no prefix is refused, so no address needs an exemption
	}
	for p := range used {
		if netstate.FamilyOf(p.Addr()) == f && n.sources(p.Addr()) && !n.isSource(p) {
			s.Routes = append(s.Routes, netstate.Route{Dst: p, Type: "throw", Table: claims.TableHeld, Protocol: claims.HeldProtocol})
		}
	}
	s.Rules = []netstate.Rule{{IPv6: f.Is6(), Priority: claims.PriorityHeld, Table: claims.TableHeld, Protocol: claims.RuleProtocol}}
	return s
}

// sources reports whether an ENI of n holds the address.
func (n Node) sources(a netip.Addr) bool {
	return slices.ContainsFunc(n.ENIs, func(e ENI) bool { return contains(e.Sources, a) })
}

// isSource reports whether an ENI of n holds the prefix as one unit.
func (n Node) isSource(p netip.Prefix) bool {
	return slices.ContainsFunc(n.ENIs, func(e ENI) bool {
		return slices.ContainsFunc(e.Sources, func(s netip.Prefix) bool { return s.Masked() == p })
	})
}
