// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"golang.org/x/sys/unix"
)

// modeDamage is a damage to the node's side of a pod of a mode.
type modeDamage struct {
	name string
	do   func(h *netlink.Handle, p datapath.Pod) error
	// repair is a part of the text of one of the changes that repair the damage.
	repair string
}

// hostDamages are possible for every pod with a host link.
var hostDamages = []modeDamage{
	{name: "host link down", do: func(h *netlink.Handle, p datapath.Pod) error { return withLink(h, p.HostLink(), h.LinkSetDown) }, repair: " up"},
	{name: "MTU of the host link", do: func(h *netlink.Handle, p datapath.Pod) error {
		return withLink(h, p.HostLink(), func(l netlink.Link) error { return h.LinkSetMTU(l, 1300) })
	}, repair: "mtu 1400"},
	{name: "MAC of the host link", do: func(h *netlink.Handle, p datapath.Pod) error {
		return withLink(h, p.HostLink(), func(l netlink.Link) error { return h.LinkSetHardwareAddr(l, mac("02:00:00:00:00:98")) })
	}, repair: "address"},
	{name: "group of the host link", do: func(h *netlink.Handle, p datapath.Pod) error {
		return withLink(h, p.HostLink(), func(l netlink.Link) error { return h.LinkSetGroup(l, 5) })
	}, repair: "link"},
	{name: "host link on a foreign bridge", do: func(h *netlink.Handle, p datapath.Pod) error {
		return withLink(h, "foreign", func(bridge netlink.Link) error {
			return withLink(h, p.HostLink(), func(l netlink.Link) error { return h.LinkSetMaster(l, bridge) })
		})
	}, repair: "link"},
	{name: "routes", do: func(h *netlink.Handle, p datapath.Pod) error {
		return eachPodRoute(h, p, h.RouteDel)
	}, repair: "route replace"},
	{name: "routes by another link", do: func(h *netlink.Handle, p datapath.Pod) error {
		return withLink(h, "ens5", func(l netlink.Link) error {
			return eachPodRoute(h, p, func(r *netlink.Route) error {
				r.LinkIndex = l.Attrs().Index
				return h.RouteReplace(r)
			})
		})
	}, repair: "route replace"},
	{name: "neighbours", do: func(h *netlink.Handle, p datapath.Pod) error {
		return eachPodNeighbor(h, p, h.NeighDel)
	}, repair: "neigh replace"},
	{name: "stale neighbours", do: func(h *netlink.Handle, p datapath.Pod) error {
		return eachPodNeighbor(h, p, func(n *netlink.Neigh) error {
			n.HardwareAddr = mac("02:00:00:00:00:99")
			return h.NeighSet(n)
		})
	}, repair: "neigh replace"},
	{name: "neighbours that expire", do: func(h *netlink.Handle, p datapath.Pod) error {
		return eachPodNeighbor(h, p, func(n *netlink.Neigh) error {
			n.State = netlink.NUD_STALE
			return h.NeighSet(n)
		})
	}, repair: "neigh replace"},
}

// nodeDamages change what pods share.
var nodeDamages = []modeDamage{
	{name: "rules", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return eachRule(h, func(r netlink.Rule) bool { return r.Priority > 20 && r.Priority < 32766 && r.Priority != 700 }, h.RuleDel)
	}, repair: "rule add"},
	{name: "forwarding", do: func(*netlink.Handle, datapath.Pod) error { return sysctl("net/ipv4/ip_forward", "0") }, repair: "ip_forward=1"},
}

// eniDamages change the second ENI.
var eniDamages = []modeDamage{
	{name: "MTU of the ENI", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return withLink(h, "ens6", func(l netlink.Link) error { return h.LinkSetMTU(l, 1390) })
	}, repair: "mtu 1400"},
	{name: "setting of the ENI", do: func(*netlink.Handle, datapath.Pod) error { return sysctl("net/ipv4/conf/ens6/rp_filter", "1") }, repair: "rp_filter=2"},
	{name: "stale neighbour of the ENI", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return withLink(h, "ens6", func(l netlink.Link) error {
			return h.NeighSet(&netlink.Neigh{
				LinkIndex: l.Attrs().Index, IP: net.IPv4(10, 0, 0, 1), HardwareAddr: mac("02:00:00:00:00:96"), State: netlink.NUD_PERMANENT,
			})
		})
	}, repair: "neigh del"},
	{name: "table of the ENI", do: func(h *netlink.Handle, _ datapath.Pod) error { return eachRoute(h, "ens6", 2, h.RouteDel) }, repair: "table 2"},
}

