// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Mode says how a pod is joined to the VPC. At most one field is set. If no field is
// set, the pod has a veth pair and the layout of the node finds its ENI.
type Mode struct {
	IPVLAN *IPVLAN   `json:",omitempty"`
	Whole  *WholeENI `json:",omitempty"`
	Branch *Branch   `json:",omitempty"`
	Bridge *Bridge   `json:",omitempty"`
}

// String returns the word for the mode: veth, ipvlan, eni, branch or bridge.
func (m Mode) String() string { return cmp.Or(Pod{Mode: m}.mode().kind(), "veth") }

// fields returns the fields of m. This list and the fields of Mode are all that a new
// mode adds outside its own files.
func (m *Mode) fields() []field {
	return []field{at(&m.IPVLAN), at(&m.Whole), at(&m.Branch), at(&m.Bridge)}
}

// mode is how a pod is joined to the VPC. Its methods are pure functions; those of
// effects work on the kernel.
type mode interface {
	// kind is the word for the mode in the aliases of links. It is "" for the veth
	// pair that the layout routes, which needs no alias.
	kind() string
	// hostPrefix begins the name of the pod's host link.
	hostPrefix(p Pod) string
	// links returns the names of the links that the pod has beside its host link.
	links(p Pod) podLinks
	// nodeLink returns the link of the node by which packets to the pod leave; "" if
	// the node has no part in them.
	nodeLink(p Pod) string
	// mac returns the MAC of the pod's interface in the sandbox.
	mac(p Pod) net.HardwareAddr
	// gateway returns the address that the pod sends packets to in the family of a.
	gateway(p Pod, a netip.Addr) netip.Addr
	// alias returns the alias of the pod's links, the zero alias if they need none.
	alias(p Pod) alias
	// host and sandbox return what the pod needs on the node and in its sandbox.
	host(p Pod) netstate.State
	sandbox(p Pod) netstate.State
	// validate reports what makes the mode impossible for p.
	validate(p Pod) error
	// enis returns the ENIs of which the pod needs the link on the node.
	enis() []*ENI

	effects
}

// podLinks are the names of links of one pod.
type podLinks struct {
	// peer is the sandbox side of the veth pair; the other end is the host link. It is
	// "" if the mode has no veth pair.
	peer string
	// own is a further link on the node that belongs to the pod alone, shared one that
	// belongs to other pods too. Optional.
	own, shared string
	// moved is a link of the node that moves into the sandbox. Optional.
	moved string
}

// field is one field of a Mode.
type field interface {
	isSet() bool
	// mode returns the mode with the field's value, or with its zero value.
	mode() mode
	// clone replaces the field's value by a copy.
	clone()
}

// variant is the type of a field of Mode: a pointer to a T that knows its mode.
type variant[T any] interface {
	*T
	asMode() mode
}

type fieldAt[T any, V variant[T]] struct{ value *V }

func at[T any, V variant[T]](value *V) field { return fieldAt[T, V]{value} }

func (f fieldAt[T, V]) isSet() bool { return *f.value != nil }

func (f fieldAt[T, V]) mode() mode {
	if !f.isSet() {
		return V(new(T)).asMode()
	}
	return (*f.value).asMode()
}

func (f fieldAt[T, V]) clone() {
	if f.isSet() {
		v := *(*T)(*f.value)
		*f.value = &v
	}
}

// mode returns the mode of p, the first one if several fields of p.Mode are set.
func (p Pod) mode() mode {
	if p.Mode == (Mode{}) {
		return vethMode{}
	}
	return p.Mode.first()
}

// first returns the first mode of m that is set. It is apart from Pod.mode because fields
// takes the addresses of m, for which each call allocates.
func (m Mode) first() mode {
	for _, f := range m.fields() {
		if f.isSet() {
			return f.mode()
		}
	}
	return vethMode{}
}

// everyMode returns all modes but the routed veth pair: that of p as it is, the others
// with their zero values.
func (p Pod) everyMode() (modes []mode) {
	for _, f := range p.Mode.fields() {
		modes = append(modes, f.mode())
	}
	return modes
}

// owners returns the names that the pod's host link may have in any mode: those that the
// aliases of its links may name.
func (p Pod) owners() []string {
	return []string{
		HostLinkName(vethMode{}.hostPrefix(p), p.ContainerID, p.IfName),
		HostLinkName(claims.StrictPrefix, p.ContainerID, p.IfName),
	}
}

// retiredName returns the name of a retired link of the pod's veth pair. It has the prefix of
// the pod's host link, so that the node's filter still takes the link for that of a pod.
func (p Pod) retiredName(index int) string {
	return claims.RetiredName(vethMode{}.hostPrefix(p), index)
}

// hostLinkNames returns the names by which DelPod finds the host link. A caller that does
// not know the mode leaves p.Mode zero.
func (p Pod) hostLinkNames() []string {
	if p.Mode == (Mode{}) {
		return p.owners()
	}
	return []string{p.HostLink()}
}

func (m Mode) validate(p Pod) error {
	set := 0
	for _, f := range m.fields() {
		if f.isSet() {
			set++
		}
	}
	if set > 1 {
		return errors.New("more than one mode")
	}
	errs := []error{p.mode().validate(p)}
	for _, e := range p.mode().enis() {
		errs = append(errs, e.validateMAC())
	}
	return errors.Join(errs...)
}

