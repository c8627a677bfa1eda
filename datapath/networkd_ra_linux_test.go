// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/preflight"
	"golang.org/x/sys/unix"
)

// acceptingRA makes networkd accept router advertisements on the primary ENI.
var acceptingRA = []preflight.File{{
	Path: "etc/systemd/network/10-ens5.network",
	Text: "[Match]\nName=ens5\n[Network]\nAddress=10.0.0.10/24\nAddress=2001:db8:0:1::10/128\nGateway=10.0.0.1\nIPv6AcceptRA=yes\n[IPv6AcceptRA]\nDHCPv6Client=no\n",
}}

// TestNetworkdAcceptsRA has the IPv6 default route of the node come from router
// advertisements. First the kernel accepts them, then systemd-networkd, which sets
// accept_ra to 0. The route must always exist. Watch must not change accept_ra while
// networkd accepts advertisements, but must do so when networkd has ended.
func TestNetworkdAcceptsRA(t *testing.T) {
	l := newLab(t, datapath.Flat)
	n := newNetworkd(t, l, acceptingRA)
	l.deleteDefault6()
	stop := l.advertise()
	defer stop()
	await(t, "default route added by the kernel", func() bool { return l.default6() })
	deletions := l.countDeletions6()
	n.start()
	await(t, "router advertisement in networkd", func() bool { return contains(n.log(), "Setting SLAAC addresses and router") })
	if v := l.acceptRA(); v != "0" {
		t.Fatalf("accept_ra is %s after networkd has started, want 0: the test would prove nothing", v)
	}
	l.ensure()
	if v := l.acceptRA(); v != "2" {
		t.Errorf("accept_ra is %s after EnsureNode, which switches forwarding on, want 2", v)
	}

	var observations atomic.Int64
	repairs, done := make(chan datapath.Repair, 1000), make(chan error)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		done <- l.h.Watch(ctx, datapath.WatchConfig{
			Every: 20 * time.Millisecond,
			Desired: func() datapath.Desired {
				observations.Add(1)
				return datapath.Desired{Node: *l.n}
			},
			Repaired: func(r datapath.Repair) { repairs <- r },
		})
	}()
	for range 2 {
		n.stop()
		n.start()
		await(t, "router advertisement in networkd after its restart", func() bool { return contains(n.log(), "Setting SLAAC addresses and router") })
		before := observations.Load()
		await(t, "further observation by Watch", func() bool { return observations.Load() > before+5 })
		if v := l.acceptRA(); v != "0" {
			t.Errorf("accept_ra is %s while networkd accepts advertisements, want its value, 0", v)
		}
	}
	for len(repairs) > 0 {
		t.Errorf("Watch changed %v", (<-repairs).Changes)
	}
	if n := deletions(); n > 0 {
		t.Errorf("the default route was deleted %d times, want never", n)
	}

	n.stop()
	stop()
	l.deleteDefault6()
	await(t, "accept_ra=2 after networkd has ended", func() bool { return l.acceptRA() == "2" })
}

// await waits until ok returns true, for ten seconds at most.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !eventually(ok) {
		t.Fatalf("no %s within ten seconds", what)
	}
}

// acceptRA returns the setting accept_ra of the primary ENI.
func (l *lab) acceptRA() (value string) {
	on(l.t, l.node, func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/ens5/accept_ra")
		value = strings.TrimSpace(string(b))
		return err
	})
	return value
}

// default6 reports whether the node has an IPv6 default route by the primary ENI.
func (l *lab) default6() bool {
	return contains(l.state(), "ip -6 route replace default via fe80:ec2::1 dev ens5 proto ra")
}

// deleteDefault6 deletes that route.
func (l *lab) deleteDefault6() {
	in(l.t, l.node, func(h *netlink.Handle) error {
		return withLink(h, "ens5", func(link netlink.Link) error {
			return h.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP("fe80:ec2::1")})
		})
	})
}

// countDeletions6 returns a function that returns how often an IPv6 default route of table
// main was deleted since the previous call.
func (l *lab) countDeletions6() func() int {
	l.t.Helper()
	updates := make(chan netlink.RouteUpdate, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	l.t.Cleanup(cancel)
	on(l.t, l.node, func() error { return netlink.RouteSubscribe(updates, ctx.Done()) })
	return func() (n int) {
		for len(updates) > 0 {
			u := <-updates
			if u.Type == unix.RTM_DELROUTE && u.Family == unix.AF_INET6 && u.Table == netstate.TableMain && (u.Dst == nil || u.Dst.IP.IsUnspecified()) {
				n++
			}
		}
		return n
	}
}

// advertise sends a router advertisement to the primary ENI every 50 ms until the caller
// calls stop.
func (l *lab) advertise() (stop func()) {
	l.t.Helper()
	var fd, index int
	on(l.t, l.router, func() (err error) {
		link, err := net.InterfaceByName(l.RouterLink(l.n.ENIs[0].ID))
		if err != nil {
			return err
		}
		index = link.Index
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet6{ZoneId: uint32(index), Addr: netip.MustParseAddr("fe80:ec2::1").As16()})
	})
	for option, value := range map[int]int{unix.IPV6_MULTICAST_HOPS: 255, unix.IPV6_MULTICAST_IF: index} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, option, value); err != nil {
			l.t.Fatal(err)
		}
	}
	const routerLifetime = 1800 // seconds
	message := []byte{134, 0, 0, 0, 64, 0, routerLifetime >> 8, routerLifetime & 0xff, 0, 0, 0, 0, 0, 0, 0, 0}
	all := &unix.SockaddrInet6{ZoneId: uint32(index), Addr: netip.MustParseAddr("ff02::1").As16()}
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			_ = unix.Sendto(fd, message, 0, all)
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(end)
		<-done
		_ = unix.Close(fd)
	})
}
