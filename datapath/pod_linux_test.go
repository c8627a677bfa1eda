// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
)

// TestPodPackets sends packets every way that a pod's packets go: to the outside
// by the pod's ENI, to the node, from the node, and to another pod of the node.
func TestPodPackets(t *testing.T) {
	for _, layout := range layouts {
		for eni, name := range []string{"primary", "secondary"} {
			t.Run(string(layout)+"/"+name, func(t *testing.T) {
				l := newLab(t, layout)
				l.ensure()
				p, other := l.pod(eni, "one"), l.pod(1-eni, "two")
				l.add(p)
				l.add(other)
				for _, a := range []netip.Addr{host4, host6} {
					l.listen(l.node, a)
				}
				for i, a := range p.Addrs {
					l.listen(p.Netns, a.Addr)
					l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
					l.expect(p.Netns, a.Addr, []netip.Addr{host4, host6}[i])
					l.expect(other.Netns, other.Addrs[i].Addr, a.Addr)
					if _, err := ask(l.node, netip.Addr{}, a.Addr); err != nil {
						t.Errorf("node to pod %s: %v", a.Addr, err)
					}
					if _, err := ask(l.outside, outsideOf(a.Addr), a.Addr); err != nil {
						t.Errorf("outside to pod %s: %v", a.Addr, err)
					}
				}
				if err := l.h.CheckPod(t.Context(), p); err != nil {
					t.Errorf("CheckPod: %v", err)
				}
			})
		}
	}
}

// expect sends a request, and wants the other side to see the source address unchanged.
func (l *lab) expect(path string, from, to netip.Addr) {
	l.t.Helper()
	got, err := ask(path, from, to)
	for n := 0; err != nil && n < 3; n++ { // a second passes before the kernel asks for a neighbour again
		got, err = ask(path, from, to)
	}
	if err != nil || got != from.String() {
		l.t.Errorf("%s to %s: seen as %q, %v, want it unchanged", from, to, got, err)
	}
}

// TestSpoof sends from the address of another pod, of the node, and from one that is not
// in use.
func TestSpoof(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			p, other := l.pod(1, "one"), l.pod(0, "two")
			l.add(p)
			l.add(other)
			for _, a := range []netip.Addr{host4, host6} {
				l.listen(l.node, a)
			}
			for i, ends := range [][]string{{"10.0.0.100", "10.0.0.10", "10.0.0.200"}, {"2001:db8:0:1:a::1", "2001:db8:0:1::10", "2001:db8:0:1::200"}} {
				for _, end := range ends {
					spoofed := netip.MustParseAddr(end)
					in(t, p.Netns, func(h *netlink.Handle) error {
						link, err := h.LinkByName("eth0")
						if err != nil {
							return err
						}
						return addAddr(h, link, netip.PrefixFrom(spoofed, spoofed.BitLen()).String())
					})
					to := []netip.Addr{host4, host6}[i]
					if to == spoofed {
						to = outsideOf(to)
					}
					if got, err := ask(p.Netns, spoofed, to); err == nil {
						t.Errorf("a packet from %s got through to %s and was seen as %s", spoofed, to, got)
					}
				}
				l.expect(p.Netns, p.Addrs[i].Addr, outsideOf(p.Addrs[i].Addr))
			}
		})
	}
}

func TestRefuseMetadata(t *testing.T) {
	l := newLab(t, datapath.Flat)
	l.n.RefuseMetadata = true
	metadata := netip.MustParseAddr("169.254.169.254")
	l.listen(l.router, metadata)
	l.ensure()
	p := l.pod(1, "one")
	l.add(p)
	if got, err := ask(p.Netns, p.Addrs[0].Addr, metadata); err == nil {
		t.Errorf("the pod reached the metadata service as %s", got)
	}
	if _, err := ask(l.node, netip.Addr{}, metadata); err != nil {
		t.Errorf("the node does not reach the metadata service: %v", err)
	}
	l.expect(p.Netns, p.Addrs[0].Addr, outside4)
}

func TestDelLeavesNothing(t *testing.T) {
	for _, layout := range layouts {
		for _, name := range []string{"all known", "addresses unknown", "sandbox unknown", "sandbox gone", "only the key"} {
			t.Run(string(layout)+"/"+name, func(t *testing.T) {
				l := newLab(t, layout)
				l.ensure()
				before := l.state()
				p := l.pod(1, "one")
				l.add(p)
				d := p
				switch name {
				case "addresses unknown":
					d.Addrs = nil
				case "sandbox unknown":
					d.Netns = ""
				case "sandbox gone":
					removeNetns(t, p.Netns)
				case "only the key":
					d = datapath.Pod{ContainerID: p.ContainerID, IfName: p.IfName}
				}
				for i := range 2 {
					if err := l.h.DelPod(t.Context(), d); err != nil {
						t.Fatalf("DelPod %d: %v", i, err)
					}
				}
				if diff := cmp.Diff(before, l.state()); diff != "" {
					t.Errorf("DEL left something (-before +after):\n%s", diff)
				}
			})
		}
	}
}

