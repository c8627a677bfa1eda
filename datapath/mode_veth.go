// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// vethMode is the mode of a pod with the zero Mode: a veth pair between node and sandbox,
// which the layout of the node routes. Most other modes are such a pair and something
// beside it: they embed vethMode.
type vethMode struct{}

func (vethMode) kind() string                           { return "" }
func (vethMode) hostPrefix(p Pod) string                { return Node{HostLinkPrefix: p.HostLinkPrefix}.prefix() }
func (vethMode) links(p Pod) podLinks                   { return podLinks{peer: p.IfName} }
func (vethMode) nodeLink(p Pod) string                  { return p.HostLink() }
func (vethMode) mac(p Pod) net.HardwareAddr             { return p.SandboxMAC() }
func (vethMode) gateway(p Pod, a netip.Addr) netip.Addr { return claims.Gateway(a, p.Index) }
func (vethMode) alias(Pod) alias                        { return alias{} }
func (vethMode) host(p Pod) netstate.State              { return p.vethHost() }
func (vethMode) sandbox(p Pod) netstate.State           { return p.vethSandbox() }
func (vethMode) validate(Pod) error                     { return nil }
func (vethMode) enis() []*ENI                           { return nil }

// vethHost returns the host side of a veth pair and the routes and rules by which
// packets find it. The link has ARP off: both ends have permanent entries for each other,
// and a pod could otherwise fill the node's neighbour table, which all its links share, with
// ARP requests from made-up addresses.
//
// The link of a pod that another program has wired keeps its ARP, because the kernel would
// drop its neighbours at the change, and its MTU, which the other end has too.
func (p Pod) vethHost() netstate.State {
	link := netstate.Link{
		Name: p.HostLink(), Kind: "veth", MAC: p.HostMAC().String(), MTU: p.MTU, Up: true, NoARP: true, Peer: p.peer(),
	}
	name := link.Name
	if p.Adopted.Link != "" {
		link.MTU, link.NoARP = 0, false
	}
	s := netstate.State{Links: []netstate.Link{link}}
	s.Sysctls = p.hostSysctls(name)
	table := claims.TablePods
	if p.layout() == PerPod {
		table = netstate.TableMain
	}
	for _, a := range p.Addrs {
		dst := netstate.HostPrefix(a.Addr)
		s.Neighbors = append(s.Neighbors, netstate.Neighbor{Link: name, Addr: a.Addr, MAC: p.SandboxMAC().String()})
		s.Routes = append(s.Routes, netstate.Route{Dst: dst, Link: name, Table: table, Protocol: claims.RouteProtocol})
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

// hostSysctls returns the settings of the link on the node that leads to the pod, for the
// families that the pod has. The node takes no router advertisements from a pod; AddPod
// also refuses them for a pod without IPv6, if it can. The link forwards by a setting of its
// own, so that it does not follow changes of the node's setting.
func (p Pod) hostSysctls(link string) []netstate.Sysctl {
	var s []netstate.Sysctl
	if p.hasFamily(netstate.IPv4) {
		s = append(s, netstate.LinkSysctl("ipv4", link, "forwarding", "1"))
	}
	if p.hasFamily(netstate.IPv6) {
		s = append(s, refuseRouter(link), enableIPv6(link))
	}
	return s
}

// vethSandbox returns the sandbox side of a veth pair: everything goes to the node.
func (p Pod) vethSandbox() netstate.State {
	peer := p.peer()
	s := p.uplink(peer, func(a netip.Addr) netip.Addr { return claims.Gateway(a, p.Index) })
	s.Links = []netstate.Link{{Name: peer, Kind: "veth", MAC: p.SandboxMAC().String(), MTU: p.MTU, Up: true}}
	for _, a := range p.Addrs {
		s.Neighbors = append(s.Neighbors, netstate.Neighbor{Link: peer, Addr: claims.Gateway(a.Addr, p.Index), MAC: p.HostMAC().String()})
	}
	return s
}
