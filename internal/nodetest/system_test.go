// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// layouts are the layouts of rules in which the programs are tested.
var layouts = []string{"flat", "per-pod"}

// TestWholeSystem runs pods on two nodes. The first one needs a second ENI for its pods.
// All pods reach each other with their own addresses, and the internet with the address of
// their node, also after the agent was killed. Afterwards nothing is left of them.
func TestWholeSystem(t *testing.T) {
	t.Parallel()
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			vpc := vpctest.New(t)
			env := map[string]string{"VPCNET_LAYOUT": layout}
			var pods []*Pod
			var nodes []*Node
			for _, n := range []int{4, 2} { // a t3.small has 3 addresses for pods on each ENI
				node := Start(t, vpc.Node(t, "t3.small"), Config{Env: env})
				nodes = append(nodes, node)
				for range n {
					pods = append(pods, node.AddPod(t))
				}
			}
			if enis := nodes[0].ENIs(); len(enis) < 2 {
				t.Fatalf("%d ENIs, want a second one for the fourth pod", len(enis))
			}
			check := func() {
				t.Helper()
				for _, from := range pods {
					for _, to := range pods {
						if from == to {
							continue
						}
						from.Ping(t, to.Addrs[0])
						for _, network := range []string{"tcp", "udp"} {
							if got := from.Ask(t, network, to.At(0)).Addr(); got != from.Addrs[0] {
								t.Errorf("%v sees %v over %s, want %v", to.Addrs[0], got, network, from.Addrs[0])
							}
						}
					}
					internet := netip.AddrPortFrom(vpctest.InternetAddr, vpctest.EchoPort)
					if got := from.Ask(t, "tcp", internet).Addr(); got != from.node.Addr {
						t.Errorf("the internet sees %v from pod %v, want the address of %s, %v", got, from.Addrs[0], from.node.Name(), from.node.Addr)
					}
					from.Check(t)
				}
			}
			check()
			nodes[0].Restart(t, syscall.SIGKILL)
			check()
			for i, p := range pods {
				p.Delete(t)
				if i == 0 {
					pods[1].NoPing(t, p.Addrs[0])
				}
			}
			wantNoDrops(t, vpc)
			wantNoAllocations(t, nodes[0])
		})
	}
}

// TestOwnAgent runs the example program that embeds an agent with its own policy.
func TestOwnAgent(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	node := Start(t, vpc.Node(t, "m5.large"), Config{Program: "ownagent"})
	for range 5 {
		p := node.AddPod(t)
		p.Ping(t, vpctest.InternetAddr)
		node.Eventually(t, func() error {
			if !strings.Contains(node.Agent.Output(), "addr="+p.Addrs[0].String()) {
				return errors.New("the hook has not logged the pod")
			}
			return nil
		})
	}
}

// kernelOf returns the links of pods and the routes and rules to pods on a node.
func kernelOf(t *testing.T, n *Node) string {
	t.Helper()
	var out []string
	for _, args := range [][]string{{"-o", "link"}, {"-4", "route", "show", "table", "all"}, {"-6", "route", "show", "table", "all"}, {"-4", "rule"}, {"-6", "rule"}} {
		for line := range strings.Lines(n.Node.Run(t, "ip", args...)) {
			if strings.Contains(line, "eni") {
				out = append(out, line)
			}
		}
	}
	return strings.Join(out, "")
}

// differs returns an error if the kernel of a node is not as before.
func differs(before, after string) error {
	if before != after {
		return fmt.Errorf("left behind, before:\n%safter:\n%s", before, after)
	}
	return nil
}

// wantNoAllocations waits until the agent has no allocation. It may release an address after
// the plugin has answered.
func wantNoAllocations(t *testing.T, n *Node) {
	t.Helper()
	n.Eventually(t, func() error {
		if s := n.Status(t); len(s.Allocations) > 0 {
			return fmt.Errorf("allocations %v, want none", s.Allocations)
		}
		return nil
	})
}

// wantNoDrops checks that no packet left by an ENI that does not own its source, and that
// none reached an ENI that does not own its destination.
func wantNoDrops(t *testing.T, vpc *vpctest.VPC) {
	t.Helper()
	d := vpc.Drops(t)
	for what, by := range map[string]map[string]uint64{"a foreign source": d.Spoofed, "a foreign destination": d.Foreign} {
		for eni, n := range by {
			if n > 0 {
				t.Errorf("the VPC dropped %d packets with %s at %s", n, what, eni)
			}
		}
	}
}
