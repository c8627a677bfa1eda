// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// families are the settings of the families that pods get.
var families = map[string]struct {
	env  map[string]string
	want []bool // Is4 of each address
}{
	"IPv4":       {map[string]string{}, []bool{true}},
	"IPv6":       {map[string]string{"ENABLE_IPv4": "false", "ENABLE_IPv6": "true"}, []bool{false}},
	"dual-stack": {map[string]string{"ENABLE_IPv6": "true"}, []bool{true, false}},
}

// TestFamilies checks pods of each combination of families, with single addresses and with
// /28 prefixes: on one node and across nodes they see each other's own addresses. The
// internet sees the node's IPv4 address and the pod's IPv6 address, also of pods on a
// second ENI and after the agent was killed. DEL leaves nothing behind.
func TestFamilies(t *testing.T) {
	t.Parallel()
	for name, f := range families {
		for _, layout := range layouts {
			for _, prefixes := range []string{"false", "true"} {
				t.Run(name+"/"+layout+"/prefixes="+prefixes, func(t *testing.T) {
					env := map[string]string{"VPCNET_LAYOUT": layout, "ENABLE_PREFIX_DELEGATION": prefixes, "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}
					for k, v := range f.env {
						env[k] = v
					}
					vpc := vpctest.New(t)
					checkPods(t, vpc, env, f.want)
				})
			}
		}
	}
}

func checkPods(t *testing.T, vpc *vpctest.VPC, env map[string]string, want []bool) {
	var nodes []*Node
	var before []string
	var pods []*Pod
	for _, count := range []int{4, 1} { // a t3.small has 3 addresses for pods on each ENI
		node := Start(t, vpc.Node(t, "t3.small"), Config{Env: env})
		nodes, before = append(nodes, node), append(before, kernelOf(t, node))
		for range count {
			pods = append(pods, node.AddPod(t))
		}
	}
	for _, p := range pods {
		var got []bool
		for _, a := range p.Addrs {
			got = append(got, a.Is4())
		}
		if !slices.Equal(got, want) {
			t.Fatalf("a pod has %v, want IPv4: %v", p.Addrs, want)
		}
	}
	check := func() {
		t.Helper()
		for i, is4 := range want {
			for _, from := range pods {
				for _, to := range pods {
					if from == to {
						continue
					}
					if got := from.Ask(t, "udp", to.At(i)).Addr(); got != from.Addrs[i] {
						t.Errorf("%v sees %v, want %v", to.Addrs[i], got, from.Addrs[i])
					}
				}
				internet, source := vpctest.InternetAddr, from.node.Addr
				if !is4 {
					internet, source = vpctest.InternetAddr6, from.Addrs[i]
				}
				if got := from.Ask(t, "tcp", netip.AddrPortFrom(internet, vpctest.EchoPort)).Addr(); got != source {
					t.Errorf("the internet sees %v from %v, want %v", got, from.Addrs[i], source)
				}
				from.Check(t)
			}
		}
	}
	check()
	nodes[0].Restart(t, syscall.SIGKILL)
	check()
	for _, p := range pods {
		p.Delete(t)
	}
	for i, n := range nodes {
		n.Eventually(t, func() error { return differs(before[i], kernelOf(t, n)) })
		wantNoAllocations(t, n)
	}
	wantNoDrops(t, vpc)
}
