// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Layout chooses how the kernel finds the ENI of a pod's packet.
type Layout string

const (
	// Flat keeps pods' routes in one table and finds the ENI by a map from
	// source to mark: the cost of a packet does not grow with the pods. It is
	// the default.
	Flat Layout = "flat"
	// PerPod makes the rules of amazon-vpc-cni-k8s, two a pod, and one more for each
	// ENI: see [PriorityPrimaryMark].
	PerPod Layout = "per-pod"
)

// Node is what a node's network shall be, without its pods.
type Node struct {
	// Layout is Flat if empty.
	Layout Layout
	// ENIs lists the primary ENI and every ENI whose addresses pods use.
	// Interfaces that are not listed are never touched.
	ENIs []ENI
	// HostLinkPrefix begins the names of host links; "eni" if empty.
	HostLinkPrefix string
	// ServicePrefixes are reached by the primary ENI whatever the pod's own.
	// Optional.
	ServicePrefixes []netip.Prefix
	// Enforcement prepares the node for pods with [Branch]; without it the rules
	// of table local stay as they are.
	Enforcement Enforcement
	// InUse are addresses of ENI.Sources that something else uses than pods that AddPod
	// has wired in this layout, such as a pod of another CNI plugin; see
	// [Handle.InUse]. The node's other tables decide about packets to them. The node
	// answers for all other addresses of ENI.Sources that no pod has with
	// unreachable. Optional.
	InUse []netip.Addr
	// RefuseMetadata rejects pods' packets to the instance metadata service.
	RefuseMetadata bool
}

// ENI is one elastic network interface of a node.
type ENI struct {
	ID string
	// MAC finds the link; the name a system gives it does not matter.
	MAC net.HardwareAddr
	// Link is the link's name. [Handle.EnsureNode] fills it in by MAC; set it
	// only to compute a State without a kernel.
	Link string
	// Card and Device are EC2's network card index, 0 to 99, and device index, 0
	// to 99, on card 0 to 251. Both 0 is the primary ENI.
	Card, Device int
	// Addrs are the ENI's own addresses, one a family, with the length of the
	// subnet's prefix. On the primary ENI the system configures them and they
	// only say which families the node has.
	Addrs []netip.Prefix
	// Gateways are the VPC router's addresses in the subnet, one a family.
	// Without one it is EC2's: the subnet's base plus one, and fe80:ec2::1.
	Gateways []netip.Addr
	// Sources are all addresses and delegated prefixes of the ENI that pods
	// may use, whether a pod uses them now or not.
	Sources []netip.Prefix
	// MTU in bytes, 68 to 65535, with IPv6 at least 1280; left as it is if 0.
	MTU int
	// Number replaces the default of [Number] if not 0; 1 to 127.
	Number int
}

// Primary reports whether e is the node's primary ENI.
func (e ENI) Primary() bool { return e.Card == 0 && e.Device == 0 }

// Table returns the number of the ENI's route table.
func (e ENI) Table() int { return Table(e.Card, e.Device) }

func (e ENI) MarkNumber() int {
	if e.Number != 0 {
		return e.Number
	}
	return Number(e.Card, e.Device)
}

// gateway returns the VPC router's address for the family of p.
func (e ENI) gateway(p netip.Prefix) netip.Addr {
	for _, g := range e.Gateways {
		if g.Is4() == p.Addr().Is4() {
			return g
		}
	}
	if p.Addr().Is4() {
		return p.Masked().Addr().Next()
	}
	return claims.Router6
}

func (n Node) layout() Layout {
	if n.Layout == "" {
		return Flat
	}
	return n.Layout
}

func (n Node) prefix() string {
	if n.HostLinkPrefix == "" {
		return claims.DefaultHostLinkPrefix
	}
	return n.HostLinkPrefix
}

