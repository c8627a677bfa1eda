// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Layout chooses how the kernel finds the ENI of a pod's packet.
type Layout string

const (
	// Flat keeps the pods' routes in one table and finds the ENI of a packet by a map
	// from source to mark. The cost of a packet does not grow with the number of pods.
	// It is the default.
	Flat Layout = "flat"
	// PerPod creates the rules of amazon-vpc-cni-k8s, two for each pod, and one more
	// for each secondary ENI.
	PerPod Layout = "per-pod"
)

// Node describes the wanted network of a node, without its pods.
type Node struct {
	// Layout is Flat if empty.
	Layout Layout
	// ENIs lists the primary ENI and every ENI whose addresses pods use. Interfaces
	// that are not listed are never changed.
	ENIs []ENI
	// HostLinkPrefix begins the names of host links; "eni" if empty.
	HostLinkPrefix string
	// PodLinks are the names of further links from which packets of pods come, such as a
	// bridge. Optional.
	PodLinks []string
	// ServicePrefixes are destinations that pods reach by the primary ENI, whichever
	// ENI they use otherwise. Optional.
	ServicePrefixes []netip.Prefix
	// Enforcement prepares the node for pods with a [Branch]. If it is empty, the
	// rules for the table local stay as they are.
	Enforcement Enforcement
	// InUse lists addresses of ENI.Sources that belong neither to a pod that AddPod
	// has wired in this layout nor to a free pool, such as those of another CNI
	// plugin's pods; see [Handle.InUse]. The node's other route tables decide about
	// packets to them. Packets to all other addresses of ENI.Sources without a pod
	// are answered as unreachable. Optional.
	InUse []netip.Addr
	// RefuseMetadata rejects pods' packets to the instance metadata service.
	RefuseMetadata bool
	// Accelerate lets packets of established TCP and UDP flows of pods pass from link to
	// link without routing, nftables and iptables, by a flowtable of nftables. The kernel
	// needs the modules nft_flow_offload and nf_flow_table_inet, see [Handle.Accelerates],
	// and connection tracking is on for all packets. [Handle.Watch] adds the links of
	// the pods, about a second after they were wired.
	Accelerate bool
}

// ENI is one elastic network interface of a node.
type ENI struct {
	ID string
	// MAC identifies the link, whatever its name is.
	MAC net.HardwareAddr
	// Link is the name of the link. [Handle.EnsureNode] finds it by MAC; set it only
	// to compute a State without a kernel.
	Link string
	// Card and Device are EC2's network card index, 0 to 99, and device index, 0
	// to 99, or to 251 on card 0. Both are 0 for the primary ENI.
	Card, Device int
	// Addrs are the ENI's own addresses, at most one of each family, with the prefix
	// length of the subnet. An ENI for IPv6 pods needs no IPv6 address of its own. The operating system configures those of the primary ENI; here
	// they only tell which families the node has.
	Addrs []netip.Prefix
	// Gateways are the addresses of the VPC router in the subnet, one for each
	// family. The default is that of EC2: the first address of the subnet plus one,
	// and fe80:ec2::1.
	Gateways []netip.Addr
	// Sources are the addresses and delegated prefixes of the ENI that pods may use,
	// whether or not a pod uses them at present.
	Sources []netip.Prefix
	// MTU is in bytes: 68 to 65535, with IPv6 at least 1280; 0 leaves it unchanged.
	MTU int
	// Number, 1 to 127, replaces the default of [Number]; 0 is the default.
	Number int
}

// Primary reports whether e is the node's primary ENI.
func (e ENI) Primary() bool { return e.Card == 0 && e.Device == 0 }

// Table returns the number of the ENI's route table.
func (e ENI) Table() int { return Table(e.Card, e.Device) }

// MarkNumber returns the number of the ENI in the marks of its packets.
func (e ENI) MarkNumber() int {
	if e.Number != 0 {
		return e.Number
	}
	return Number(e.Card, e.Device)
}

// gateway returns the address of the VPC router for the family of p.
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

// isPodLink reports whether packets of pods come from the link of that name.
func (n Node) isPodLink(name string) bool {
	return strings.HasPrefix(name, n.prefix()) || slices.Contains(n.PodLinks, name)
}

