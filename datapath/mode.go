// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Mode says how a pod is joined to the VPC. At most one field is set; without
// any the pod has a veth pair and the node's layout finds its ENI.
type Mode struct {
	IPVLAN *IPVLAN   `json:",omitempty"`
	Whole  *WholeENI `json:",omitempty"`
	Branch *Branch   `json:",omitempty"`
	Bridge *Bridge   `json:",omitempty"`
}

// wirer is what a mode is made of: pure functions from a pod to what it needs
// on either side.
type wirer interface {
	// host is the pod's part of the node, sandbox its part of the sandbox.
	host(p Pod) netstate.State
	sandbox(p Pod) netstate.State
	// validate reports what makes the mode impossible for p.
	validate(p Pod) error
	// enis returns the ENIs whose links it needs on the node.
	enis() []*ENI
}

// wirers returns the mode as a list that has one element if it is valid.
func (m Mode) wirers() []wirer {
	var w []wirer
	if m.IPVLAN != nil {
		w = append(w, m.IPVLAN)
	}
	if m.Whole != nil {
		w = append(w, m.Whole)
	}
	if m.Branch != nil {
		w = append(w, m.Branch)
	}
	if m.Bridge != nil {
		w = append(w, m.Bridge)
	}
	if len(w) == 0 {
		w = append(w, routed{})
	}
	return w
}

func (m Mode) wirer() wirer { return m.wirers()[0] }

// isVeth reports whether m is the veth pair that a layout routes.
func (m Mode) isVeth() bool { return m == Mode{} }

func (m Mode) validate(p Pod) error {
	w := m.wirers()
	if len(w) > 1 {
		return errors.New("more than one mode")
	}
	errs := []error{w[0].validate(p)}
	for _, e := range w[0].enis() {
		if len(e.MAC) != 6 {
			errs = append(errs, fmt.Errorf("%s: MAC %q is not of 6 bytes", e.ID, e.MAC))
		}
	}
	return errors.Join(errs...)
}

// Resolve returns p with the names of the links that its mode needs, as far as
// they were unknown.
func (p Pod) Resolve(links []netstate.Link) (Pod, error) {
	p.Mode = p.Mode.clone()
	for _, e := range p.Mode.wirer().enis() {
		if e.Link != "" {
			continue
		}
		n, err := Node{ENIs: []ENI{*e}}.Resolve(links)
		if err != nil {
			return p, err
		}
		e.Link = n.ENIs[0].Link
	}
	return p, nil
}

// clone returns a Mode of its own.
func (m Mode) clone() Mode {
	return Mode{IPVLAN: cloned(m.IPVLAN), Whole: cloned(m.Whole), Branch: cloned(m.Branch), Bridge: cloned(m.Bridge)}
}

