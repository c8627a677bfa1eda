// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Branch joins the pod to a branch ENI of its own, a VLAN on the node's trunk ENI, so
// that the pod has its own security groups. Names, table and priorities are those of
// amazon-vpc-cni-k8s: the VLAN link is vlan.eth.ID and its table 100 + ID, in either
// layout.
//
// Connections are tracked in one zone, whichever branch ENI they use, because addresses
// in a VPC are unique. Under [Strict] the node tracks a connection twice if it goes to
// another of its pods by a Service. The kernel then gives one of the two another source
// port, so that the endpoint does not see the client's.
type Branch struct {
	// ENI is the branch ENI: its MAC, addresses with the subnet's length, gateways. Its
	// MTU is the trunk's if 0.
	ENI ENI
	// Trunk is the ENI that carries the VLAN.
	Trunk ENI
	// VLAN is the VLAN ID, 1 to 4094 except 153 to 155, which would have the kernel's
	// tables. EC2's controller uses 1 to 120.
	VLAN int
	// Enforcement must be the node's; Standard if empty.
	Enforcement Enforcement
}

// Enforcement says which packets of pods on branch ENIs pass their security groups.
type Enforcement string

const (
	// Standard has the node deliver packets between its own pods, and between itself
	// and them, directly. Only packets that leave the node pass the branch ENI.
	Standard Enforcement = "standard"
	// Strict sends all packets by the branch ENI, including those that stay on the
	// node. The node looks up its own addresses after the rules of such pods. Early
	// demultiplexing is off, because it would take a pod's answer to the node for the
	// node's before routing, and the kernel would then drop it. A rule drops packets
	// that such a pod sends with a source that is not its own.
	Strict Enforcement = "strict"
)

// Link returns the name of the VLAN link.
func (m *Branch) Link() string { return claims.BranchPrefix + strconv.Itoa(m.VLAN) }

// Table returns the route table of the branch ENI.
func (m *Branch) Table() int { return claims.BranchTableOffset + m.VLAN }

func (m *Branch) strict() bool { return m.Enforcement == Strict }

// branchMode is the mode of a pod with a Branch.
type branchMode struct {
	vethMode
	*Branch
}

func (m *Branch) asMode() mode { return branchMode{Branch: m} }

func (m branchMode) kind() string { return "branch" }

func (m branchMode) hostPrefix(p Pod) string {
	if m.strict() {
		return claims.StrictPrefix
	}
	return m.vethMode.hostPrefix(p)
}

func (m branchMode) links(p Pod) podLinks { return podLinks{peer: p.IfName, own: m.Link()} }

func (m branchMode) alias(p Pod) alias {
	return alias{owner: p.ownHostLink(), mode: m.kind(), link: m.Link(), host: p.Adopted.Link}
}

func (m branchMode) enis() []*ENI { return []*ENI{&m.Trunk} }

func (m branchMode) validate(p Pod) error {
	if err := m.ENI.validateMAC(); err != nil {
		return err
	}
	switch {
	case m.VLAN < 1 || m.VLAN > 4094:
		return fmt.Errorf("VLAN ID %d is not in 1..4094", m.VLAN)
	case m.Table() >= netstate.TableDefault && m.Table() <= netstate.TableLocal:
		return fmt.Errorf("VLAN ID %d would use table %d, which is the kernel's", m.VLAN, m.Table())
	case m.Enforcement != "" && m.Enforcement != Standard && !m.strict():
		return fmt.Errorf("enforcement %q is neither %q nor %q", m.Enforcement, Standard, Strict)
	}
	return m.ENI.needsSubnet(p)
}

