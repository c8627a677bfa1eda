// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Branch joins the pod to a branch ENI of its own, a VLAN on the node's trunk
// ENI, so that the pod has its own security groups. Names, table and priorities
// are those of amazon-vpc-cni-k8s: the VLAN link is vlan.eth.ID and its table
// 100 + ID, in either layout.
//
// Connections are tracked in one zone, whichever branch ENI they use, for addresses
// in a VPC are unique. Under [Strict] the node tracks a connection twice if it goes
// to another of its pods by a Service; the kernel then gives one of the two another
// source port, so that the endpoint does not see the client's.
type Branch struct {
	// ENI is the branch ENI: its MAC, addresses with the subnet's length, gateways.
	// Its MTU is the trunk's if 0.
	ENI ENI
	// Trunk is the ENI that carries the VLAN.
	Trunk ENI
	// VLAN is the VLAN ID, 1 to 4094, but for 153 to 155, whose tables are the
	// kernel's own. EC2's controller uses 1 to 120.
	VLAN int
	// Enforcement must be the node's; Standard if empty.
	Enforcement Enforcement
}

// Enforcement says which packets of pods on branch ENIs pass their security
// groups.
type Enforcement string

const (
	// Standard has the node deliver packets between its own pods, and between
	// itself and them, directly: only what leaves the node passes the branch ENI.
	Standard Enforcement = "standard"
	// Strict sends everything by the branch ENI, packets of the same node
	// included. The node's lookup of its own addresses moves behind the rules of
	// such pods, and early demultiplexing is off: it takes an answer of the pod to
	// the node for the node's before routing, and the kernel then drops it. What
	// such a pod sends with a source that is not its own is dropped by a rule.
	Strict Enforcement = "strict"
)

const (
	// strictPrefix begins the names of host links under Strict instead of the
	// node's prefix, so that no rule for other pods applies.
	strictPrefix = "vlan"
	// branchPrefix begins the names of VLAN links.
	branchPrefix = "vlan.eth."
	// branchTables is added to the VLAN ID.
	branchTables = 100
)

// Link returns the name of the VLAN link.
func (m *Branch) Link() string { return branchPrefix + strconv.Itoa(m.VLAN) }

// Table returns the route table of the branch ENI.
func (m *Branch) Table() int { return branchTables + m.VLAN }

func (m *Branch) strict() bool { return m.Enforcement == Strict }

func (m *Branch) enis() []*ENI { return []*ENI{&m.Trunk} }

func (m *Branch) validate(p Pod) error {
	switch {
	case len(m.ENI.MAC) != 6:
		return fmt.Errorf("%s: MAC %q is not of 6 bytes", m.ENI.ID, m.ENI.MAC)
	case m.VLAN < 1 || m.VLAN > 4094 || m.Table() >= tableDefault && m.Table() <= tableLocal:
		return fmt.Errorf("VLAN ID %d is not in 1..4094 or has a table of the kernel", m.VLAN)
	case m.Enforcement != "" && m.Enforcement != Standard && !m.strict():
		return fmt.Errorf("enforcement %q is neither %q nor %q", m.Enforcement, Standard, Strict)
	}
	return m.ENI.needsSubnet(p)
}

