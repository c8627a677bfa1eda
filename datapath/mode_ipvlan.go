// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// IPVLAN gives the pod an ipvlan link, in L2 mode, on the ENI that owns its addresses.
// Packets between the pod and the VPC bypass the routing of the node. The pod also has a veth
// pair, as in the zero Mode, for all other packets: those between node and pod, to services,
// and those that the node translates.
//
// The ENI stays with the node. Only EC2's source check keeps the pod from sending with
// another address of the same ENI. An address cannot be given to a pod while the ipvlan
// link of another pod still has it (EADDRINUSE): either the DEL of that pod has known
// its sandbox, or the sandbox must be gone.
//
// Answers to packets that were sent by the ENI come back by the ENI, past the node, so
// that a Service with endpoints in the VPC needs a kube-proxy that masquerades all
// traffic. The pod cannot reach what the node itself has on that ENI, such as pods with
// a veth pair.
type IPVLAN struct {
	// ENI carries the link. It stays on the node and is in Node.ENIs too.
	ENI ENI
	// Direct are the destinations reached by the ENI, such as the VPC's prefixes and
	// those of peered networks.
	Direct []netip.Prefix
	// Except are destinations within Direct that are reached by the node, above all the
	// node's own addresses. Optional.
	Except []netip.Prefix
}

// ipvlanMode is the mode of a pod with an IPVLAN link.
type ipvlanMode struct {
	vethMode
	*IPVLAN
}

func (m *IPVLAN) asMode() mode { return ipvlanMode{IPVLAN: m} }

func (m ipvlanMode) kind() string { return "ipvlan" }

// links has another name for the sandbox side of the veth pair, because the pod's
// interface is the ipvlan link.
func (m ipvlanMode) links(p Pod) podLinks { return podLinks{peer: fmt.Sprintf("node%d", p.Index)} }

func (m ipvlanMode) mac(Pod) net.HardwareAddr { return m.ENI.MAC }

func (m ipvlanMode) gateway(_ Pod, a netip.Addr) netip.Addr { return m.ENI.gatewayFor(a) }

func (m ipvlanMode) alias(p Pod) alias {
	return alias{owner: p.HostLink(), mode: m.kind(), link: p.IfName}
}

func (m ipvlanMode) enis() []*ENI { return []*ENI{&m.ENI} }

func (m ipvlanMode) validate(p Pod) error {
	if p.Index > 9 {
		return fmt.Errorf("interface index %d with ipvlan is not in 0..9", p.Index)
	}
	if p.peer() == p.IfName {
		return fmt.Errorf("interface name %q is that of the veth pair beside ipvlan", p.IfName)
	}
	return m.ENI.needsSubnet(p)
}

// sandbox returns the sandbox side of a veth pair with two differences. The addresses
// are on the ipvlan link, which takes packets only for addresses that it has. Further
// routes lead by the ENI. The pod resolves other addresses of the ENI's subnet itself,
// because the VPC does not send packets back to the ENI that they came from.
func (m ipvlanMode) sandbox(p Pod) netstate.State {
	s := p.vethSandbox()
	for i := range s.Addresses {
		s.Addresses[i].Link = p.IfName
	}
	s.Links = append(s.Links, netstate.Link{Name: p.IfName, Kind: "ipvlan", MAC: m.ENI.MAC.String(), MTU: p.MTU, Up: true})
	s.Sysctls = append(s.Sysctls, refuseRouter(p.IfName))
	direct := m.directRoutes(p)
	for _, a := range p.Addrs {
		if a.Addr.Is4() {
			// The answer to a packet that left by one link may come by the other. On a
			// link without an address even loose reverse path filtering is strict.
			s.Addresses = append(s.Addresses, netstate.Address{Link: p.peer(), Prefix: netstate.HostPrefix(a.Addr)})
			s.Sysctls = append(s.Sysctls, netstate.LinkSysctl("ipv4", p.IfName, "rp_filter", "2"), netstate.LinkSysctl("ipv4", p.peer(), "rp_filter", "2"))
		} else {
			s.Sysctls = append(s.Sysctls, enableIPv6(p.IfName), netstate.LinkSysctl("ipv6", p.IfName, "accept_dad", "0"))
		}
	}
	s.Routes = append(followDirect(s.Routes, direct), direct...)
	return s
}

// directRoutes returns the routes by the ENI, and those to exceptions by the node.
func (m ipvlanMode) directRoutes(p Pod) (routes []netstate.Route) {
	add := func(dst netip.Prefix, via netip.Addr, link string) {
		routes = append(routes, netstate.Route{
			Dst: dst.Masked(), Via: via, Link: link, Table: p.sandboxTable(), MTU: p.pathMTU(dst), Protocol: claims.RouteProtocol,
		})
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
				add(dst, claims.Gateway(a.Addr, p.Index), p.peer())
			}
		}
	}
	return routes
}

// followDirect returns routes in which each route by a gateway, such as one with an MTU
// for a part of Direct, takes the gateway and the link of the longest prefix in direct
// that contains it. A route to the same prefix as one in direct is left out.
func followDirect(routes, direct []netstate.Route) (all []netstate.Route) {
	for _, r := range routes {
		best := netstate.Route{}
		for _, d := range direct {
			if r.Via.IsValid() && r.Dst.Bits() >= d.Dst.Bits() && d.Dst.Contains(r.Dst.Addr()) && (!best.Dst.IsValid() || d.Dst.Bits() > best.Dst.Bits()) {
				best = d
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