// host has three parts: the veth pair, with the routes and rules of the per-pod layout
// or, if strict, the route in the branch ENI's table; the VLAN link with the rest of
// that table; and, if strict, the rules by incoming link.
func (m branchMode) host(p Pod) netstate.State {
	p.Layout = PerPod
	p.Addrs = slices.Clone(p.Addrs)
	for i := range p.Addrs {
		p.Addrs[i].Table = m.Table()
	}
	s := p.vethHost()
	if m.strict() {
		s.Rules = nil
		for i := range s.Routes {
			s.Routes[i].Table = m.Table()
		}
	}
	s.Links = append(s.Links, netstate.Link{
		Name: m.Link(), Kind: "vlan", Parent: m.Trunk.Link, VLAN: m.VLAN, MAC: m.ENI.MAC.String(), MTU: cmp.Or(m.ENI.MTU, m.Trunk.MTU), Up: true,
		Alias: m.alias(p).String(),
	})
	s.Sysctls = append(s.Sysctls, refuseRouter(m.Link()))
	for _, a := range p.Addrs {
		gw := m.ENI.gatewayFor(a.Addr)
		s.Routes = append(s.Routes,
			netstate.Route{Dst: netstate.HostPrefix(gw), Link: m.Link(), Table: m.Table(), Protocol: claims.RouteProtocol},
			netstate.Route{Dst: anywhere(gw), Via: gw, Link: m.Link(), Table: m.Table(), Protocol: claims.RouteProtocol})
		if m.strict() {
			rule := netstate.Rule{IPv6: gw.Is6(), Priority: claims.PriorityBranch, IIF: m.Link(), Table: m.Table(), Protocol: claims.RuleProtocol}
			s.Rules = append(s.Rules, rule)
			rule.IIF, rule.From = p.HostLink(), netstate.HostPrefix(a.Addr)
			s.Rules = append(s.Rules, rule)
			rule.Priority, rule.From, rule.Table = claims.PriorityForged, netip.Prefix{}, claims.TableNowhere
			s.Rules = append(s.Rules, rule)
		}
		s.Sysctls = append(s.Sysctls, m.sysctls(p, netstate.FamilyOf(gw))...)
	}
	return s
}

// sysctls returns the settings for one family. Reverse path filtering is off on the VLAN
// link, because it sees only one direction: a packet from a pod of this node that sends
// by the VPC comes in here, while the way back to that pod is direct. Loose filtering
// does not help, because the link has no address, without which loose is strict. The VPC
// checks sources.
func (m branchMode) sysctls(p Pod, f netstate.Family) []netstate.Sysctl {
	if f == netstate.IPv6 {
		return []netstate.Sysctl{enableIPv6(m.Link()), netstate.LinkSysctl("ipv6", m.Link(), "accept_dad", "0")}
	}
	s := []netstate.Sysctl{netstate.LinkSysctl("ipv4", m.Link(), "rp_filter", "0"), netstate.LinkSysctl("ipv4", m.Link(), "forwarding", "1")}
	if m.strict() {
		s = append(s, netstate.LinkSysctl("ipv4", p.HostLink(), "rp_filter", "2"))
	}
	return s
}

// branchRules select the rules, in either family, for packets that come in by a link of
// a pod on a branch ENI.
func branchRules(link string) []netstate.Rule {
	var rules []netstate.Rule
	for _, priority := range []int{claims.PriorityBranch, claims.PriorityForged} {
		for f := range netstate.Families() {
			rules = append(rules, netstate.Rule{IPv6: f.Is6(), Priority: priority, IIF: link, Protocol: claims.RuleProtocol})
		}
	}
	return rules
}

// enforcement returns what the node needs for pods on branch ENIs in one family, nothing
// if it has no such pods. Under Strict the lookup of table local moves from priority 0 to
// 20, behind the rules of such pods. Only the VPC router still reaches the node's own
// addresses on VLAN links at priority 0, so that neighbour discovery works.
func (n Node) enforcement(f netstate.Family) netstate.State {
	ipv6 := f.Is6()
	local := netstate.Rule{IPv6: ipv6, Table: netstate.TableLocal, Protocol: claims.RuleProtocol}
	switch n.Enforcement {
	case Standard:
		return netstate.State{Rules: []netstate.Rule{local}, Sysctls: []netstate.Sysctl{{Key: claims.EarlyDemux, Value: "1"}}}
	case Strict:
		nowhere := netstate.Route{Dst: anywhere(netip.IPv4Unspecified()), Type: "blackhole", Table: claims.TableNowhere, Protocol: claims.RouteProtocol}
		behind := local
		behind.Priority = claims.PriorityLocal
		s := netstate.State{Rules: []netstate.Rule{behind}, Sysctls: []netstate.Sysctl{{Key: claims.EarlyDemux, Value: "0"}}}
		if ipv6 {
			nowhere.Dst = anywhere(netip.IPv6Unspecified())
			local.From, local.IPProto = netstate.HostPrefix(claims.Router6), netstate.ICMPv6
			s.Rules = append(s.Rules, local)
		}
		s.Routes = []netstate.Route{nowhere}
		return s
	}
	return netstate.State{}
}

// ownsLocalRule reports whether r is a rule of enforcement, at either priority.
func (n Node) ownsLocalRule(r netstate.Rule) bool {
	return n.Enforcement != "" && r.Table == netstate.TableLocal && r.Protocol == claims.RuleProtocol && r.Other == "" &&
		(r.Priority == 0 || r.Priority == claims.PriorityLocal)
}
