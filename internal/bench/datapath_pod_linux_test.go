// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// method is one way to add and delete a pod, with the measured times.
type method struct {
	name     string
	add, del func(ctx context.Context, p datapath.Pod) error
	layout   datapath.Layout
	adds     figures
	dels     figures
}

// BenchmarkPod adds and deletes pods in process: in both layouts, and with pods that
// are retired and swept later. It compares them with lower bounds, which only make
// the same netlink requests, one by one.
func BenchmarkPod(b *testing.B) {
	f := newFabric(b)
	flat, perPod := newNode(b, f, 0, datapath.Flat), newNode(b, f, 1, datapath.PerPod)
	flatBound, perPodBound := &lowerBound{path: flat.ns.Path()}, &lowerBound{path: perPod.ns.Path()}
	add := func(n *node) func(context.Context, datapath.Pod) error {
		return func(ctx context.Context, p datapath.Pod) error {
			_, err := n.h.AddPod(ctx, p)
			return err
		}
	}
	methods := []*method{
		{name: "flat", add: add(flat), del: flat.h.DelPod, layout: datapath.Flat},
		{name: "per-pod", add: add(perPod), del: perPod.h.DelPod, layout: datapath.PerPod},
		{name: "retire", add: add(flat), del: flat.h.RetirePod, layout: datapath.Flat},
		{name: "flat-bound", add: flatBound.add, del: flatBound.del, layout: datapath.Flat},
		{name: "per-pod-bound", add: perPodBound.add, del: perPodBound.del, layout: datapath.PerPod},
	}
	round := 0
	for b.Loop() {
		for _, m := range methods {
			m.round(b, flat.pod(round%2000), round)
			round++
		}
		if err := flat.h.Sweep(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, m := range methods {
		b.ReportMetric(float64(m.adds.median().Microseconds()), m.name+"_ADD_us")
		b.ReportMetric(float64(m.adds.least().Microseconds()), m.name+"_ADD_least_us")
		b.ReportMetric(float64(m.dels.median().Microseconds()), m.name+"_DEL_us")
	}
	for i, m := range methods[:2] {
		bound := methods[3+i]
		ratio(b, m.name+"/bound ADD", m.adds.median(), bound.adds.median())
		ratio(b, m.name+"/bound ADD least", m.adds.least(), bound.adds.least())
		ratio(b, m.name+"/bound DEL", m.dels.median(), bound.dels.median())
	}
}

func (m *method) round(b *testing.B, p datapath.Pod, round int) {
	b.Helper()
	p.ContainerID, p.Layout = fmt.Sprintf("%s-%d", m.name, round), m.layout
	ns := newSandbox(b, "/run/netns/"+p.ContainerID)
	p.Netns = ns.Path()
	start := time.Now()
	if err := m.add(b.Context(), p); err != nil {
		b.Fatalf("%s: %v", m.name, err)
	}
	m.adds = append(m.adds, time.Since(start))
	start = time.Now()
	if err := m.del(b.Context(), p); err != nil {
		b.Fatalf("%s: %v", m.name, err)
	}
	m.dels = append(m.dels, time.Since(start))
	if err := ns.Delete(); err != nil {
		b.Fatal(err)
	}
}

// lowerBound makes the netlink requests of one pod with the netlink library, over
// one socket in the namespace of the node and one in the sandbox.
type lowerBound struct {
	path string
	host *netlink.Handle
}

func (l *lowerBound) open() error {
	if l.host != nil {
		return nil
	}
	ns, err := netns.GetFromPath(l.path)
	if err != nil {
		return err
	}
	defer ns.Close()
	l.host, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	return err
}

func (l *lowerBound) add(_ context.Context, p datapath.Pod) error {
	if err := l.open(); err != nil {
		return err
	}
	sandbox, err := netns.GetFromPath(p.Netns)
	if err != nil {
		return err
	}
	defer sandbox.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = p.HostLink(), p.HostMAC()
	err = l.host.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: p.IfName, PeerHardwareAddr: p.SandboxMAC(), PeerNamespace: netlink.NsFd(sandbox),
	})
	if err != nil {
		return err
	}
	host, err := l.host.LinkByName(p.HostLink())
	if err != nil {
		return err
	}
	inside, err := netlink.NewHandleAt(sandbox, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	if err := addInside(inside, p); err != nil {
		return fmt.Errorf("sandbox side: %w", err)
	}
	return addHost(l.host, host, p)
}

// full returns the address of a pod as a prefix of full length.
func full(a datapath.PodAddr) *net.IPNet {
	return &net.IPNet{IP: a.Addr.AsSlice(), Mask: net.CIDRMask(32, 32)}
}

func addInside(h *netlink.Handle, p datapath.Pod) error {
	link, err := h.LinkByName(p.IfName)
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: full(p.Addrs[0])}); err != nil {
		return err
	}
	gw := net.IPv4(169, 254, 1, 1).To4()
	index := link.Attrs().Index
	err = h.NeighSet(&netlink.Neigh{LinkIndex: index, IP: gw, HardwareAddr: p.HostMAC(), State: netlink.NUD_PERMANENT})
	if err != nil {
		return err
	}
	err = h.RouteAdd(&netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: gw, Mask: net.CIDRMask(32, 32)}})
	if err != nil {
		return err
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: index, Gw: gw})
}