func cloned[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// HostState returns what the pod needs on the node. ENIs of its mode must have
// their Link filled in.
func (p Pod) HostState() netstate.State { return p.Mode.wirer().host(p).Canonical() }

// SandboxState returns what the pod needs in its sandbox.
func (p Pod) SandboxState() netstate.State { return p.Mode.wirer().sandbox(p).Canonical() }

// wiring returns what [Pod.Wiring] does. A whole ENI has no host link.
func (m Mode) wiring(p Pod) Wiring {
	w := Wiring{
		HostLink: p.HostLink(), SandboxLink: p.IfName,
		HostMAC: p.HostMAC(), SandboxMAC: p.SandboxMAC(),
		MTU: p.MTU,
	}
	gateway := func(a netip.Addr) netip.Addr { return Gateway(a, p.Index) }
	switch {
	case m.IPVLAN != nil:
		w.SandboxMAC, gateway = m.IPVLAN.ENI.MAC, m.IPVLAN.ENI.gatewayFor
	case m.Whole != nil:
		w.HostLink, w.HostMAC = "", nil
		w.SandboxMAC, gateway = m.Whole.ENI.MAC, m.Whole.ENI.gatewayFor
	}
	for _, a := range p.Addrs {
		w.Addrs = append(w.Addrs, netstate.HostPrefix(a.Addr))
		w.Gateways = append(w.Gateways, gateway(a.Addr))
	}
	return w
}

// routed is the mode of a veth pair whose packets the layout routes.
type routed struct{}

func (routed) host(p Pod) netstate.State    { return p.routedHost() }
func (routed) sandbox(p Pod) netstate.State { return p.routedSandbox() }
func (routed) validate(Pod) error           { return nil }
func (routed) enis() []*ENI                 { return nil }

// nodeEnd returns the link of the node that packets to the pod leave by: its host link,
// or its bridge; empty for a whole ENI, which is in the sandbox.
func (p Pod) NodeLink() string {
	switch {
	case p.Mode.Whole != nil:
		return ""
	case p.Mode.Bridge != nil:
		return p.Mode.Bridge.LinkName()
	}
	return p.HostLink()
}

// sandboxEnd is the name of the sandbox side of the pod's veth pair; empty if it
// has none.
func (p Pod) sandboxEnd() string {
	switch {
	case p.Mode.Whole != nil:
		return ""
	case p.Mode.IPVLAN != nil:
		return p.Mode.IPVLAN.nodeLink(p)
	}
	return p.IfName
}

// uplink returns what makes a link of the sandbox the pod's way to the VPC: its
// addresses, the default route by the gateway of each family, and, on interfaces
// beyond the first, the rules that choose between them.
func (p Pod) uplink(link string, gateway func(netip.Addr) netip.Addr) netstate.State {
	var s netstate.State
	table := netstate.TableMain
	if p.Index > 0 {
		table = p.Index
	}
	for _, a := range p.Addrs {
		gw, host := gateway(a.Addr), netstate.HostPrefix(a.Addr)
		s.Addresses = append(s.Addresses, netstate.Address{Link: link, Prefix: host})
		s.Routes = append(s.Routes,
			netstate.Route{Dst: netstate.HostPrefix(gw), Link: link, Table: netstate.TableMain, Protocol: claims.RouteProtocol},
			netstate.Route{Dst: anywhere(gw), Via: gw, Link: link, Table: table, MTU: p.pathMTU(anywhere(gw)), Protocol: claims.RouteProtocol})
		for _, m := range p.PathMTUs {
			if m.Prefix.Addr().Is4() == gw.Is4() && m.Prefix.Bits() > 0 {
				s.Routes = append(s.Routes, netstate.Route{Dst: m.Prefix.Masked(), Via: gw, Link: link, Table: table, MTU: m.MTU, Protocol: claims.RouteProtocol})
			}
		}
		if p.Index > 0 {
			s.Rules = append(s.Rules, netstate.Rule{IPv6: gw.Is6(), Priority: claims.PriorityInSandbox, From: host, Table: p.Index, Protocol: claims.RuleProtocol})
		}
	}
	if p.speaks(true) {
		// Without IPv6 on lo the pod does not reach its own address.
		s.Sysctls = []netstate.Sysctl{enableIPv6(link), enableIPv6("lo")}
	}
	return s
}

func enableIPv6(link string) netstate.Sysctl {
	return netstate.LinkSysctl("ipv6", link, "disable_ipv6", "0")
}

// refuseRouter keeps a link from taking addresses and routes from router
// advertisements.
func refuseRouter(link string) netstate.Sysctl {
	return netstate.LinkSysctl("ipv6", link, "accept_ra", "0")
}

// gatewayFor returns the VPC router's address in the family of a.
func (e ENI) gatewayFor(a netip.Addr) netip.Addr {
	for _, p := range e.Addrs {
		if p.Addr().Is4() == a.Is4() {
			return e.gateway(p)
		}
	}
	return e.gateway(netstate.HostPrefix(a))
}

// needsSubnet reports that the gateway of a cannot be known.
func (e ENI) needsSubnet(p Pod) error {
	for _, a := range p.Addrs {
		known := a.Addr.Is6()
		for _, s := range e.Addrs {
			known = known || s.Addr().Is4() == a.Addr.Is4()
		}
		for _, g := range e.Gateways {
			known = known || g.Is4() == a.Addr.Is4()
		}
		if !known {
			return fmt.Errorf("%s: neither subnet nor gateway for %s", e.ID, a.Addr)
		}
	}
	return nil
}
