// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// IPVLAN gives the pod an ipvlan link, in L2 mode, on the ENI that owns its
// addresses: what the pod exchanges with the VPC does not go through the node's
// routing at all. A veth pair beside it, as in the mode without name, carries the
// rest: packets between node and pod, services, and what the node translates.
//
// The ENI stays with the node. Nothing but EC2's source check keeps the pod from
// sending with another address of the same ENI. An address cannot be given to a
// pod while the ipvlan link of another still has it (EADDRINUSE): that pod's DEL
// must have known its sandbox, or the sandbox be gone.
//
// The answers of what is reached by the ENI come by the ENI, past the node: a
// Service with endpoints there needs a kube-proxy that masquerades all. And what
// the node itself has on that ENI, pods with a veth pair say, cannot be reached.
type IPVLAN struct {
	// ENI is the one below, which the node has as well.
	ENI ENI
	// Direct are the destinations reached by the ENI, as the VPC's prefixes and
	// those of peered networks.
	Direct []netip.Prefix
	// Except are destinations among them that are reached by the node: its own
	// addresses, above all. Optional.
	Except []netip.Prefix
}

func (m *IPVLAN) enis() []*ENI { return []*ENI{&m.ENI} }

func (m *IPVLAN) validate(p Pod) error {
	if p.Index > 9 {
		return fmt.Errorf("interface index %d with ipvlan is not in 0..9", p.Index)
	}
	if m.nodeLink(p) == p.IfName {
		return fmt.Errorf("interface name %q is that of the veth pair beside ipvlan", p.IfName)
	}
	return m.ENI.needsSubnet(p)
}

// nodeLink is the name of the sandbox side of the veth pair.
func (m *IPVLAN) nodeLink(p Pod) string { return fmt.Sprintf("node%d", p.Index) }

func (m *IPVLAN) host(p Pod) netstate.State { return p.routedHost() }

// sandbox is that of a veth pair with the addresses on the ipvlan link instead,
// because that link takes packets for the addresses that it has, and with the
// routes by the ENI. Siblings on the ENI are asked for themselves: the VPC does
// not send back what comes from an ENI.
func (m *IPVLAN) sandbox(p Pod) netstate.State {
	s := p.routedSandbox()
	for i := range s.Addresses {
		s.Addresses[i].Link = p.IfName
	}
	s.Links = append(s.Links, netstate.Link{Name: p.IfName, Kind: "ipvlan", MAC: m.ENI.MAC.String(), MTU: p.MTU, Up: true})
	s.Sysctls = append(s.Sysctls, refuseRouter(p.IfName))
	table := netstate.TableMain
	if p.Index > 0 {
		table = p.Index
	}
	var ways []netstate.Route
	add := func(dst netip.Prefix, via netip.Addr, link string) {
		ways = append(ways, netstate.Route{Dst: dst.Masked(), Via: via, Link: link, Table: table, MTU: p.pathMTU(dst), Protocol: claims.RouteProtocol})
	}
	for _, a := range p.Addrs {
		gw := m.ENI.gatewayFor(a.Addr)
		add(netstate.HostPrefix(gw), netip.Addr{}, p.IfName)
		for _, subnet := range m.ENI.Addrs {
			if subnet.Addr().Is4() == gw.Is4() {
				add(subnet, netip.Addr{}, p.IfName)
			}
		}
		for _, dst := range m.Direct {
			if dst.Addr().Is4() == gw.Is4() && dst.Bits() > 0 {
				add(dst, gw, p.IfName)
			}
		}
		for _, dst := range m.Except {
			if dst.Addr().Is4() == gw.Is4() {
				add(dst, Gateway(a.Addr, p.Index), m.nodeLink(p))
			}
		}
		if gw.Is4() {
			// The answer to what went by one link may come by the other. On a link
			// without an address even loose reverse path filtering is strict.
			s.Addresses = append(s.Addresses, netstate.Address{Link: m.nodeLink(p), Prefix: netstate.HostPrefix(a.Addr)})
			s.Sysctls = append(s.Sysctls, netstate.LinkSysctl("ipv4", p.IfName, "rp_filter", "2"), netstate.LinkSysctl("ipv4", m.nodeLink(p), "rp_filter", "2"))
		} else {
			s.Sysctls = append(s.Sysctls, enableIPv6(p.IfName), netstate.LinkSysctl("ipv6", p.IfName, "accept_dad", "0"))
		}
	}
	s.Routes = append(redirect(s.Routes, ways), ways...)
	return s
}

// redirect has the destinations with an MTU of their own reached as what they are
// part of.
func redirect(routes, ways []netstate.Route) (all []netstate.Route) {
	for _, r := range routes {
		best := netstate.Route{}
		for _, w := range ways {
			if r.Via.IsValid() && r.Dst.Bits() >= w.Dst.Bits() && w.Dst.Contains(r.Dst.Addr()) && (!best.Dst.IsValid() || w.Dst.Bits() > best.Dst.Bits()) {
				best = w
			}
		}
		switch {
		case !best.Dst.IsValid():
			all = append(all, r)
		case best.Dst != r.Dst:
			r.Via, r.Link = best.Via, best.Link
			all = append(all, r)
		}
	}
	return all
}
