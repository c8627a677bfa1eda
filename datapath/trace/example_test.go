// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/trace"
)

// desired returns a node with two ENIs and a pod on the second one.
func desired() datapath.Desired {
	return datapath.Desired{
		Node: datapath.Node{ENIs: []datapath.ENI{{
			ID: "eni-0a", MAC: net.HardwareAddr{6, 0, 0, 0, 0, 5}, Link: "ens5",
			Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.10/24")},
		}, {
			ID: "eni-0b", MAC: net.HardwareAddr{6, 0, 0, 0, 0, 6}, Link: "ens6", Device: 1,
			Addrs:   []netip.Prefix{netip.MustParsePrefix("10.0.0.20/24")},
			Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.112/28")},
		}}},
		Pods: []datapath.Pod{{
			ContainerID: "5c1e0d", IfName: "eth0", Netns: "/run/netns/cni-5c1e0d",
			Addrs: []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.0.113"), Table: datapath.Table(0, 1)}},
		}},
	}
}

// The node has lost the map from sources to ENIs, so a packet of the pod leaves by the
// wrong ENI.
func ExampleTrace() {
	d := desired()
	system := netstate.State{
		Links: []netstate.Link{{Name: "ens5", MAC: "06:00:00:00:00:05", Up: true}},
		Routes: []netstate.Route{{
			Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1"), Link: "ens5", Table: netstate.TableMain, Protocol: 16,
		}},
		Rules: []netstate.Rule{{Priority: 32766, Table: netstate.TableMain, Protocol: 2}},
	}
	node := netstate.Join(system, d.Node.State(), d.Pods[0].HostState())
	node.Filter.Sources = nil
	path := trace.Trace(trace.View{Node: node, Desired: &d}, trace.Flow{
		Src: netip.MustParseAddr("10.0.0.113"), Dst: netip.MustParseAddr("10.0.3.7"),
	})
	for _, f := range path.Faults {
		fmt.Printf("%s: %s\n", f.Name, f.Detail)
	}
	// Output:
	// missing-mark: the map of sources should give 10.0.0.113 the mark 0x1, not 0x0
	// wrong-eni: it leaves by ens5, decided by "pref 32766 from all lookup main protocol kernel", but ens6 owns 10.0.0.113: the VPC drops it
}

// A tool on the node observes it, traces a packet, and compares the route lookups with
// those of the kernel.
func ExampleConfirm() {
	explain := func(ctx context.Context, d datapath.Desired, f trace.Flow) error {
		const own = "" // the namespace of the calling thread
		v, err := trace.Observe(ctx, own, d.Pods[0].Netns)
		if err != nil {
			return err
		}
		v.Desired = &d
		path := trace.Trace(v, f)
		fmt.Print(path)
		differences, err := trace.Confirm(ctx, own, path)
		for _, f := range differences {
			fmt.Printf("%s: %s\n", f.Name, f.Detail)
		}
		return err
	}
	_ = explain
}
