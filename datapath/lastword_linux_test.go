// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"golang.org/x/sys/unix"
)

// sandboxItems lists the names of links, the addresses, the routes of all tables, the
// permanent neighbours and the rules of a sandbox, except what every namespace has.
func sandboxItems(t *testing.T, path string) (items []string) {
	t.Helper()
	items = []string{}
	in(t, path, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Attrs().Name == "lo" {
				continue
			}
			items = append(items, "link "+l.Attrs().Name)
			addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				items = append(items, fmt.Sprintf("address %s %s", l.Attrs().Name, a.IPNet))
			}
			neighs, err := h.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, n := range neighs {
				if n.State&netlink.NUD_PERMANENT == 0 {
					continue
				}
				items = append(items, fmt.Sprintf("neighbour %s %s", l.Attrs().Name, n.IP))
			}
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range routes {
				if r.LinkIndex != 1 && r.Table != unix.RT_TABLE_LOCAL {
					items = append(items, fmt.Sprintf("route %s", r))
				}
			}
			rules, err := h.RuleList(family)
			if err != nil {
				return err
			}
			for _, r := range rules {
				if r.Table < 253 {
					items = append(items, fmt.Sprintf("rule %s", r))
				}
			}
		}
		return nil
	})
	slices.Sort(items)
	return items
}

// otherPlugin makes an interface as another plugin does, in a way that fails if anything of
// the interface exists: a veth pair with one end on the node, an address, and a default
// route of the metric in each family.
func otherPlugin(l *lab, path, name string, metric int, addrs ...netip.Addr) {
	l.t.Helper()
	host := "o" + strings.TrimPrefix(path, "/run/netns/") + name
	in(l.t, l.node, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = host
		ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(ns)
		return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(ns)})
	})
	in(l.t, path, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
		for _, a := range addrs {
			gateway, all := net.ParseIP("169.254.77.1"), &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
			if a.Is6() {
				gateway, all = net.ParseIP("fe80::77"), &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := h.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("address %s: %w", a, err)
			}
			r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Gw: gateway, Flags: int(netlink.FLAG_ONLINK), Priority: metric}
			if err := h.RouteAdd(r); err != nil {
				return fmt.Errorf("default route via %s: %w", gateway, err)
			}
		}
		return nil
	})
}

// addrsOf returns the addresses of a pod.
func addrsOf(p datapath.Pod) (addrs []netip.Addr) {
	for _, a := range p.Addrs {
		addrs = append(addrs, a.Addr)
	}
	return addrs
}

// TestRetireIsLast retires pods and at once uses the sandbox again: by the same pod, by
// another container, with another interface name, and by another plugin with the same name
// and addresses. Nothing of the first pod may be in the way, and a sweep deletes only its
// link.
func TestRetireIsLast(t *testing.T) {
	for _, layout := range layouts {
		l := newLab(t, layout)
		l.ensure()
		before := l.state()
		add := func(change func(*datapath.Pod)) func(datapath.Pod) {
			return func(p datapath.Pod) {
				change(&p)
				l.add(p)
				for _, a := range p.Addrs {
					l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
				}
				if err := l.h.Sweep(t.Context()); err != nil {
					t.Error(err)
				}
				if err := l.h.CheckPod(t.Context(), p); err != nil {
					t.Error(err)
				}
				if err := l.h.DelPod(t.Context(), p); err != nil {
					t.Error(err)
				}
			}
		}
		for _, next := range []struct {
			name string
			use  func(p datapath.Pod)
		}{
			{"the same pod", add(func(*datapath.Pod) {})},
			{"another container", add(func(p *datapath.Pod) { p.ContainerID = "two" })},
			{"another interface", add(func(p *datapath.Pod) { p.IfName = "net7" })},
			{"another plugin", func(p datapath.Pod) {
				otherPlugin(l, p.Netns, p.IfName, 0, addrsOf(p)...)
				had := sandboxItems(t, p.Netns)
				if err := l.h.RetirePod(t.Context(), p); err != nil { // the second DEL of a runtime
					t.Error(err)
				}
				if diff := cmp.Diff(had, sandboxItems(t, p.Netns)); diff != "" {
					t.Errorf("a second DEL changes another plugin's interface (-before +after):\n%s", diff)
				}
			}},
			{"another plugin, other name", func(p datapath.Pod) { otherPlugin(l, p.Netns, "net7", 0, addrsOf(p)...) }},
		} {
			for _, known := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%s/addresses known %t", layout, next.name, known), func(t *testing.T) {
					p := l.pod(1, "one")
					empty := sandboxItems(t, p.Netns)
					l.add(p)
					d := p
					if !known {
						d.Addrs = nil
					}
					if err := l.h.RetirePod(t.Context(), d); err != nil {
						t.Fatal(err)
					}
					left := slices.DeleteFunc(sandboxItems(t, p.Netns), func(s string) bool { return strings.HasPrefix(s, "link eni-") })
					if diff := cmp.Diff(empty, left); diff != "" {
						t.Errorf("RetirePod left something in the sandbox (-before +after):\n%s", diff)
					}
					if contains(l.state(), p.HostLink()) {
						t.Errorf("RetirePod left the name %s on the node:\n%s", p.HostLink(), l.state())
					}
					next.use(p)
					removeNetns(t, p.Netns)
					for try := 0; contains(l.state(), " ot"); try++ { // the kernel deletes the other plugin's link later
						if try > 5000 {
							t.Fatal("the other plugin's link stays")
						}
					}
					if err := l.h.Sweep(t.Context()); err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(before, l.state()); diff != "" {
						t.Errorf("something stayed (-before +after):\n%s", diff)
					}
				})
			}
		}
	}
}

