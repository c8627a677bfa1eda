// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }

// node is an instance of a fabric with two ENIs.
type node struct {
	b    testing.TB
	ns   *fabric.Netns
	h    *datapath.Handle
	want datapath.Node
}

func newFabric(b testing.TB) *fabric.Fabric {
	b.Helper()
	isolatetest.Require(b)
	f, err := fabric.New(b.Context(), fabric.Config{
		VPC:     []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Subnets: []fabric.Subnet{{ID: "subnet-a", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	return f
}

// newNode adds instance i to the fabric. Its pods have addresses of
// 10.(100+i).0.0/16, a prefix of the second ENI.
func newNode(b testing.TB, f *fabric.Fabric, i int, layout datapath.Layout) *node {
	b.Helper()
	name := fmt.Sprintf("node-%d", i)
	ns, err := f.AddInstance(name)
	if err != nil {
		b.Fatal(err)
	}
	n := &node{b: b, ns: ns, want: datapath.Node{Layout: layout}}
	pods := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + i), 0, 0}), 16)
	for d := range 2 {
		e := fabric.ENI{
			ID: fmt.Sprintf("eni-%d-%d", i, d), Instance: name, Device: d, Subnet: "subnet-a",
			MAC: net.HardwareAddr{6, 0, 0, 0, byte(i), byte(d)}, Addr: netip.AddrFrom4([4]byte{10, 1, byte(i), byte(10 + d)}),
		}
		x := datapath.ENI{ID: e.ID, MAC: e.MAC, Device: d, Addrs: []netip.Prefix{netip.PrefixFrom(e.Addr, 8)}}
		if d == 1 {
			e.Prefixes, x.Sources = []netip.Prefix{pods}, []netip.Prefix{pods}
		}
		if err := f.Attach(e); err != nil {
			b.Fatal(err)
		}
		n.want.ENIs = append(n.want.ENIs, x)
	}
	if err := f.Boot(b.Context(), name); err != nil {
		b.Fatal(err)
	}
	if n.h, err = datapath.Open(ns.Path()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { n.h.Close() })
	if err := n.h.EnsureNode(b.Context(), n.want); err != nil {
		b.Fatal(err)
	}
	if err := f.WaitUp(b.Context(), fmt.Sprintf("eni-%d-1", i)); err != nil {
		b.Fatal(err)
	}
	return n
}

// pod returns pod k of the node without a sandbox.
func (n *node) pod(k int) datapath.Pod {
	base := n.want.ENIs[1].Sources[0].Addr().As4()
	return datapath.Pod{
		ContainerID: fmt.Sprintf("%s-%d", n.ns.Name(), k), IfName: "eth0", Layout: n.want.Layout,
		Addrs: []datapath.PodAddr{{Addr: netip.AddrFrom4([4]byte{base[0], base[1], byte((k + 1) / 250), byte((k+1)%250 + 1)}), Table: n.want.ENIs[1].Table()}},
	}
}

// run adds pod k in a new sandbox.
func (n *node) run(k int) (datapath.Pod, *fabric.Netns) {
	n.b.Helper()
	p := n.pod(k)
	ns := newSandbox(n.b, "/run/netns/"+p.ContainerID)
	p.Netns = ns.Path()
	if _, err := n.h.AddPod(n.b.Context(), p); err != nil {
		n.b.Fatal(err)
	}
	return p, ns
}

// senderPod is the number of the pod that sends, higher than those of all crowds.
const senderPod = 2400

// addCrowd adds the routes and rules of further pods to the node. The routes all
// lead to the link of p, which makes no difference to the lookup of a packet. The
// source map of the flat layout gets an element for each pod.
func (n *node) addCrowd(p datapath.Pod, pods int) {
	n.b.Helper()
	var s netstate.State
	var sources []netip.Prefix
	for k := 1; k <= pods; k++ {
		q := n.pod(k)
		h := q.HostState()
		for i := range h.Routes {
			h.Routes[i].Link = p.HostLink()
		}
		s.Routes, s.Rules = append(s.Routes, h.Routes...), append(s.Rules, h.Rules...)
		sources = append(sources, h.Routes[0].Dst)
	}
	if err := n.h.Apply(n.b.Context(), netstate.Diff(netstate.State{}, s)); err != nil {
		n.b.Fatal(err)
	}
	for _, own := range []int{0, senderPod} {
		sources = append(sources, netip.PrefixFrom(n.pod(own).Addrs[0].Addr, 32))
	}
	n.want.ENIs[1].Sources = sources
	if err := n.h.EnsureNode(n.b.Context(), n.want); err != nil {
		n.b.Fatal(err)
	}
}

func newSandbox(b testing.TB, path string) *fabric.Netns {
	b.Helper()
	ns, err := fabric.CreateNetns(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ns.Delete() })
	return ns
}

// figures holds the measured times of one operation.
type figures []time.Duration

func (f figures) median() time.Duration {
	if len(f) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(f))
	return s[len(s)/2]
}

// least returns the shortest time. It measures operations that always cost the same:
// other processes of the machine can only add to that.
func (f figures) least() time.Duration { return slices.Min(f) }

// ratio reports x/y as a metric.
func ratio(b *testing.B, name string, x, y time.Duration) {
	b.ReportMetric(float64(x)/float64(y), strings.ReplaceAll(name, " ", "_"))
}
