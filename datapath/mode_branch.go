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

// Link returns the name of the VLAN link.
func (m *Branch) Link() string { return claims.BranchPrefix + strconv.Itoa(m.VLAN) }

// Table returns the route table of the branch ENI.
func (m *Branch) Table() int { return claims.BranchTableOffset + m.VLAN }

func (m *Branch) strict() bool { return m.Enforcement == Strict }

func (m *Branch) enis() []*ENI { return []*ENI{&m.Trunk} }

func (m *Branch) validate(p Pod) error {
	switch {
	case len(m.ENI.MAC) != 6:
		return fmt.Errorf("%s: MAC %q is not of 6 bytes", m.ENI.ID, m.ENI.MAC)
	case m.VLAN < 1 || m.VLAN > 4094 || m.Table() >= netstate.TableDefault && m.Table() <= netstate.TableLocal:
		return fmt.Errorf("VLAN ID %d is not in 1..4094 or has a table of the kernel", m.VLAN)
	case m.Enforcement != "" && m.Enforcement != Standard && !m.strict():
		return fmt.Errorf("enforcement %q is neither %q nor %q", m.Enforcement, Standard, Strict)
	}
	return m.ENI.needsSubnet(p)
}

// host has three parts: the veth pair, with the routes and rules of the per-pod
// layout or, if strict, the route in the branch ENI's table; the VLAN link with
// the rest of that table; and the rules by incoming link, if strict.
func (m *Branch) host(p Pod) netstate.State {
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
	s.Links = append(s.Links, netstate.Link{
		Name: m.Link(), Kind: "vlan", Parent: m.Trunk.Link, VLAN: m.VLAN, MAC: m.ENI.MAC.String(), MTU: cmp.Or(m.ENI.MTU, m.Trunk.MTU), Up: true,
		Alias: aliasOf(p).String(),
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
		s.Sysctls = append(s.Sysctls, m.sysctls(p, gw)...)
	}
	return s
}

// sysctls returns the settings for one family. Of the way back from a branch ENI
// reverse path filtering sees only a part: from a pod of this node that sends by
// the VPC a packet comes in here, and would return directly. The VLAN link has no
// address, without which the loose kind is strict, so there is none; the VPC checks
// sources.
func (m *Branch) sysctls(p Pod, like netip.Addr) []netstate.Sysctl {
	if like.Is6() {
		return []netstate.Sysctl{enableIPv6(m.Link()), netstate.LinkSysctl("ipv6", m.Link(), "accept_dad", "0")}
	}
	s := []netstate.Sysctl{netstate.LinkSysctl("ipv4", m.Link(), "rp_filter", "0"), netstate.LinkSysctl("ipv4", m.Link(), "forwarding", "1")}
	if m.strict() {
		s = append(s, netstate.LinkSysctl("ipv4", p.HostLink(), "rp_filter", "2"))
	}
	return s
}

func (m *Branch) sandbox(p Pod) netstate.State { return p.routedSandbox() }

// enforcement returns what the node needs for pods on branch ENIs, nothing if it
// has none. Under Strict the lookup of table local goes from priority 0 to 20,
// behind the rules of such pods; the VPC router alone still reaches the node's own
// addresses on VLAN links, so that neighbour discovery works.
func (n Node) enforcement(ipv6 bool) netstate.State {
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

// ownsLocalRule reports whether r is one of those of enforcement, in whichever
// place.
func (n Node) ownsLocalRule(r netstate.Rule) bool {
	return n.Enforcement != "" && r.Table == netstate.TableLocal && r.Protocol == claims.RuleProtocol && r.Other == "" &&
		(r.Priority == 0 || r.Priority == claims.PriorityLocal)
}
