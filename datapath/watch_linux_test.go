// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// watch starts a Watch of the lab's node and pods, and returns a channel of its repairs.
func (l *lab) watch(pods ...datapath.Pod) <-chan datapath.Repair {
	l.t.Helper()
	repairs, done := make(chan datapath.Repair, 10000), make(chan error)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		done <- l.h.Watch(ctx, datapath.WatchConfig{
			Desired:  func() datapath.Desired { return datapath.Desired{Node: *l.n, Pods: pods} },
			Repaired: func(r datapath.Repair) { repairs <- r },
		})
	}()
	l.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			l.t.Errorf("Watch = %v, want context.Canceled", err)
		}
	})
	return repairs
}

// damage is a change that a hostile or careless program makes.
type damage struct {
	name string
	do   func(h *netlink.Handle, p datapath.Pod) error
	// layout is the only layout in which the damage is possible; empty means both.
	layout datapath.Layout
	// slow means that the kernel needs some time after the repair.
	slow bool
}

var damages = []damage{
	{name: "delete the pod's routes", do: func(h *netlink.Handle, p datapath.Pod) error {
		return eachRoute(h, p.HostLink(), 0, h.RouteDel)
	}},
	{name: "delete the pod's neighbours", do: func(h *netlink.Handle, p datapath.Pod) error {
		return eachNeighbor(h, p, h.NeighDel)
	}},
	{name: "make the pod's neighbours stale", do: func(h *netlink.Handle, p datapath.Pod) error {
		return eachNeighbor(h, p, func(n *netlink.Neigh) error {
			n.HardwareAddr = mac("02:00:00:00:00:99")
			return h.NeighSet(n)
		})
	}},
	{name: "set the host link down", slow: true, do: func(h *netlink.Handle, p datapath.Pod) error {
		return withLink(h, p.HostLink(), h.LinkSetDown)
	}},
	{name: "give the host link another MAC", do: func(h *netlink.Handle, p datapath.Pod) error {
		return withLink(h, p.HostLink(), func(l netlink.Link) error { return h.LinkSetHardwareAddr(l, mac("02:00:00:00:00:98")) })
	}},
	{name: "give the host link another MTU", do: func(h *netlink.Handle, p datapath.Pod) error {
		return withLink(h, p.HostLink(), func(l netlink.Link) error { return h.LinkSetMTU(l, 1300) })
	}},
	{name: "let the host link learn by ARP", do: func(h *netlink.Handle, p datapath.Pod) error {
		return withLink(h, p.HostLink(), h.LinkSetARPOn)
	}},
	{name: "delete the pod's rules", layout: datapath.PerPod, do: func(h *netlink.Handle, _ datapath.Pod) error {
		return eachRule(h, func(r netlink.Rule) bool { return r.Priority == 1536 || r.Priority == 512 }, h.RuleDel)
	}},
	{name: "delete the node's rules", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return eachRule(h, func(r netlink.Rule) bool { return r.Priority > 0 && r.Priority < 32766 && r.Priority != 700 }, h.RuleDel)
	}},
	{name: "flush the ENI's table", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return eachRoute(h, "ens6", 2, h.RouteDel)
	}},
	{name: "set the ENI down", slow: true, do: func(h *netlink.Handle, _ datapath.Pod) error {
		return withLink(h, "ens6", h.LinkSetDown)
	}},
	{name: "give the ENI another MTU", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return withLink(h, "ens6", func(l netlink.Link) error { return h.LinkSetMTU(l, 1350) })
	}},
	{name: "delete the ENI's addresses", slow: true, do: func(h *netlink.Handle, _ datapath.Pod) error {
		return withLink(h, "ens6", func(l netlink.Link) error {
			addrs, err := h.AddrList(l, netlink.FAMILY_V4)
			for _, a := range addrs {
				err = errors.Join(err, h.AddrDel(l, &a))
			}
			return err
		})
	}},
	{name: "run DHCP on the ENI", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return withLink(h, "ens6", func(l netlink.Link) error {
			if err := addAddr(h, l, "10.0.0.21/24"); err != nil {
				return err
			}
			gw := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP("10.0.0.1"), Flags: int(netlink.FLAG_ONLINK), Priority: 50}
			return h.RouteAdd(gw)
		})
	}},
	{name: "filter the ENI strictly", do: func(*netlink.Handle, datapath.Pod) error {
		return errors.Join(sysctl("net/ipv4/conf/ens6/rp_filter", "1"), sysctl("net/ipv4/conf/all/rp_filter", "0"))
	}},
	{name: "stop forwarding", do: func(*netlink.Handle, datapath.Pod) error {
		return errors.Join(sysctl("net/ipv4/ip_forward", "0"), sysctl("net/ipv6/conf/all/forwarding", "0"))
	}},
	{name: "flush nftables", do: func(*netlink.Handle, datapath.Pod) error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	}},
	{name: "flush a map", layout: datapath.Flat, do: func(*netlink.Handle, datapath.Pod) error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushSet(&nftables.Set{Table: &nftables.Table{Name: netstate.FilterTable, Family: nftables.TableFamilyINet}, Name: "source4"})
		return c.Flush()
	}},
	{name: "change a rule of nftables", do: func(*netlink.Handle, datapath.Pod) error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Name: netstate.FilterTable, Family: nftables.TableFamilyINet}
		c.FlushChain(&nftables.Chain{Table: table, Name: "from-pod"})
		return c.Flush()
	}},
}