// validateMAC reports a MAC that no Ethernet link can have.
func (e ENI) validateMAC() error {
	if len(e.MAC) != 6 {
		return fmt.Errorf("%s: MAC %q has %d bytes, want 6", e.ID, e.MAC, len(e.MAC))
	}
	return nil
}

// Resolve returns p with the names of the links that its mode needs, as far as they
// were unknown, and with its host link if another program has made it. It returns ErrNoLink
// if no link has the MAC of an ENI.
func (p Pod) Resolve(links []netstate.Link) (Pod, error) {
	return Desired{Pods: []Pod{p}}.resolved(links).Pods[0].withENIs(links)
}

// withENIs is Resolve for a pod with a known host link.
func (p Pod) withENIs(links []netstate.Link) (Pod, error) {
	if p.Mode == (Mode{}) {
		return p, nil
	}
	p.Mode = p.Mode.cloned()
	for _, e := range p.mode().enis() {
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

// cloned returns a copy of m with fields that may be changed.
func (m Mode) cloned() Mode {
	for _, f := range m.fields() {
		f.clone()
	}
	return m
}

// fromNode reports whether the pod's addresses are those of an ENI of the node. In other
// modes they belong to an ENI or a network of the pod's own.
func (p Pod) fromNode() bool { return p.Mode == (Mode{}) }

// adoptable reports whether another program may have wired the pod: amazon-vpc-cni-k8s has
// pods with the zero mode and with a Branch.
func (p Pod) adoptable() bool { return p.fromNode() || p.Mode.Branch != nil }

// HostState returns what the pod needs on the node. The ENIs of its mode must have
// their Link filled in.
func (p Pod) HostState() netstate.State { return p.mode().host(p).Canonical() }

// SandboxState returns what the pod needs in its sandbox.
func (p Pod) SandboxState() netstate.State { return p.mode().sandbox(p).Canonical() }

// NodeLink returns the link of the node by which packets to the pod leave: its host
// link or its bridge. It is empty for a whole ENI, which is in the sandbox.
func (p Pod) NodeLink() string { return p.mode().nodeLink(p) }

// peer returns the name of the sandbox side of the pod's veth pair, "" if it has none.
func (p Pod) peer() string { return p.mode().links(p).peer }

// sandboxTable returns the route table of the pod's interface in its sandbox.
func (p Pod) sandboxTable() int {
	if p.Index > 0 {
		return p.Index
	}
	return netstate.TableMain
}

// uplink returns what makes a link of the sandbox the pod's way to the VPC: its
// addresses, the default route by the gateway of each family, and, on interfaces
// beyond the first, the rules that choose between them.
func (p Pod) uplink(link string, gateway func(netip.Addr) netip.Addr) netstate.State {
	var s netstate.State
	table := p.sandboxTable()
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
			s.Rules = append(s.Rules, p.sandboxRule(a.Addr), sandboxLastRule(netstate.FamilyOf(gw), p.Index))
		}
	}
	if p.hasFamily(netstate.IPv6) {
		// Without IPv6 on lo the pod does not reach its own address.
		s.Sysctls = []netstate.Sysctl{enableIPv6(link), enableIPv6("lo")}
	}
	return s
}

// sandboxRule returns the rule that chooses the pod's interface for packets from one of
// its addresses, if the interface is not the first one of the sandbox.
func (p Pod) sandboxRule(a netip.Addr) netstate.Rule {
	return netstate.Rule{
		IPv6: a.Is6(), Priority: claims.PriorityInSandbox, From: netstate.HostPrefix(a), Table: p.Index, Protocol: claims.RuleProtocol,
	}
}

// sandboxLastRule returns the rule that leads packets without a route in table main to the
// interface with that index. A sandbox that has lost its first interface still reaches the
// VPC by it, also from sockets without an address.
func sandboxLastRule(f netstate.Family, index int) netstate.Rule {
	return netstate.Rule{IPv6: f.Is6(), Priority: claims.LastInSandbox + index, Table: index, Protocol: claims.RuleProtocol}
}

// sandboxRules returns those of the rules of a sandbox that belong to the interface with
// these addresses.
func sandboxRules(have []netstate.Rule, addrs []PodAddr) (rules []netstate.Rule) {
	own := map[netstate.Rule]bool{}
	for _, r := range have {
		for _, a := range addrs {
			if want := (Pod{Index: r.Table}).sandboxRule(a.Addr); r == want {
				own[r], own[sandboxLastRule(netstate.FamilyOf(a.Addr), r.Table)] = true, true
			}
		}
	}
	return filtered(have, func(r netstate.Rule) bool { return own[r] })
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

// needsSubnet returns an error if the gateway for an address of p cannot be known, because
// e has neither a subnet nor a gateway in the family of the address.
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

// validateMAC reports a MAC that the pod's interface cannot have.
func (p Pod) validateMAC() error {
	if len(p.MAC) == 0 {
		return nil
	}
	if !p.adoptable() {
		return errors.New("MAC: want none, because the mode decides it")
	}
	return ValidateMAC(p.MAC)
}