// TestRetireNameTaken retires a pod that has taken the reserved name in its sandbox, and a
// pod with a host link that another program has renamed.
func TestRetireNameTaken(t *testing.T) {
	l := newLab(t, datapath.Flat)
	l.ensure()
	before := l.state()
	p := l.pod(1, "one")
	l.add(p)
	in(t, p.Netns, func(h *netlink.Handle) error {
		own, err := h.LinkByName(p.IfName)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = fmt.Sprintf("eni-%x", own.Attrs().Index)
		return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"})
	})
	if err := l.h.RetirePod(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("name taken: something stayed (-before +after):\n%s", diff)
	}
	for _, how := range []string{"by the sandbox", "by an address"} {
		q := l.pod(1, "two")
		l.add(q)
		in(t, l.node, func(h *netlink.Handle) error {
			own, err := h.LinkByName(q.HostLink())
			if err != nil {
				return err
			}
			err = errors.Join(h.LinkSetDown(own), h.LinkSetName(own, "other0"), h.LinkSetUp(own))
			dst := &net.IPNet{IP: q.Addrs[0].Addr.AsSlice(), Mask: net.CIDRMask(32, 32)}
			return errors.Join(err, h.RouteAdd(&netlink.Route{LinkIndex: own.Attrs().Index, Dst: dst, Table: claims.TablePods, Protocol: claims.RouteProtocol, Scope: netlink.SCOPE_LINK}))
		})
		d := q
		if how == "by an address" {
			d.Netns = ""
		} else {
			d.Addrs = nil
		}
		if err := l.h.RetirePod(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if err := l.h.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Errorf("renamed host link, found %s: something stayed (-before +after):\n%s", how, diff)
		}
	}
}

// TestRetireManyAtOnce adds and retires fifty pods at once, in sandboxes that end at the
// same time, while sweeps run.
func TestRetireManyAtOnce(t *testing.T) {
	for _, layout := range layouts {
		l := newLab(t, layout)
		l.ensure()
		before := l.state()
		var wg sync.WaitGroup
		for i := range 50 {
			p := l.pod(1, fmt.Sprint("pod", i))
			p.Addrs = []datapath.PodAddr{{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(112 + i)}), Table: 2}, {Addr: netip.MustParseAddr(fmt.Sprintf("2001:db8:0:1:b::%x", i+1)), Table: 2}}
			wg.Go(func() {
				if _, err := l.h.AddPod(t.Context(), p); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					wg.Go(func() { removeNetns(t, p.Netns) })
				}
				for range 2 {
					if err := l.h.RetirePod(t.Context(), p); err != nil {
						t.Error(err)
					}
				}
				if err := l.h.Sweep(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for try := 0; l.state() != before && try < 1000; try++ { // the kernel ends namespaces later
			if err := l.h.Sweep(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Errorf("%s: something stayed (-before +after):\n%s", layout, diff)
		}
	}
}

// TestSecondInterface adds interfaces without an index to one sandbox, beside each other and
// beside another plugin's default route, and deletes them in either order. Both send and
// receive, in both families, also from sockets without an address. Nothing of another
// interface may change.
func TestSecondInterface(t *testing.T) {
	for _, layout := range layouts {
		for _, first := range []string{"ours", "another plugin's", "another plugin's with a metric", "another plugin's, moved", "another plugin's, IPv6 only", "none"} {
			for _, reverse := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/reverse %t", layout, first, reverse), func(t *testing.T) {
					testSecondInterface(t, layout, first, reverse)
				})
			}
		}
	}
}

