// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// expectConnected checks that the pod reaches the outside host from each of its addresses,
// and that CheckPod finds nothing.
func (l *lab) expectConnected(p datapath.Pod) {
	l.t.Helper()
	for _, a := range p.Addrs {
		l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
	}
	if err := l.h.CheckPod(l.t.Context(), p); err != nil {
		l.t.Errorf("CheckPod: %v", err)
	}
}

// TestAddRepairs damages both ends of a pod's veth pair and repeats the ADD.
func TestAddRepairs(t *testing.T) {
	link := func(name string, f func(*netlink.Handle, netlink.Link) error) func(*netlink.Handle) error {
		return func(h *netlink.Handle) error {
			found, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			return f(h, found)
		}
	}
	mtu := func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, 1300) }
	group := func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetGroup(l, 7) }
	mac := func(h *netlink.Handle, l netlink.Link) error {
		return h.LinkSetHardwareAddr(l, mac("02:00:00:00:00:98"))
	}
	down := func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetDown(l) }
	for _, layout := range layouts {
		for name, f := range map[string]func(*netlink.Handle, netlink.Link) error{"MTU": mtu, "group": group, "MAC": mac, "down": down} {
			t.Run(fmt.Sprintf("%s/%s", layout, name), func(t *testing.T) {
				l := newLab(t, layout)
				l.ensure()
				p := l.pod(1, "one")
				l.add(p)
				in(t, l.node, link(p.HostLink(), f))
				l.add(p)
				l.expectConnected(p)
				if name == "MAC" {
					return // a link in the sandbox with another MAC belongs to another program
				}
				in(t, p.Netns, link("eth0", f))
				l.add(p)
				l.expectConnected(p)
			})
		}
		t.Run(string(layout)+"/other MTU", func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			p := l.pod(1, "one")
			l.add(p)
			p.MTU = 1390
			l.add(p)
			l.expectConnected(p)
		})
	}
}

// TestIPv6SwitchedOff adds a pod with an IPv6 address where the runtime or the node has
// switched IPv6 off.
func TestIPv6SwitchedOff(t *testing.T) {
	off := func(names ...string) func() error {
		return func() error {
			var errs []error
			for _, n := range names {
				errs = append(errs, sysctl("net/ipv6/conf/"+n+"/disable_ipv6", "1"))
			}
			return errors.Join(errs...)
		}
	}
	for _, layout := range layouts {
		for name, where := range map[string]struct{ node, sandbox []string }{
			"sandbox": {nil, []string{"all", "default"}},
			"lo":      {nil, []string{"lo"}},
			"node":    {[]string{"default"}, nil},
		} {
			t.Run(fmt.Sprintf("%s/%s", layout, name), func(t *testing.T) {
				l := newLab(t, layout)
				l.ensure()
				p := l.pod(1, "one")
				on(t, l.node, off(where.node...))
				on(t, p.Netns, off(where.sandbox...))
				l.add(p)
				l.expectConnected(p)
				own := p.Addrs[1].Addr
				l.listen(p.Netns, own)
				l.expect(p.Netns, own, own)
				l.listen(p.Netns, netip.IPv6Loopback())
				l.expect(p.Netns, netip.IPv6Loopback(), netip.IPv6Loopback())
				on(t, p.Netns, off("lo"))
				var drift *datapath.DriftError
				if err := l.h.CheckPod(t.Context(), p); !errors.As(err, &drift) {
					t.Errorf("CheckPod with IPv6 switched off on lo = %v, want a DriftError", err)
				}
			})
		}
	}
}