// bridgeName is the name of the bridge if a pod names none.
const bridgeName = "enibr0"

// bridgeDamages change a bridge and its ports.
var bridgeDamages = []modeDamage{
	{name: "no port", do: func(h *netlink.Handle, p datapath.Pod) error { return withLink(h, p.HostLink(), h.LinkSetNoMaster) }, repair: "master enibr0"},
	{name: "bridge down", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return withLink(h, bridgeName, h.LinkSetDown)
	}, repair: "enibr0"},
	{name: "MAC of the bridge", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return withLink(h, bridgeName, func(l netlink.Link) error { return h.LinkSetHardwareAddr(l, mac("02:00:00:00:00:97")) })
	}, repair: "enibr0 address"},
	{name: "no bridge", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return withLink(h, bridgeName, h.LinkDel)
	}, repair: "link add name enibr0"},
	{name: "something else in the bridge's place", do: func(h *netlink.Handle, _ datapath.Pod) error {
		if err := withLink(h, bridgeName, h.LinkDel); err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = bridgeName
		return ignoreExists(h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "odd"}))
	}, repair: "link add name enibr0"},
}

// ignoreExists drops the error of a damage that Watch has repaired before it was complete.
func ignoreExists(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func eachPodRoute(h *netlink.Handle, p datapath.Pod, f func(*netlink.Route) error) error {
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: claims.RouteProtocol, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	for _, r := range routes {
		for _, a := range p.Addrs {
			if r.Dst != nil && r.Dst.IP.Equal(a.Addr.AsSlice()) {
				err = errors.Join(err, f(&r))
			}
		}
	}
	return err
}

func eachPodNeighbor(h *netlink.Handle, p datapath.Pod, f func(*netlink.Neigh) error) error {
	neighs, err := h.NeighList(0, netlink.FAMILY_ALL)
	for _, n := range neighs {
		for _, a := range p.Addrs {
			if n.IP.Equal(a.Addr.AsSlice()) && n.State&netlink.NUD_PERMANENT != 0 {
				err = errors.Join(err, f(&n))
			}
		}
	}
	return err
}

// foreignLinks adds links of another program to the node: a bridge with a port, a link
// with the prefix of host links, and a neighbour.
func (l *lab) foreignLinks() {
	in(l.t, l.node, func(h *netlink.Handle) error {
		bridge := netlink.NewLinkAttrs()
		bridge.Name, bridge.HardwareAddr = "foreign", mac("02:00:00:00:00:90")
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: bridge}); err != nil {
			return err
		}
		port := netlink.NewLinkAttrs()
		port.Name, port.MasterIndex = "port", 0
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: port, PeerName: "eniforeign"}); err != nil {
			return err
		}
		return withLink(h, "foreign", func(bridge netlink.Link) error {
			if err := withLink(h, "port", func(l netlink.Link) error { return h.LinkSetMaster(l, bridge) }); err != nil {
				return err
			}
			return h.NeighSet(&netlink.Neigh{
				LinkIndex: bridge.Attrs().Index, IP: net.IPv4(192, 0, 2, 9), HardwareAddr: mac("02:00:00:00:00:91"), State: netlink.NUD_PERMANENT,
			})
		})
	})
}

// TestWatchModes damages the node's side of pods of each mode. Watch must repair exactly
// the damage, report it, and leave the objects of other programs alone.
func TestWatchModes(t *testing.T) {
	bridged := func(l *lab) []datapath.Pod {
		p, other := l.pod(1, "one"), l.pod(0, "two")
		p.Mode.Bridge, other.Mode.Bridge = &datapath.Bridge{}, &datapath.Bridge{}
		return []datapath.Pod{p, other}
	}
	several := func(l *lab) []datapath.Pod {
		first, second := l.pod(0, "one"), l.pod(1, "one")
		second.Netns, second.IfName, second.Index = first.Netns, "eth1", 1
		return []datapath.Pod{second, first}
	}
	for _, tt := range []struct {
		name    string
		pods    func(*lab) []datapath.Pod
		damages [][]modeDamage
	}{
		{"bridge", bridged, [][]modeDamage{hostDamages, bridgeDamages, nodeDamages, eniDamages}},
		{"several interfaces", several, [][]modeDamage{hostDamages, nodeDamages, eniDamages}},
	} {
		for _, layout := range layouts {
			t.Run(tt.name+" "+string(layout), func(t *testing.T) {
				l := newLab(t, layout)
				l.ensure()
				l.watchModes(tt.pods(l), tt.damages...)
			})
		}
	}
}

