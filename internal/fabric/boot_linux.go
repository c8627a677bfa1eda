// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bootMetric is the metric of the routes that systemd-networkd adds on Amazon
// Linux 2023.
const bootMetric = 512

// Boot configures the primary ENI of the instance as an EC2 image does over
// DHCP: link up, primary address, connected and default route. For IPv6 it adds
// the first address and the route that the router would advertise. It returns when
// the link passes packets.
func (f *Fabric) Boot(ctx context.Context, instance string) error {
	p, err := f.bootPrimary(instance)
	if err == nil {
		err = errors.Join(f.instanceUp(ctx, p), f.router.waitUp(ctx, p.link))
	}
	if err != nil {
		return fmt.Errorf("fabric: boot %s: %w", instance, err)
	}
	return nil
}

func (f *Fabric) bootPrimary(instance string) (*port, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.ports {
		if p.Instance == instance && p.Primary() {
			return p, bootLink(f.instances[instance], p.ENI, f.subnets[p.Subnet], f.resolver)
		}
	}
	return nil, fmt.Errorf("primary ENI: %w", os.ErrNotExist)
}

func (f *Fabric) instanceUp(ctx context.Context, p *port) error {
	ns := f.Instance(p.Instance)
	if ns == nil {
		return os.ErrNotExist
	}
	if p.branch() {
		return nil // the instance made the link of a branch ENI, under any name
	}
	return ns.waitUp(ctx, p.Link())
}

// WaitUp waits until the link of an ENI passes packets in both directions. The
// caller must have set the link up. The kernel takes a moment to bring up both ends
// of the link, and until then it drops packets. For a branch ENI, WaitUp checks
// only the router's end.
func (f *Fabric) WaitUp(ctx context.Context, id string) error {
	f.mu.Lock()
	p, ok := f.ports[id]
	f.mu.Unlock()
	if !ok {
		return fmt.Errorf("fabric: %s is not attached: %w", id, os.ErrNotExist)
	}
	if err := errors.Join(f.instanceUp(ctx, p), f.router.waitUp(ctx, p.link)); err != nil {
		return fmt.Errorf("fabric: %s: %w", id, err)
	}
	return nil
}

func (n *Netns) waitUp(ctx context.Context, name string) error {
	h, err := n.handle()
	if err != nil {
		return err
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("link %s in %s is %v, want up: %w", name, n.path, link.Attrs().OperState, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

func bootLink(ns *Netns, e ENI, s Subnet, resolver netip.Addr) error {
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
	for _, a := range usable(bootAddrs(e)...) {
		if err := bootAddr(h, link, a, s); err != nil {
			return fmt.Errorf("address %v: %w", a, err)
		}
	}
	return bootLease(h, link, e.Addr, resolver, s)
}

// bootAddrs returns the addresses that DHCP configures: the primary one and the
// first IPv6 address.
func bootAddrs(e ENI) (all []netip.Addr) {
	if e.Addr.IsValid() {
		all = append(all, e.Addr)
	}
	if i := slices.IndexFunc(e.Addrs, netip.Addr.Is6); i >= 0 {
		all = append(all, e.Addrs[i])
	}
	return all
}

func bootAddr(h *netlink.Handle, link netlink.Link, a netip.Addr, s Subnet) error {
	subnet, ok := s.prefix(a)
	if !ok {
		return fmt.Errorf("subnet %s has no prefix of the same family", s.ID)
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
	byGateway := netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.PrefixFrom(subnet.Masked().Addr(), 0)), Gw: s.gateway(a).AsSlice(), Flags: int(netlink.FLAG_ONLINK), Protocol: protocol, Priority: bootMetric}
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