// TestDelLate repeats a DEL when another pod has the address already.
func TestDelLate(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			old := l.pod(1, "old")
			l.add(old)
			if err := l.h.DelPod(t.Context(), old); err != nil {
				t.Fatal(err)
			}
			p := l.pod(1, "new")
			l.add(p)
			if err := l.h.DelPod(t.Context(), old); err != nil {
				t.Fatal(err)
			}
			if err := l.h.CheckPod(t.Context(), p); err != nil {
				t.Errorf("the late DEL changed another pod: %v", err)
			}
		})
	}
}

func TestAddTwice(t *testing.T) {
	for _, layout := range layouts {
		l := newLab(t, layout)
		l.ensure()
		p := l.pod(1, "one")
		first := l.add(p)
		before := l.state()
		if diff := cmp.Diff(first, l.add(p), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
			t.Errorf("%s: second ADD has another answer:\n%s", layout, diff)
		}
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Errorf("%s: second ADD changed something:\n%s", layout, diff)
		}
	}
}

// TestAddOnGarbage adds a pod where dead pods and other programs have left links and
// rules.
func TestAddOnGarbage(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			p := l.pod(1, "one")
			// The stranger has the same addresses, and its DEL was killed after the first
			// step. Without that DEL it would keep everything: see TestAddressTaken.
			stranger := l.pod(1, "stranger")
			l.add(stranger)
			in(t, l.node, func(h *netlink.Handle) error {
				link, err := h.LinkByName(stranger.HostLink())
				if err != nil {
					return err
				}
				return h.LinkSetGroup(link, claims.LinkGroupRetired)
			})
			in(t, l.node, func(h *netlink.Handle) error { return seed(h, p) })
			l.add(p)
			if err := l.h.CheckPod(t.Context(), p); err != nil {
				t.Errorf("CheckPod: %v", err)
			}
			for _, a := range p.Addrs {
				l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
			}
		})
	}
}

// seed makes a link with p's name and rules for its addresses.
func seed(h *netlink.Handle, p datapath.Pod) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = p.HostLink()
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "garbage"}); err != nil {
		return err
	}
	for _, a := range p.Addrs {
		ipnet, err := netlink.ParseIPNet(netip.PrefixFrom(a.Addr, a.Addr.BitLen()).String())
		if err != nil {
			return err
		}
		for _, table := range []int{77, 78} {
			r := netlink.NewRule()
			r.Src, r.Table, r.Priority = ipnet, table, claims.PriorityFromPod
			if err := h.RuleAdd(r); err != nil {
				return fmt.Errorf("rule: %w", err)
			}
			r = netlink.NewRule()
			r.Dst, r.Table, r.Priority = ipnet, table, claims.PriorityToPod
			if err := h.RuleAdd(r); err != nil {
				return fmt.Errorf("rule: %w", err)
			}
		}
	}
	return nil
}

func TestAddErrors(t *testing.T) {
	l := newLab(t, datapath.PerPod)
	l.ensure()
	before := l.state()
	p := l.pod(1, "one")
	taken := l.pod(1, "taken")
	in(t, taken.Netns, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "other"})
	})
	for _, c := range []struct {
		name   string
		change func(*datapath.Pod)
		want   error
	}{
		{"no container", func(p *datapath.Pod) { p.ContainerID = "" }, datapath.ErrInvalid},
		{"no address", func(p *datapath.Pod) { p.Addrs = nil }, datapath.ErrInvalid},
		{"multicast", func(p *datapath.Pod) { p.Addrs[0].Addr = netip.MustParseAddr("224.0.0.1") }, datapath.ErrInvalid},
		{"long name", func(p *datapath.Pod) { p.IfName = "0123456789abcdef" }, datapath.ErrInvalid},
		{"no sandbox", func(p *datapath.Pod) { p.Netns = "/run/netns/none" }, datapath.ErrNoSandbox},
		{"no namespace", func(p *datapath.Pod) { p.Netns = "/proc/self/stat" }, datapath.ErrNoSandbox},
		{"name taken", func(p *datapath.Pod) { p.Netns = taken.Netns }, datapath.ErrInterfaceTaken},
	} {
		q := p
		q.Addrs = append([]datapath.PodAddr(nil), p.Addrs...)
		c.change(&q)
		if _, err := l.h.AddPod(t.Context(), q); !errors.Is(err, c.want) {
			t.Errorf("%s: AddPod = %v, want %v", c.name, err, c.want)
		}
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Fatalf("%s: AddPod left something:\n%s", c.name, diff)
		}
	}
}

