// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bootMetric is that of systemd-networkd's routes on Amazon Linux 2023.
const bootMetric = 512

// Boot configures the primary ENI of the instance as an EC2 image does over
// DHCP: link up, primary address, connected and default route. For IPv6 it takes
// the first address and the route that the router would advertise.
func (f *Fabric) Boot(ctx context.Context, instance string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	ns := f.instances[instance]
	var primary *port
	for _, p := range f.ports {
		if p.Instance == instance && p.Primary() {
			primary = p
		}
	}
	if ns == nil || primary == nil {
		return fmt.Errorf("fabric: boot %s: no primary ENI: %w", instance, os.ErrNotExist)
	}
	if err := bootLink(ns, primary.ENI, f.subnets[primary.Subnet]); err != nil {
		return fmt.Errorf("fabric: boot %s: %w", instance, err)
	}
	return nil
}

func bootLink(ns *Netns, e ENI, s Subnet) error {
	h, err := ns.handle()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(e.Link())
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range append([]netip.Addr{e.Addr}, e.Addrs...) {
		// Further IPv4 addresses do not come over DHCP.
		if !a.IsValid() || a.Is4() && a != e.Addr {
			continue
		}
		if err := bootAddr(h, link, a, s); err != nil {
			return fmt.Errorf("address %v: %w", a, err)
		}
	}
	return nil
}

func bootAddr(h *netlink.Handle, link netlink.Link, a netip.Addr, s Subnet) error {
	subnet, ok := s.Prefix(a)
	if !ok {
		return fmt.Errorf("subnet %s has no prefix of its family", s.ID)
	}
	own := addr(netip.PrefixFrom(a, subnet.Bits()))
	own.Flags |= unix.IFA_F_NOPREFIXROUTE
	if err := h.AddrReplace(link, own); err != nil {
		return err
	}
	protocol := netlink.RouteProtocol(unix.RTPROT_DHCP)
	if a.Is6() {
		protocol = unix.RTPROT_RA
	}
	connected := netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(subnet.Masked()), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_KERNEL, Priority: bootMetric}
	byGateway := netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.PrefixFrom(subnet.Masked().Addr(), 0)), Gw: s.Gateway(a).AsSlice(), Flags: int(netlink.FLAG_ONLINK), Protocol: protocol, Priority: bootMetric}
	byGateway.Dst.IP = netip.PrefixFrom(a, 0).Masked().Addr().AsSlice()
	if a.Is4() {
		connected.Src, byGateway.Src = a.AsSlice(), a.AsSlice()
	}
	for _, r := range []*netlink.Route{&connected, &byGateway} {
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("route %v: %w", r, err)
		}
	}
	return nil
}