// host has three parts: the veth pair, with the routes and rules of the per-pod
// layout or, if strict, the route in the branch ENI's table; the VLAN link with
// the rest of that table; and the rules by incoming link, if strict.
func (m *Branch) host(p Pod) State {
	p.Layout = PerPod
	p.Addrs = slices.Clone(p.Addrs)
	for i := range p.Addrs {
		p.Addrs[i].Table = m.Table()
	}
	s := p.routedHost()
	if m.strict() {
		s.Rules = nil
		for i := range s.Routes {
			s.Routes[i].Table = m.Table()
		}
	}
	s.Links = append(s.Links, Link{
		Name: m.Link(), Kind: "vlan", Parent: m.Trunk.Link, VLAN: m.VLAN, MAC: m.ENI.MAC.String(), MTU: cmp.Or(m.ENI.MTU, m.Trunk.MTU), Up: true,
		Alias: aliasOf(p).String(),
	})
	s.Sysctls = append(s.Sysctls, refuseRouter(m.Link()))
	for _, a := range p.Addrs {
		gw := m.ENI.gatewayFor(a.Addr)
		s.Routes = append(s.Routes,
			Route{Dst: hostPrefix(gw), Link: m.Link(), Table: m.Table(), Protocol: RouteProtocol},
			Route{Dst: anywhere(gw), Via: gw, Link: m.Link(), Table: m.Table(), Protocol: RouteProtocol})
		if m.strict() {
			rule := Rule{IPv6: gw.Is6(), Priority: PriorityBranch, IIF: m.Link(), Table: m.Table(), Protocol: ruleProtocol}
			s.Rules = append(s.Rules, rule)
			rule.IIF, rule.From = p.HostLink(), hostPrefix(a.Addr)
			s.Rules = append(s.Rules, rule)
			rule.Priority, rule.From, rule.Table = PriorityForged, netip.Prefix{}, TableNowhere
			s.Rules = append(s.Rules, rule)
		}
		s.Sysctls = append(s.Sysctls, m.sysctls(p, gw)...)
	}
	return s
}

// sysctls returns the settings for one family. Of the way back from a branch ENI
// reverse path filtering sees only a part: from a pod of this node that sends by
// the VPC a packet comes in here, and would return directly. The VLAN link has no
// address, without which the loose kind is strict, so there is none; the VPC checks
// sources.
func (m *Branch) sysctls(p Pod, like netip.Addr) []Sysctl {
	if like.Is6() {
		return []Sysctl{enableIPv6(m.Link()), linkSysctl("ipv6", m.Link(), "accept_dad", "0")}
	}
	s := []Sysctl{linkSysctl("ipv4", m.Link(), "rp_filter", "0"), linkSysctl("ipv4", m.Link(), "forwarding", "1")}
	if m.strict() {
		s = append(s, linkSysctl("ipv4", p.HostLink(), "rp_filter", "2"))
	}
	return s
}

func (m *Branch) sandbox(p Pod) State { return p.routedSandbox() }

// isBranchLink reports whether a link's routes and rules belong to pods on
// branch ENIs.
func isBranchLink(name string) bool { return strings.HasPrefix(name, strictPrefix) }

// enforcement returns what the node needs for pods on branch ENIs, nothing if it
// has none. Under Strict the lookup of table local goes from priority 0 to 20,
// behind the rules of such pods; the VPC router alone still reaches the node's own
// addresses on VLAN links, so that neighbour discovery works.
func (n Node) enforcement(ipv6 bool) State {
	local := Rule{IPv6: ipv6, Table: tableLocal, Protocol: ruleProtocol}
	switch n.Enforcement {
	case Standard:
		return State{Rules: []Rule{local}, Sysctls: []Sysctl{{earlyDemux, "1"}}}
	case Strict:
		nowhere := Route{Dst: anywhere(netip.IPv4Unspecified()), Type: "blackhole", Table: TableNowhere, Protocol: RouteProtocol}
		behind := local
		behind.Priority = PriorityLocal
		s := State{Rules: []Rule{behind}, Sysctls: []Sysctl{{earlyDemux, "0"}}}
		if ipv6 {
			nowhere.Dst = anywhere(netip.IPv6Unspecified())
			local.From, local.IPProto = hostPrefix(router6), icmp6
			s.Rules = append(s.Rules, local)
		}
		s.Routes = []Route{nowhere}
		return s
	}
	return State{}
}

// earlyDemux is for both families.
const earlyDemux = "net.ipv4.ip_early_demux"

// ownsLocalRule reports whether r is one of those of enforcement, in whichever
// place.
func (n Node) ownsLocalRule(r Rule) bool {
	return n.Enforcement != "" && r.Table == tableLocal && r.Protocol == ruleProtocol && r.Other == "" &&
		(r.Priority == 0 || r.Priority == PriorityLocal)
}