// Validate reports what makes n impossible to set up: an unknown layout, no
// primary ENI, two ENIs at one place, with one MAC or one number, sources that
// overlap, numbers out of their range, a prefix for host links that is too long or
// has other bytes than a-z and 0-9.
func (n Node) Validate() error {
	var errs []error
	if l := n.layout(); l != Flat && l != PerPod {
		errs = append(errs, fmt.Errorf("layout %q is neither %q nor %q", l, Flat, PerPod))
	}
	if err := validPrefix(n.prefix()); err != nil {
		errs = append(errs, err)
	}
	if claims.IsBranchLink(n.prefix()) {
		errs = append(errs, fmt.Errorf("host link prefix %q is that of branch ENIs", n.prefix()))
	}
	if n.Enforcement != "" && n.Enforcement != Standard && n.Enforcement != Strict {
		errs = append(errs, fmt.Errorf("enforcement %q is neither %q nor %q", n.Enforcement, Standard, Strict))
	}
	seen := map[string]string{}
	claim := func(what, id string) {
		if other, ok := seen[what]; ok {
			errs = append(errs, fmt.Errorf("%s and %s have the same %s", other, id, what))
		}
		seen[what] = id
	}
	primary := false
	for _, e := range n.ENIs {
		primary = primary || e.Primary()
		if len(e.MAC) != 6 {
			errs = append(errs, fmt.Errorf("%s: MAC %q is not of 6 bytes", e.ID, e.MAC))
		}
		if num := e.MarkNumber(); num < 0 || num > claims.MarkENI {
			errs = append(errs, fmt.Errorf("%s: number %d is not in 1..%d", e.ID, num, claims.MarkENI))
		}
		claim(fmt.Sprintf("place card %d device %d", e.Card, e.Device), e.ID)
		claim(fmt.Sprintf("MAC %s", e.MAC), e.ID)
		claim(fmt.Sprintf("number %d", e.MarkNumber()), e.ID)
		errs = append(errs, e.validate())
	}
	errs = append(errs, disjoint(n.ENIs), validPrefixes("service prefix", n.ServicePrefixes))
	for _, a := range n.InUse {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			errs = append(errs, fmt.Errorf("address in use %s is not a plain address of IPv4 or IPv6", a))
		}
	}
	if !primary {
		errs = append(errs, errors.New("no ENI has card 0 and device 0"))
	}
	return errors.Join(errs...)
}

// validate reports what is wrong with e by itself.
func (e ENI) validate() error {
	var errs []error
	if e.Card < 0 || e.Card > 99 || e.Device < 0 || e.Card > 0 && e.Device > 99 || e.Card == 0 && e.Device > 251 {
		errs = append(errs, fmt.Errorf("no route table for card %d, device %d", e.Card, e.Device))
	}
	errs = append(errs, validMTU(e.MTU, e.speaks(true)), validPrefixes("address", e.Addrs), validPrefixes("source", e.Sources))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", e.ID, err)
	}
	return nil
}

// validMTU holds the kernel's bounds: 68 (RFC 791) and, or else it switches IPv6
// off, 1280 (RFC 8200). 0 is any.
func validMTU(mtu int, ipv6 bool) error {
	if mtu < 0 || mtu > 0 && mtu < 68 || mtu > 65535 {
		return fmt.Errorf("MTU %d is not in 68..65535", mtu)
	}
	if ipv6 && mtu > 0 && mtu < 1280 {
		return fmt.Errorf("MTU %d is less than the 1280 of IPv6", mtu)
	}
	return nil
}

func validPrefixes(what string, prefixes []netip.Prefix) error {
	for _, p := range prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("%s %s is no prefix of IPv4 or IPv6", what, p)
		}
	}
	return nil
}

// disjoint reports sources that overlap: the kernel's map would refuse them.
func disjoint(enis []ENI) error {
	type owned struct {
		prefix netip.Prefix
		id     string
	}
	var all []owned
	for _, e := range enis {
		for _, s := range e.Sources {
			all = append(all, owned{s.Masked(), e.ID})
		}
	}
	slices.SortFunc(all, func(a, b owned) int { return a.prefix.Compare(b.prefix) })
	for i := 1; i < len(all); i++ {
		if a, b := all[i-1], all[i]; a.prefix.Overlaps(b.prefix) {
			return fmt.Errorf("source %s of %s overlaps %s of %s", a.prefix, a.id, b.prefix, b.id)
		}
	}
	return nil
}

// validPrefix leaves room for the 11 digits in a link name of at most 15 bytes.
func validPrefix(p string) error {
	if len(p) == 0 || len(p) > 4 {
		return fmt.Errorf("host link prefix %q is not of 1 to 4 bytes", p)
	}
	for _, c := range []byte(p) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return fmt.Errorf("host link prefix %q has other bytes than a-z and 0-9", p)
		}
	}
	return nil
}

// Resolve returns n with the names of the ENIs' links. Virtual links often have
// the MAC of the one below them, so hardware comes first; a veth may play the
// ENI in tests.
func (n Node) Resolve(links []netstate.Link) (Node, error) {
	n.ENIs = slices.Clone(n.ENIs)
	var errs []error
	for i, e := range n.ENIs {
		name := ""
		for _, kind := range []string{"", "veth"} {
			for _, l := range links {
				if name == "" && l.Kind == kind && l.MAC == e.MAC.String() {
					name = l.Name
				}
			}
		}
		if name == "" {
			errs = append(errs, fmt.Errorf("%s with MAC %s: %w", e.ID, e.MAC, ErrNoLink))
		}
		n.ENIs[i].Link = name
	}
	return n, errors.Join(errs...)
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