func testSecondInterface(t *testing.T, layout datapath.Layout, first string, reverse bool) {
	l := newLab(t, layout)
	l.ensure()
	eth0, net1 := l.pod(0, "one"), l.pod(1, "one")
	net1.Netns, net1.IfName = eth0.Netns, "net1"
	empty := sandboxItems(t, eth0.Netns)
	others := []netip.Addr{netip.MustParseAddr("192.168.7.7"), netip.MustParseAddr("fd00::7")}
	switch first {
	case "ours":
		l.add(eth0)
	case "another plugin's":
		otherPlugin(l, eth0.Netns, "eth0", 0, others...)
	case "another plugin's with a metric":
		otherPlugin(l, eth0.Netns, "eth0", 4000, others...)
	case "another plugin's, moved":
		moveIn(l, eth0.Netns, "eth0")
	case "another plugin's, IPv6 only":
		otherPlugin(l, eth0.Netns, "eth0", 0, others[1])
	}
	had := sandboxItems(t, eth0.Netns)
	index := 1
	if first == "none" {
		index = 0
	}
	for range 2 {
		w := l.add(net1)
		want := net1
		want.Index = index
		if diff := cmp.Diff(want.Wiring(), w, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("Wiring (-want +got):\n%s", diff)
		}
	}
	for _, s := range had {
		if !slices.Contains(sandboxItems(t, eth0.Netns), s) {
			t.Errorf("%q is gone", s)
		}
	}
	works := func(p datapath.Pod, from bool) {
		t.Helper()
		if err := l.h.CheckPod(t.Context(), p); err != nil {
			t.Errorf("%s: %v", p.IfName, err)
		}
		for _, a := range p.Addrs {
			l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
			if from {
				if got, err := ask(p.Netns, netip.Addr{}, outsideOf(a.Addr)); err != nil || got != a.Addr.String() {
					t.Errorf("%s: from a socket without an address: %q, %v, want %s", p.IfName, got, err, a.Addr)
				}
			}
		}
	}
	works(net1, first == "none")
	if first != "ours" {
		if err := l.h.RetirePod(t.Context(), net1); err != nil {
			t.Fatal(err)
		}
		if err := l.h.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(had, sandboxItems(t, eth0.Netns)); diff != "" {
			t.Errorf("after the DEL (-before ADD +after):\n%s", diff)
		}
		return
	}
	works(eth0, true)
	gone, stays := eth0, net1
	if reverse {
		gone, stays = net1, eth0
	}
	if err := l.h.RetirePod(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	works(stays, true)
	if err := l.h.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	works(stays, true)
	l.add(gone)
	works(stays, reverse)
	for _, p := range []datapath.Pod{stays, gone} {
		p.Addrs = nil
		if err := l.h.DelPod(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(empty, sandboxItems(t, eth0.Netns)); diff != "" {
		t.Errorf("after all DELs (-before +after):\n%s", diff)
	}
}

// moveIn moves a link of the node into a sandbox, where it keeps its number, so that a pod's
// link gets the first number beside lo, and gives it a default route.
func moveIn(l *lab, path, name string) {
	l.t.Helper()
	in(l.t, l.node, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Index = "moved0", 4000
		ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(ns)
		moved := &netlink.Veth{LinkAttrs: attrs, PeerName: "omoved"}
		if err := h.LinkAdd(moved); err != nil {
			return err
		}
		return h.LinkSetNsFd(moved, ns)
	})
	in(l.t, path, func(h *netlink.Handle) error {
		link, err := h.LinkByName("moved0")
		if err != nil {
			return err
		}
		all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		return errors.Join(h.LinkSetName(link, name), h.LinkSetUp(link),
			h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Scope: netlink.SCOPE_LINK}))
	})
}