// TestRollback makes the last step of ADD fail.
func TestRollback(t *testing.T) {
	l := newLab(t, datapath.Flat)
	l.ensure()
	before := l.state()
	p := l.pod(1, "one")
	in(t, p.Netns, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "other"
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}); err != nil {
			return err
		}
		link, err := h.LinkByName("other")
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
		_, gateway, _ := net.ParseCIDR("169.254.1.1/32")
		return h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: gateway, Scope: netlink.SCOPE_LINK})
	})
	if _, err := l.h.AddPod(t.Context(), p); err == nil {
		t.Error("AddPod succeeded in a sandbox with another route to the gateway")
	}
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("a failed ADD left something:\n%s", diff)
	}
}

// TestRetire retires pods, checks that they can no longer send, and sweeps.
func TestRetire(t *testing.T) {
	for _, layout := range layouts {
		l := newLab(t, layout)
		l.ensure()
		before := l.state()
		p := l.pod(1, "one")
		l.add(p)
		for range 2 {
			if err := l.h.RetirePod(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := ask(p.Netns, p.Addrs[0].Addr, outside4); err == nil {
			t.Errorf("%s: a retired pod still sends, as %s", layout, got)
		}
		// A pod with the same addresses does not have to wait for the sweep.
		q := l.pod(1, "two")
		l.add(q)
		l.expect(q.Netns, q.Addrs[0].Addr, outside4)
		if err := l.h.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := l.h.CheckPod(t.Context(), q); err != nil {
			t.Errorf("%s: %v", layout, err)
		}
		removeNetns(t, q.Netns)
		l.waitGone(q.HostLink())
		if err := l.h.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Errorf("%s: something stayed (-before +after):\n%s", layout, diff)
		}
	}
}

// waitGone waits until the kernel, some time after the end of a sandbox, has deleted a
// link of the node that led there.
func (l *lab) waitGone(link string) {
	l.t.Helper()
	for contains(l.state(), link+" ") {
		if l.t.Context().Err() != nil {
			return
		}
	}
}

// TestManyAtOnce adds and deletes pods from many goroutines.
func TestManyAtOnce(t *testing.T) {
	for _, layout := range layouts {
		l := newLab(t, layout)
		l.ensure()
		before := l.state()
		var pods []datapath.Pod
		for i := range 40 {
			p := l.pod(1, fmt.Sprint("pod", i))
			p.Addrs = []datapath.PodAddr{
				{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(112 + i)}), Table: 2},
				{Addr: netip.MustParseAddr(fmt.Sprintf("2001:db8:0:1:b::%x", i+1)), Table: 2},
			}
			pods = append(pods, p)
		}
		all := func(do func(datapath.Pod) error) {
			t.Helper()
			errs := make(chan error)
			for _, p := range pods {
				go func() { errs <- do(p) }()
			}
			for range pods {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
		}
		all(func(p datapath.Pod) error {
			_, err := l.h.AddPod(t.Context(), p)
			return err
		})
		all(func(p datapath.Pod) error { return l.h.CheckPod(t.Context(), p) })
		all(func(p datapath.Pod) error { return l.h.DelPod(t.Context(), p) })
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Errorf("%s: something stayed (-before +after):\n%s", layout, diff)
		}
	}
}

// TestTwoInterfaces gives one pod an interface on each ENI, and a destination an MTU of
// its own. Packets leave by the interface that has their source address.
func TestTwoInterfaces(t *testing.T) {
	for _, layout := range layouts {
		l := newLab(t, layout)
		l.ensure()
		before := l.state()
		first, second := l.pod(0, "one"), l.pod(1, "one")
		second.Netns, second.IfName, second.Index = first.Netns, "eth1", 1
		second.PathMTUs = []datapath.PathMTU{{Prefix: netip.MustParsePrefix("198.51.100.0/24"), MTU: 1300}}
		for range 2 {
			l.add(first)
			l.add(second)
		}
		for _, p := range []datapath.Pod{first, second} {
			for _, a := range p.Addrs {
				l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
			}
			if err := l.h.CheckPod(t.Context(), p); err != nil {
				t.Errorf("%s: %s: %v", layout, p.IfName, err)
			}
		}
		in(t, first.Netns, func(h *netlink.Handle) error {
			routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: 1}, netlink.RT_FILTER_TABLE)
			for _, r := range routes {
				if r.Dst != nil && r.Dst.String() == "198.51.100.0/24" && r.MTU == 1300 {
					return err
				}
			}
			return errors.Join(err, fmt.Errorf("no route with the MTU of the path in %v", routes))
		})
		for _, p := range []datapath.Pod{first, second} {
			if err := l.h.DelPod(t.Context(), p); err != nil {
				t.Error(err)
			}
		}
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Errorf("%s: something stayed (-before +after):\n%s", layout, diff)
		}
	}
}