// Validate reports why n cannot be set up: an unknown layout, no primary ENI, two ENIs
// with the same card and device, MAC or number, sources that overlap, numbers out of
// range, or an invalid prefix for host links. It returns all problems, joined.
func (n Node) Validate() error {
	var errs []error
	if l := n.layout(); l != Flat && l != PerPod {
		errs = append(errs, fmt.Errorf("layout %q is neither %q nor %q", l, Flat, PerPod))
	}
	if err := ValidateHostLinkPrefix(n.prefix()); err != nil {
		errs = append(errs, err)
	}
	if claims.IsBranchLink(n.prefix()) {
		errs = append(errs, fmt.Errorf("host link prefix %q: prefixes that begin with %q are reserved for branch ENIs", n.prefix(), claims.StrictPrefix))
	}
	for _, name := range n.PodLinks {
		errs = append(errs, ValidateLinkName(name))
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
			errs = append(errs, fmt.Errorf("%s: MAC %q has %d bytes, want 6", e.ID, e.MAC, len(e.MAC)))
		}
		if num := e.MarkNumber(); num < 0 || num > claims.MarkENI {
			errs = append(errs, fmt.Errorf("%s: number %d, want 1 to %d", e.ID, num, claims.MarkENI))
		}
		claim(fmt.Sprintf("card %d and device %d", e.Card, e.Device), e.ID)
		claim(fmt.Sprintf("MAC %s", e.MAC), e.ID)
		claim(fmt.Sprintf("number %d", e.MarkNumber()), e.ID)
		errs = append(errs, e.validate())
	}
	errs = append(errs, disjoint(n.ENIs), validPrefixes("service prefix", n.ServicePrefixes))
	for _, a := range n.InUse {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			errs = append(errs, fmt.Errorf("address in use %s: want an IPv4 or IPv6 address without a zone", a))
		}
	}
	if !primary {
		errs = append(errs, errors.New("no ENI has card 0 and device 0"))
	}
	return errors.Join(errs...)
}

// validate reports what is wrong with e alone.
func (e ENI) validate() error {
	var errs []error
	if e.Card < 0 || e.Card > 99 || e.Device < 0 || e.Card > 0 && e.Device > 99 || e.Card == 0 && e.Device > 251 {
		errs = append(errs, fmt.Errorf("card %d and device %d have no route table: want card 0 to 99, device 0 to 99, or to 251 on card 0", e.Card, e.Device))
	}
	errs = append(errs, ValidateMTU(e.MTU), validPrefixes("address", e.Addrs), validPrefixes("source", e.Sources))
	if e.speaks(netstate.IPv6) {
		errs = append(errs, validMTU6(e.MTU))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", e.ID, err)
	}
	return nil
}

// ValidateMTU reports whether the kernel accepts an MTU: 68 (RFC 791) to 65535.
// A link with an IPv6 address needs at least 1280, see [Pod.Validate]. 0 is valid
// and leaves the MTU to the kernel.
func ValidateMTU(mtu int) error {
	if mtu < 0 || mtu > 0 && mtu < 68 || mtu > 65535 {
		return fmt.Errorf("MTU %d, want 68 to 65535", mtu)
	}
	return nil
}

// validMTU6 checks the minimum MTU of a link with IPv6, 1280 (RFC 8200): below that the
// kernel disables IPv6 on the link. 0 is valid.
func validMTU6(mtu int) error {
	if mtu > 0 && mtu < 1280 {
		return fmt.Errorf("MTU %d, want at least 1280 with IPv6", mtu)
	}
	return nil
}

func validPrefixes(what string, prefixes []netip.Prefix) error {
	for _, p := range prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("%s %s is not an IPv4 or IPv6 prefix", what, p)
		}
	}
	return nil
}

// disjoint returns an error if sources overlap, which the kernel's map would refuse.
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

// ValidateHostLinkPrefix reports whether the names of host links may begin with p.
// It leaves room for the 11 digits in a link name of at most 15 bytes.
func ValidateHostLinkPrefix(p string) error {
	const longest = 4
	if len(p) == 0 || len(p) > longest {
		return fmt.Errorf("host link prefix %q has %d bytes, want 1 to %d", p, len(p), longest)
	}
	for _, c := range []byte(p) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return fmt.Errorf("host link prefix %q may contain only a-z and 0-9", p)
		}
	}
	return nil
}

// Resolve returns n with ENI.Link set to the name of the link that has the ENI's MAC.
// A virtual link often has the MAC of the link below it, so hardware links take
// precedence; a veth can stand for an ENI in tests. The error is ErrNoLink if an ENI
// has no link; the others are resolved nevertheless.
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

// contains reports whether one of the prefixes contains a.
func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