// watchModes makes each damage to the first of the pods while Watch knows all of them, and
// expects a repair. Then a DEL must delete everything that was repaired.
func (l *lab) watchModes(pods []datapath.Pod, lists ...[]modeDamage) {
	l.t.Helper()
	l.foreign()
	l.foreignLinks()
	for _, p := range pods[1:] {
		l.add(p)
	}
	before := l.state()
	l.add(pods[0])
	want := l.state()
	repairs := l.watch(pods...)
	for _, list := range lists {
		for _, d := range list {
			in(l.t, l.node, func(h *netlink.Handle) error { return d.do(h, pods[0]) })
			l.t.Logf("%s: %v", d.name, l.repairedBy(want, d.repair, repairs))
		}
	}
	for _, p := range pods {
		if err := l.h.CheckPod(l.t.Context(), p); err != nil {
			l.t.Errorf("CheckPod %s: %v", p.IfName, err)
		}
		for _, a := range p.Addrs {
			if p.Mode.Branch == nil { // the lab has no neighbour entry for the gateway of a branch ENI
				l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
			}
		}
	}
	p := pods[0]
	if err := l.h.DelPod(l.t.Context(), datapath.Pod{ContainerID: p.ContainerID, IfName: p.IfName, Index: p.Index, Netns: p.Netns}); err != nil {
		l.t.Fatal(err)
	}
	if diff := cmp.Diff(before, l.state()); diff != "" {
		l.t.Errorf("DEL after the repairs left something (-before +after):\n%s", diff)
	}
}

// repairedBy waits until the state of the node is want again, and until Watch has reported
// a change with words in its text. It returns how long that repair took.
func (l *lab) repairedBy(want, words string, repairs <-chan datapath.Repair) (took time.Duration) {
	l.t.Helper()
	var reported strings.Builder
	timeout := time.After(5 * time.Second)
	for took == 0 || l.state() != want {
		select {
		case r := <-repairs:
			for _, c := range r.Changes {
				reported.WriteString(c.String() + "\n")
				if took == 0 && strings.Contains(c.String(), words) {
					took = r.Took
				}
			}
		case <-timeout:
			l.t.Fatalf("not repaired, or no change contains %q (-want +got):\n%s\n%s", words, cmp.Diff(want, l.state()), reported.String())
		}
	}
	return took
}

// TestWatchWholeENI watches a node with a second ENI that belongs to a pod. Watch must not take
// the ENI for missing, nor configure it when another program moves it back to the node.
func TestWatchWholeENI(t *testing.T) {
	l, p := wholeENI(t)
	l.foreign()
	l.foreignLinks()
	repairs := l.watch(p)
	l.add(p)
	want, inside := l.state(), observe(t, p.Netns)
	for _, d := range nodeDamages {
		in(t, l.node, func(h *netlink.Handle) error { return d.do(h, p) })
		l.repairedBy(want, d.repair, repairs)
	}
	if diff := cmp.Diff(inside, observe(t, p.Netns)); diff != "" {
		t.Errorf("Watch changed the sandbox:\n%s", diff)
	}
	for _, a := range p.Addrs {
		l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
	}
	in(t, p.Netns, func(h *netlink.Handle) error {
		node, err := netns.GetFromPath(l.node)
		if err != nil {
			return err
		}
		defer node.Close()
		return withLink(h, "eth0", func(link netlink.Link) error { return h.LinkSetNsFd(link, int(node)) })
	})
	want = l.state()
	if !contains(want, "eth0") {
		t.Fatalf("the ENI did not come back:\n%s", want)
	}
	// A damage and its repair show that Watch has looked since.
	in(t, l.node, func(h *netlink.Handle) error { return nodeDamages[0].do(h, p) })
	l.repairedBy(want, nodeDamages[0].repair, repairs)
	for len(repairs) > 0 {
		for _, c := range (<-repairs).Changes {
			if strings.Contains(c.String(), "eth0") || strings.Contains(c.String(), "ens6") {
				t.Errorf("Watch configured the ENI of the pod: %v", c)
			}
		}
	}
	if err := l.h.DelPod(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if s := l.state(); !contains(s, "ens6") || contains(s, "eth0") {
		t.Errorf("DEL did not return the ENI:\n%s", s)
	}
}