func withLink(h *netlink.Handle, name string, f func(netlink.Link) error) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	return f(l)
}

func eachRoute(h *netlink.Handle, link string, table int, f func(*netlink.Route) error) error {
	return withLink(h, link, func(l netlink.Link) error {
		routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: l.Attrs().Index, Table: table}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		for _, r := range routes {
			if r.Protocol == claims.RouteProtocol {
				err = errors.Join(err, f(&r))
			}
		}
		return err
	})
}

func eachNeighbor(h *netlink.Handle, p datapath.Pod, f func(*netlink.Neigh) error) error {
	return withLink(h, p.HostLink(), func(l netlink.Link) error {
		neighs, err := h.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
		for _, n := range neighs {
			if n.State&netlink.NUD_PERMANENT != 0 {
				err = errors.Join(err, f(&n))
			}
		}
		return err
	})
}

func eachRule(h *netlink.Handle, which func(netlink.Rule) bool, f func(*netlink.Rule) error) error {
	var errs []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := h.RuleList(family)
		errs = append(errs, err)
		for _, r := range rules {
			if which(r) {
				r.Family = family
				errs = append(errs, f(&r))
			}
		}
	}
	return errors.Join(errs...)
}

// foreign adds a rule and a route of another program to the node that resemble those of
// the package.
func (l *lab) foreign() {
	in(l.t, l.node, func(h *netlink.Handle) error {
		r := netlink.NewRule()
		r.Priority, r.Table, r.Src = 700, 77, &net.IPNet{IP: net.IPv4(10, 0, 0, 101).To4(), Mask: net.CIDRMask(32, 32)}
		if err := h.RuleAdd(r); err != nil {
			return err
		}
		link, err := h.LinkByName("ens5")
		if err != nil {
			return err
		}
		dst := &net.IPNet{IP: net.IPv4(192, 0, 2, 0).To4(), Mask: net.CIDRMask(24, 32)}
		return h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Table: 77, Scope: unix.RT_SCOPE_LINK})
	})
}

// repaired waits until the state of the node is want again.
func (l *lab) repaired(want string, repairs <-chan datapath.Repair) (first datapath.Repair, ok bool) {
	l.t.Helper()
	timeout := time.After(5 * time.Second)
	for n := 0; ; n++ {
		select {
		case r := <-repairs:
			if n == 0 {
				first = r
			}
			if l.state() == want {
				return first, true
			}
		case <-timeout:
			l.t.Errorf("not repaired (-want +got):\n%s", cmp.Diff(want, l.state()))
			return first, false
		}
	}
}

// TestWatch makes each damage while Watch runs, and expects a repair.
func TestWatch(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.n.RefuseMetadata = true
			l.ensure()
			p := l.pod(1, "one")
			l.add(p)
			l.foreign()
			want := l.state()
			repairs := l.watch(p)
			for _, d := range damages {
				if d.layout != "" && d.layout != layout {
					continue
				}
				in(t, l.node, func(h *netlink.Handle) error { return d.do(h, p) })
				r, ok := l.repaired(want, repairs)
				if !ok {
					t.Fatalf("after %q", d.name)
				}
				t.Logf("%-32s repaired in %v by %d changes; by %v", d.name, r.Took, len(r.Changes), r.By)
			}
			for _, a := range p.Addrs {
				l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
			}
		})
	}
}

// TestWatchLeavesPods adds and deletes pods while Watch runs. Watch must neither undo an
// ADD nor restore what a DEL has deleted.
func TestWatchLeavesPods(t *testing.T) {
	for _, layout := range layouts {
		l := newLab(t, layout)
		l.ensure()
		before := l.state()
		var pods []datapath.Pod
		for i := range 20 {
			p := l.pod(1, "pod"+strings.Repeat("x", i))
			p.Addrs = []datapath.PodAddr{{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(112 + i)}), Table: 2}}
			pods = append(pods, p)
		}
		repairs := l.watch(pods...)
		for range 3 {
			for _, p := range pods {
				l.add(p)
			}
			for _, p := range pods {
				if err := l.h.CheckPod(t.Context(), p); err != nil {
					t.Errorf("%s: %v", layout, err)
				}
			}
			for _, p := range pods {
				if err := l.h.DelPod(t.Context(), p); err != nil {
					t.Error(err)
				}
			}
		}
		deadline := time.Now().Add(5 * time.Second)
		for l.state() != before && time.Now().Before(deadline) {
		}
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Errorf("%s: DEL left something (-before +after):\n%s", layout, diff)
		}
		t.Logf("%s: %d repairs", layout, len(repairs))
	}
}
