// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// Next hops, which exist only in neighbour tables. With them, all routes to the
// addresses of an ENI share one permanent neighbour of each family.
var (
	// nextHop4 and nextHop6 are the other end of a link, in the router.
	nextHop4 = netip.MustParseAddr("169.254.0.2")
	nextHop6 = netip.MustParseAddr("fe80::ec2:2")
	// routerHop4 and routerHop6 are the router, in the hosts outside the VPC.
	routerHop4 = netip.MustParseAddr("169.254.0.1")
	routerHop6 = netip.MustParseAddr("fe80::ec2:1")
)

// linkLocal4 is not routed: packets for its addresses get no answer, except from
// the addresses of the router.
var linkLocal4 = netip.MustParsePrefix("169.254.0.0/16")

// routing programs the router namespace.
type routing struct {
	ns  *Netns
	mtu int
	h   *netlink.Handle
	lo  netlink.Link
	nft *nftables.Conn

	// shared means that the filter has the chains and sets for rules.
	shared bool
	// rules are the chains and sets of the current rules.
	rules generation
	// routes and lookups are the routes of the VPC route tables in the kernel, and the
	// table of each link that has one.
	routes  map[routeKey]routeHop
	lookups map[string]int
	tables  map[string]int              // numbers of the VPC route tables, by ID
	outside map[vpcrules.TargetKind]int // indexes of the links to the hosts outside
}

// openRouting configures the router, which has no link yet except lo: it enables
// forwarding, adds the addresses of the services, and adds routes that drop packets
// for addresses of the VPC that no ENI owns.
func openRouting(ns *Netns, cfg Config) (*routing, error) {
	err := ns.sysctls(
		"ipv4/ip_forward", "1",
		"ipv4/conf/all/rp_filter", "0", // the nft table checks and counts sources
		"ipv4/conf/default/rp_filter", "0",
		"ipv4/conf/all/send_redirects", "0",
		"ipv4/conf/default/send_redirects", "0",
		"ipv6/conf/all/disable_ipv6", "0",
		"ipv6/conf/default/disable_ipv6", "0",
		"ipv6/conf/all/forwarding", "1",
		"ipv6/conf/default/accept_dad", "0",
	)
	if err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	r := &routing{
		ns: ns, mtu: cfg.MTU, routes: map[routeKey]routeHop{}, lookups: map[string]int{}, tables: map[string]int{},
		outside: map[vpcrules.TargetKind]int{},
	}
	if r.h, err = ns.handle(); err != nil {
		return nil, err
	}
	if r.nft, err = nftables.New(nftables.WithNetNSFd(int(ns.file.Fd())), nftables.AsLasting()); err != nil {
		r.h.Close()
		return nil, err
	}
	if err := r.setUp(cfg.VPC); err != nil {
		r.Close()
		return nil, fmt.Errorf("router: %w", err)
	}
	return r, nil
}

func (r *routing) Close() {
	r.h.Close()
	// CloseLasting only closes a socket.
	_ = r.nft.CloseLasting()
}

func (r *routing) setUp(vpc []netip.Prefix) (err error) {
	if r.lo, err = r.h.LinkByName("lo"); err != nil {
		return err
	}
	for _, a := range usable(MetadataAddr, metadataAddr6, EC2Addr) {
		if err := r.addGateway(a); err != nil {
			return err
		}
	}
	for _, p := range append(slices.Clone(usablePrefixes(vpc)), linkLocal4) {
		blackhole := netlink.Route{Dst: ipNet(p), Type: unix.RTN_BLACKHOLE}
		if err := r.h.RouteReplace(&blackhole); err != nil {
			return fmt.Errorf("blackhole %v: %w", p, err)
		}
	}
	return nil
}

// addGateway adds an address to lo of the router, so that the router answers for it
// on all links.
func (r *routing) addGateway(a netip.Addr) error {
	err := r.h.AddrAdd(r.lo, addr(netip.PrefixFrom(a, a.BitLen())))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("address %v: %w", a, err)
	}
	return nil
}

// addPort creates the veth pair of an ENI, or the VLAN of a branch ENI on the link
// of its trunk, and configures the router's end, except for the addresses of the
// ENI.
func (r *routing) addPort(p, trunk *port, instance *Netns) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Alias = p.link, r.mtu, p.ID
	attrs.HardwareAddr = routerMAC(p.MAC)
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerMTU = p.Link(), p.MAC, uint32(r.mtu)
	veth.PeerNamespace = netlink.NsFd(instance.file.Fd())
	var link netlink.Link = veth
	if trunk != nil {
		attrs.ParentIndex = trunk.index
		link = &netlink.Vlan{LinkAttrs: attrs, VlanId: p.VLAN, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	}
	if err := r.h.LinkAdd(link); err != nil {
		return fmt.Errorf("%s link of %s: %w", link.Type(), p.ID, err)
	}
	err := r.setUpPort(p)
	if err != nil {
		return errors.Join(err, r.removePort(p))
	}
	return nil
}