// TestEnsureAndWatchRepair changes settings, addresses and routes of the node that a pod
// depends on. Ensure and Watch must both restore the state.
func TestEnsureAndWatchRepair(t *testing.T) {
	addr := func(link string) func(*lab, datapath.Pod) error {
		return func(l *lab, p datapath.Pod) error {
			return try(l.node, func() error {
				h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
				if err != nil {
					return err
				}
				defer h.Close()
				found, err := h.LinkByName(link)
				if err != nil {
					return err
				}
				for _, a := range p.Addrs {
					if err := addAddr(h, found, netip.PrefixFrom(a.Addr, a.Addr.BitLen()).String()); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	forwarding := func(link func(datapath.Pod) string) func(*lab, datapath.Pod) error {
		return func(l *lab, p datapath.Pod) error {
			return try(l.node, func() error { return sysctl("net/ipv4/conf/"+link(p)+"/forwarding", "0") })
		}
	}
	for _, c := range []struct {
		name   string
		damage func(*lab, datapath.Pod) error
	}{
		{"pod's address on the primary ENI", addr("ens5")},
		{"pod's address on the second ENI", addr("ens6")},
		{"pod's address on lo", addr("lo")},
		{"forwarding off on the host link", forwarding(datapath.Pod.HostLink)},
		{"forwarding off on the ENI", forwarding(func(datapath.Pod) string { return "ens6" })},
		{"route of another program in the table of pods", func(l *lab, _ datapath.Pod) error {
			return l.h.Apply(l.t.Context(), []netstate.Change{{Op: netstate.OpAdd, Item: netstate.Route{
				Dst: netip.PrefixFrom(outside4, 32), Via: netip.MustParseAddr("10.0.0.1"), Link: "ens5", Table: claims.TablePods, Protocol: 4,
			}}})
		}},
	} {
		for _, layout := range layouts {
			t.Run(fmt.Sprintf("%s/%s", layout, c.name), func(t *testing.T) {
				l := newLab(t, layout)
				l.ensure()
				p := l.pod(1, "one")
				l.add(p)
				before := l.state()
				if err := c.damage(l, p); err != nil {
					t.Fatal(err)
				}
				if l.state() == before {
					t.Fatal("Observe does not show the damage")
				}
				want := datapath.Desired{Node: *l.n, Pods: []datapath.Pod{p}}
				if err := l.h.Ensure(t.Context(), want); err != nil {
					t.Fatal(err)
				}
				l.expectConnected(p)
				if after := l.state(); after != before {
					t.Errorf("after Ensure:\n%s\nwant:\n%s", after, before)
				}
				repairs := l.watch(p)
				time.Sleep(20 * time.Millisecond) // let Watch finish its first observation, which sees everything
				if err := c.damage(l, p); err != nil {
					t.Fatal(err)
				}
				if _, ok := l.repaired(before, repairs); !ok {
					t.Errorf("after Watch:\n%s\nwant:\n%s", l.state(), before)
				}
			})
		}
	}
}

// TestRouterAdvertisements checks that a router advertisement changes nothing in a sandbox
// that has an ENI of its own.
func TestRouterAdvertisements(t *testing.T) {
	l, p := wholeENI(t)
	l.add(p)
	// Wait until the link receives packets.
	l.waitAnswer(p.Netns, p.Addrs[0].Addr, outside4)
	l.waitAnswer(p.Netns, p.Addrs[1].Addr, outside6)
	before := observe(t, p.Netns)
	in(t, l.router, func(h *netlink.Handle) error {
		eni, err := h.LinkByName(l.RouterLink(p.Mode.Whole.ENI.ID))
		if err != nil {
			return err
		}
		return sendAdvertisement(eni.Attrs().Index)
	})
	l.waitCounter(p.Netns, "Icmp6InRouterAdvertisements")
	if after := observe(t, p.Netns); after != before {
		t.Errorf("after a router advertisement:\n%s\nbefore:\n%s", after, before)
	}
	l.expectConnected(p)
}

// waitCounter waits until the counter of a namespace in /proc/net/snmp6 is not 0.
func (l *lab) waitCounter(path, counter string) {
	l.t.Helper()
	for range 500 {
		var table []byte
		on(l.t, path, func() (err error) {
			table, err = os.ReadFile("/proc/thread-self/net/snmp6")
			return err
		})
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == counter && f[1] != "0" {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.t.Fatalf("counter %s in %s is 0 after five seconds", counter, path)
}

// sendAdvertisement sends, on the link with the index, a router advertisement with a
// prefix for autoconfiguration.
func sendAdvertisement(index int) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, hops := range []int{unix.IPV6_MULTICAST_HOPS, unix.IPV6_UNICAST_HOPS} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, hops, 255); err != nil {
			return err
		}
	}
	prefix := netip.MustParseAddr("2001:db8:66::").As16()
	packet := append([]byte{
		134, 0, 0, 0, 64, 0x80, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, // router lifetime: half an hour
		3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0, // prefix, valid for a day
	}, prefix[:]...)
	all := netip.MustParseAddr("ff02::1").As16()
	return unix.Sendto(fd, packet, 0, &unix.SockaddrInet6{Addr: all, ZoneId: uint32(index)})
}
