// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/trace"
)

func exampleNode() datapath.Node {
	return datapath.Node{ENIs: []datapath.ENI{{
		ID: "eni-0a", MAC: net.HardwareAddr{6, 0, 0, 0, 0, 5}, Link: "ens5",
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.10/24")},
	}, {
		ID: "eni-0b", MAC: net.HardwareAddr{6, 0, 0, 0, 0, 6}, Link: "ens6", Device: 1,
		Addrs:   []netip.Prefix{netip.MustParsePrefix("10.0.0.20/24")},
		Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.112/28")},
	}}}
}

func examplePod(layout datapath.Layout) datapath.Pod {
	return datapath.Pod{
		ContainerID: "5c1e0d", IfName: "eth0", Netns: "/run/netns/cni-5c1e0d", Layout: layout,
		Addrs: []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.0.113"), Table: datapath.Table(0, 1)}},
	}
}

// The state that a pod needs is computed without a kernel. It prints as the commands that
// would make it.
func ExamplePod_HostState() {
	fmt.Print(examplePod(datapath.PerPod).HostState())
	// Output:
	// ip link add eni22af019f3fe address 4a:43:51:fd:54:ab up type veth peer name eth0
	// sysctl -w net.ipv4.conf.eni22af019f3fe.forwarding=1
	// sysctl -w net.ipv6.conf.eni22af019f3fe.accept_ra=0
	// ip neigh replace 10.0.0.113 lladdr 82:23:99:35:6f:76 dev eni22af019f3fe nud permanent
	// ip -4 route replace 10.0.0.113 dev eni22af019f3fe proto 118 scope link
	// ip -4 rule add pref 512 from all to 10.0.0.113 lookup main protocol kernel
	// ip -4 rule add pref 1536 from 10.0.0.113 lookup 2 protocol kernel
}

// Diff returns the changes from one state to another, here from one layout to the other.
func ExampleDiff() {
	for _, c := range netstate.Diff(examplePod(datapath.PerPod).HostState(), examplePod(datapath.Flat).HostState()) {
		fmt.Println(c)
	}
	// Output:
	// ip -4 route replace 10.0.0.113 dev eni22af019f3fe table 20000 proto 118 scope link
	// ip -4 rule del pref 1536 from 10.0.0.113 lookup 2 protocol kernel
	// ip -4 rule del pref 512 from all to 10.0.0.113 lookup main protocol kernel
	// ip -4 route del 10.0.0.113 dev eni22af019f3fe proto 118 scope link
}

// Trace explains a packet's way, here on a node that has lost the element of its
// source map: the packet leaves by the wrong ENI.
func ExampleTrace() {
	n, p := exampleNode(), examplePod(datapath.Flat)
	system := netstate.State{
		Links: []netstate.Link{{Name: "ens5", MAC: "06:00:00:00:00:05", Up: true}},
		Routes: []netstate.Route{{
			Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1"), Link: "ens5", Table: netstate.TableMain, Protocol: 16,
		}},
		Rules: []netstate.Rule{{Priority: 32766, Table: netstate.TableMain, Protocol: 2}},
	}
	node := netstate.Join(system, n.State(), p.HostState())
	node.Filter.Sources = nil
	v := trace.View{Node: node, Desired: &datapath.Desired{Node: n, Pods: []datapath.Pod{p}}}
	path := trace.Trace(v, trace.Flow{Src: p.Addrs[0].Addr, Dst: netip.MustParseAddr("10.0.3.7")})
	for _, f := range path.Faults {
		fmt.Printf("%s: %s\n", f.Name, f.Detail)
	}
	// Output:
	// missing-mark: the map of sources should give 10.0.0.113 the mark 0x1, not 0x0
	// wrong-eni: it leaves by ens5, decided by "pref 32766 from all lookup main protocol kernel", but ens6 owns 10.0.0.113: the VPC drops it
}

// An agent sets its node up, wires pods, and keeps everything as it should be.
func ExampleHandle() {
	run := func(ctx context.Context) error {
		h, err := datapath.Open("") // the namespace of this process
		if err != nil {
			return err
		}
		defer h.Close()
		if err := h.EnsureNode(ctx, exampleNode()); err != nil {
			return err
		}
		pod := examplePod(datapath.Flat)
		wiring, err := h.AddPod(ctx, pod)
		if err != nil {
			return err
		}
		slog.Info("pod wired", "link", wiring.HostLink)
		return h.Watch(ctx, datapath.WatchConfig{
			Desired: func() datapath.Desired {
				return datapath.Desired{Node: exampleNode(), Pods: []datapath.Pod{pod}}
			},
			Logger: slog.Default(),
		})
	}
	_ = run
}
