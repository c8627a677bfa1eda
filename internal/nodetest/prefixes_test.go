// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// TestPrefixesChange changes the prefixes of the VPC, and the excluded ones, while flows of pods
// on two ENIs run. New flows follow the change, and open flows keep their source.
func TestPrefixesChange(t *testing.T) {
	t.Parallel()
	for backend, layout := range map[string]string{"nftables": "flat", "iptables": "per-pod"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()                              // dropping a prefix takes its time
			late := netip.MustParseAddr("100.64.9.9") // in a prefix that the VPC has for a while
			vpc := vpctest.NewWith(t, vpctest.Config{PeerAddrs: []netip.Addr{late}})
			env := map[string]string{"VPCNET_LAYOUT": layout, "VPCNET_SNAT_BACKEND": backend, "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}
			node := Start(t, vpc.Node(t, "t3.nano"), Config{Env: env})
			pods := []*Pod{node.AddPod(t), node.AddPod(t)} // a t3.nano has one address for pods on each ENI
			if enis := node.ENIs(); len(enis) != 2 {
				t.Fatalf("%d ENIs, want a second one for the second pod", len(enis))
			}
			far := vpc.Node(t, "t3.nano")
			inside := netip.AddrPortFrom(far.Addr, vpctest.EchoPort)
			far.Echo(t, inside)
			tr := &traffic{lines: map[string]int{}}
			ctx, cancel := context.WithCancel(t.Context())
			defer tr.wait.Wait()
			defer cancel()
			for i, p := range pods {
				tr.open(ctx, fmt.Sprintf("pod %d to the VPC", i), p.Dial(t, "tcp", inside), p.Addrs[0])
				tr.open(ctx, fmt.Sprintf("pod %d to the internet", i), p.Dial(t, "tcp", internet), node.Addr)
			}
			// open opens flows of the pods to what changes. Those to what is in kept have the
			// address of the pod.
			open := func(when string, kept ...netip.Addr) {
				t.Helper()
				for i, p := range pods {
					for _, to := range []netip.Addr{vpctest.PeerAddr, late} {
						want := node.Addr
						if slices.Contains(kept, to) {
							want = p.Addrs[0]
						}
						tr.open(ctx, fmt.Sprintf("%s: pod %d to %v", when, i, to), p.Dial(t, "tcp", netip.AddrPortFrom(to, vpctest.EchoPort)), want)
					}
				}
				tr.alive(t, when)
			}
			// has waits until the translation has exactly those of the prefixes that change.
			// With look it sends signals that make the agent check the prefixes of the VPC.
			has := func(look bool, want ...string) {
				t.Helper()
				node.Eventually(t, func() error {
					if look {
						node.Agent.Signal(t, syscall.SIGHUP)
					}
					rules := node.Node.Run(t, "nft", "list", "ruleset")
					if backend == "iptables" {
						rules = node.Node.Run(t, "iptables-nft-save")
					}
					for _, p := range []string{"100.64.0.0/16", "192.168.100.0/24"} {
						if strings.Contains(rules, p) != slices.Contains(want, p) {
							return fmt.Errorf("the translation has not exactly %v:\n%s", want, rules)
						}
					}
					return nil
				})
			}
			open("before")
			answer := vpc.EC2(t, "AssociateVpcCidrBlock", "VpcId", vpc.ID, "CidrBlock", "100.64.0.0/16")
			has(true, "100.64.0.0/16")
			open("with another prefix of the VPC", late)
			env["AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"] = "192.168.100.0/24"
			node.Restart(t, syscall.SIGTERM) // serves pods before it changes the translation
			has(false, "100.64.0.0/16", "192.168.100.0/24")
			open("with the peer excluded", late, vpctest.PeerAddr)
			_, association, _ := strings.Cut(answer, "<associationId>")
			association, _, _ = strings.Cut(association, "<")
			vpc.EC2(t, "DisassociateVpcCidrBlock", "AssociationId", association)
			has(true, "192.168.100.0/24")
			open("without the other prefix of the VPC", vpctest.PeerAddr)
			delete(env, "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS")
			node.Restart(t, syscall.SIGKILL)
			has(false)
			open("without the exclusion")
			cancel()
			tr.wait.Wait()
			wantNoDrops(t, vpc)
		})
	}
}
