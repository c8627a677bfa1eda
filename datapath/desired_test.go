// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
)

// checkedNode returns a node with two ENIs, and a pod on the second one.
func checkedNode() datapath.Desired {
	return datapath.Desired{
		Node: datapath.Node{ENIs: []datapath.ENI{
			{ID: "eni-a", MAC: mac("06:00:00:00:00:01"), Addrs: prefixes("10.0.1.10/24"), Sources: prefixes("10.0.1.11/32")},
			{ID: "eni-b", MAC: mac("06:00:00:00:00:02"), Device: 1, Addrs: prefixes("10.0.1.20/24"), Sources: prefixes("10.0.1.32/28")},
		}},
		Pods: []datapath.Pod{{ContainerID: "c", IfName: "eth0", Netns: "/run/netns/c",
			Addrs: []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.1.33"), Table: datapath.Table(0, 1)}}}},
	}
}

// TestDesiredValidate checks what Node.Validate and Pod.Validate cannot see: whether the pods
// belong to the node.
func TestDesiredValidate(t *testing.T) {
	if err := checkedNode().Validate(); err != nil {
		t.Errorf("a valid node: %v", err)
	}
	primary := checkedNode()
	primary.Pods[0].Addrs[0] = datapath.PodAddr{Addr: netip.MustParseAddr("10.0.1.11")}
	if err := primary.Validate(); err != nil {
		t.Errorf("a pod of the primary ENI: %v", err)
	}
	for want, damage := range map[string]func(*datapath.Desired){
		"own address of eni-a":  func(d *datapath.Desired) { d.Pods[0].Addrs[0].Addr = netip.MustParseAddr("10.0.1.10") },
		"not table 77":          func(d *datapath.Desired) { d.Pods[0].Addrs[0].Table = 77 },
		"among its sources":     func(d *datapath.Desired) { d.Pods[0].Addrs[0].Addr = netip.MustParseAddr("10.0.1.99") },
		"have the same address": func(d *datapath.Desired) { other := d.Pods[0]; other.ContainerID = "e"; d.Pods = append(d.Pods, other) },
		"have the same host":    func(d *datapath.Desired) { d.Pods = append(d.Pods, d.Pods[0]) },
		"no ENI has card 0":     func(d *datapath.Desired) { d.Node.ENIs = d.Node.ENIs[1:] },
		"c/eth0: ":              func(d *datapath.Desired) { d.Pods[0].Addrs = nil },
	} {
		d := checkedNode()
		damage(&d)
		if err := d.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
}

// A pod with an address that no ENI of the node has would be wired, and could reach nothing.
func ExampleDesired_Validate() {
	d := checkedNode()
	d.Pods[0].Addrs[0].Addr = netip.MustParseAddr("10.0.1.99")
	fmt.Println(d.Validate())
	// Output:
	// c/eth0: no ENI has 10.0.1.99 among its sources
}