func addHost(h *netlink.Handle, link netlink.Link, p datapath.Pod) error {
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	index := link.Attrs().Index
	err := h.NeighSet(&netlink.Neigh{LinkIndex: index, IP: p.Addrs[0].Addr.AsSlice(), HardwareAddr: p.SandboxMAC(), State: netlink.NUD_PERMANENT})
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: index, Table: datapath.TablePods, Scope: netlink.SCOPE_LINK, Dst: full(p.Addrs[0]), Protocol: 118}
	if p.Layout == datapath.Flat {
		return h.RouteReplace(route)
	}
	route.Table = netstate.TableMain
	if err := h.RouteReplace(route); err != nil {
		return err
	}
	for _, r := range rulesOf(p) {
		if err := h.RuleAdd(r); err != nil {
			return err
		}
	}
	return nil
}

// rulesOf returns the rules of a pod in the per-pod layout.
func rulesOf(p datapath.Pod) []*netlink.Rule {
	to, from := netlink.NewRule(), netlink.NewRule()
	to.Priority, to.Dst, to.Table = 512, full(p.Addrs[0]), netstate.TableMain
	from.Priority, from.Src, from.Table = 1536, full(p.Addrs[0]), p.Addrs[0].Table
	return []*netlink.Rule{to, from}
}

func (l *lowerBound) del(_ context.Context, p datapath.Pod) error {
	if p.Layout == datapath.PerPod {
		for _, r := range rulesOf(p) {
			if err := l.host.RuleDel(r); err != nil {
				return err
			}
		}
	}
	link, err := l.host.LinkByName(p.HostLink())
	if err != nil {
		return err
	}
	return l.host.LinkDel(link)
}

// BenchmarkBurst adds 100 pods at once, from as many goroutines, and deletes them in
// the same way.
func BenchmarkBurst(b *testing.B) {
	f := newFabric(b)
	n := newNode(b, f, 0, datapath.Flat)
	const pods = 100
	var adds, dels figures
	round := 0
	for b.Loop() {
		var all []datapath.Pod
		var sandboxes []*fabric.Netns
		for k := range pods {
			p := n.pod(k)
			p.ContainerID = fmt.Sprintf("burst-%d-%d", round, k)
			sandboxes = append(sandboxes, newSandbox(b, "/run/netns/"+p.ContainerID))
			p.Netns = sandboxes[k].Path()
			all = append(all, p)
		}
		adds = append(adds, atOnce(b, all, func(p datapath.Pod) error {
			_, err := n.h.AddPod(b.Context(), p)
			return err
		}))
		dels = append(dels, atOnce(b, all, func(p datapath.Pod) error { return n.h.DelPod(b.Context(), p) }))
		for _, ns := range sandboxes {
			if err := ns.Delete(); err != nil {
				b.Fatal(err)
			}
		}
		round++
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(adds.median().Microseconds())/1000, "100_ADDs_ms")
	b.ReportMetric(float64(dels.median().Microseconds())/1000, "100_DELs_ms")
}

// atOnce calls do for all pods concurrently, and returns the time until the last
// call returns.
func atOnce(b *testing.B, pods []datapath.Pod, do func(datapath.Pod) error) time.Duration {
	b.Helper()
	errs := make(chan error)
	start := time.Now()
	for _, p := range pods {
		go func() { errs <- do(p) }()
	}
	for range pods {
		if err := <-errs; err != nil {
			b.Error(err)
		}
	}
	return time.Since(start)
}

// BenchmarkLook observes a node with the routes and rules of 1,000 pods and compares
// it with the desired state.
func BenchmarkLook(b *testing.B) {
	f := newFabric(b)
	i := 0
	for _, layout := range []datapath.Layout{datapath.Flat, datapath.PerPod} {
		n := newNode(b, f, i, layout)
		i++
		holder, _ := n.run(0)
		n.addCrowd(holder, 1000)
		b.Run(string(layout), func(b *testing.B) {
			for b.Loop() {
				have, err := n.h.Observe(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				datapath.Desired{Node: n.want}.Drift(have)
			}
		})
	}
}