func (r *routing) setUpPort(p *port) error {
	conf := "ipv4/conf/" + p.link + "/"
	// With proxy_delay 0 the kernel answers by proxy ARP without a delay.
	err := r.ns.sysctls(conf+"proxy_arp", "1", "ipv4/neigh/"+p.link+"/proxy_delay", "0")
	if err != nil {
		return err
	}
	link, err := r.up(p.link, p.MAC)
	if err != nil {
		return err
	}
	p.index = link.Attrs().Index
	// The IPv6 address of the router is link-local, so each link needs it.
	for _, a := range usable(Gateway6) {
		err = r.h.AddrAdd(link, addr(netip.PrefixFrom(a, 64)))
	}
	return err
}

// up sets a link of the router up and adds permanent neighbours for its other end,
// which has the given MAC.
func (r *routing) up(name string, mac net.HardwareAddr) (netlink.Link, error) {
	link, err := r.h.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := r.h.LinkSetUp(link); err != nil {
		return nil, err
	}
	return link, neighbours(r.h, link, mac, nextHop4, nextHop6)
}

func neighbours(h *netlink.Handle, link netlink.Link, mac net.HardwareAddr, hops ...netip.Addr) error {
	for _, a := range usable(hops...) {
		n := netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
		if err := h.NeighSet(&n); err != nil {
			return fmt.Errorf("neighbour %v: %w", a, err)
		}
	}
	return nil
}

// removePort removes the link of an ENI. It returns nil if the kernel has removed
// the link already, together with the namespace of its other end.
func (r *routing) removePort(p *port) error {
	link, err := r.h.LinkByName(p.link)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.h.LinkDel(link); !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// setOwned replaces the routes to an ENI.
func (r *routing) setOwned(p *port, before, after []netip.Prefix) error {
	for _, o := range usablePrefixes(after) {
		if slices.Contains(before, o) {
			continue
		}
		if err := r.h.RouteReplace(via(o, p.index, nextHop4, nextHop6)); err != nil {
			return fmt.Errorf("route to %v: %w", o, err)
		}
	}
	for _, o := range usablePrefixes(before) {
		if slices.Contains(after, o) {
			continue
		}
		// The route is missing if the address has moved to another ENI.
		if err := r.h.RouteDel(via(o, p.index, nextHop4, nextHop6)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %v: %w", o, err)
		}
	}
	return nil
}

// addOutside connects a host outside the VPC that has the given addresses. The
// link to the internet host also gets the default routes.
func (r *routing) addOutside(name string, host *Netns, addrs []netip.Addr) error {
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.MTU = name, r.mtu
	veth.PeerName, veth.PeerMTU = "eth0", uint32(r.mtu)
	veth.PeerNamespace = netlink.NsFd(host.file.Fd())
	if err := r.h.LinkAdd(veth); err != nil {
		return err
	}
	h, err := host.handle()
	if err != nil {
		return err
	}
	defer h.Close()
	err = host.sysctls("ipv4/conf/all/rp_filter", "0", "ipv4/conf/default/rp_filter", "0",
		"ipv6/conf/all/disable_ipv6", "0", "ipv6/conf/eth0/disable_ipv6", "0", "ipv6/conf/eth0/accept_dad", "0")
	if err != nil {
		return err
	}
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(eth0); err != nil {
		return err
	}
	link, err := r.up(name, eth0.Attrs().HardwareAddr)
	if err != nil {
		return err
	}
	r.outside[map[string]vpcrules.TargetKind{internetLink: vpcrules.Internet, peerLink: vpcrules.Peer}[name]] = link.Attrs().Index
	if err := neighbours(h, eth0, link.Attrs().HardwareAddr, routerHop4, routerHop6); err != nil {
		return err
	}
	for _, a := range usable(addrs...) {
		if err := h.AddrAdd(eth0, addr(netip.PrefixFrom(a, a.BitLen()))); err != nil {
			return err
		}
		if err := r.h.RouteReplace(via(netip.PrefixFrom(a, a.BitLen()), link.Attrs().Index, nextHop4, nextHop6)); err != nil {
			return err
		}
	}
	for _, a := range usable(netip.IPv4Unspecified(), netip.IPv6Unspecified()) {
		all := netip.PrefixFrom(a, 0)
		if err := h.RouteReplace(via(all, eth0.Attrs().Index, routerHop4, routerHop6)); err != nil {
			return err
		}
		if name != internetLink {
			continue
		}
		if err := r.h.RouteReplace(via(all, link.Attrs().Index, nextHop4, nextHop6)); err != nil {
			return err
		}
	}
	return nil
}

// via returns the route to a prefix by the next hop of the same family.
func via(p netip.Prefix, index int, hop4, hop6 netip.Addr) *netlink.Route {
	hop := hop6
	if p.Addr().Is4() {
		hop = hop4
	}
	return &netlink.Route{Dst: ipNet(p), LinkIndex: index, Gw: hop.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func addr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}
