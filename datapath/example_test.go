// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// exampleNode returns a node with two ENIs. The second has addresses for pods.
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

// examplePod returns a pod on the second ENI of exampleNode.
func examplePod(layout datapath.Layout) datapath.Pod {
	return datapath.Pod{
		ContainerID: "5c1e0d", IfName: "eth0", Netns: "/run/netns/cni-5c1e0d", Layout: layout,
		Addrs: []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.0.113"), Table: datapath.Table(0, 1)}},
	}
}

// HostState computes the node's part of a pod's network without a kernel. It prints
// itself as the commands that would create it.
func ExamplePod_HostState() {
	fmt.Print(examplePod(datapath.PerPod).HostState())
	// Output:
	// ip link add eni22af019f3fe address 4a:43:51:fd:54:ab arp off up type veth peer name eth0
	// sysctl -w net.ipv4.conf.eni22af019f3fe.forwarding=1
	// ip neigh replace 10.0.0.113 lladdr 82:23:99:35:6f:76 dev eni22af019f3fe nud permanent
	// ip -4 route replace 10.0.0.113 dev eni22af019f3fe proto 118 scope link
	// ip -4 rule add pref 512 from all to 10.0.0.113 lookup main protocol kernel
	// ip -4 rule add pref 1536 from 10.0.0.113 lookup 2 protocol kernel
}

// An agent configures its node, adds a pod and checks it, and then restores what other
// programs change.
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
		var drift *datapath.DriftError
		if err := h.CheckPod(ctx, pod); errors.As(err, &drift) {
			slog.Warn("another program has changed the pod", "repair", drift.Changes)
		}
		return h.Watch(ctx, datapath.WatchConfig{
			Desired: func() datapath.Desired {
				return datapath.Desired{Node: exampleNode(), Pods: []datapath.Pod{pod}}
			},
			Repaired: func(r datapath.Repair) { slog.Warn("network was damaged", "by", r.By, "repair", r.Changes) },
			Every:    10 * time.Second,
			Logger:   slog.Default(),
		})
	}
	_ = run
}

// A dry run of EnsureNode prints what it would change. What belongs to other programs stays.
func ExampleNode_Owned() {
	node := exampleNode()
	if err := node.Validate(); err != nil {
		fmt.Println(err)
		return
	}
	have := node.State()
	have.Rules = have.Rules[1:]
	have.Rules = append(have.Rules, netstate.Rule{Priority: 100, Table: 7}) // of another program
	for _, change := range netstate.Diff(node.Owned(have), node.State()) {
		fmt.Println(change)
	}
	// Output: ip -4 rule add pref 512 from all lookup 20000 protocol kernel
}
