// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"context"
	"fmt"
	"net/netip"
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
			vpc := vpctest.New(t)
			env := map[string]string{"VPCNET_LAYOUT": layout, "VPCNET_SNAT_BACKEND": backend, "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}
			node := Start(t, vpc.Node(t, "t3.nano"), Config{Env: env})
			pods := []*Pod{node.AddPod(t), node.AddPod(t)} // a t3.nano has one address for pods on each ENI
			peer := netip.AddrPortFrom(vpctest.PeerAddr, vpctest.EchoPort)
			tr := &traffic{lines: map[string]int{}}
			ctx, cancel := context.WithCancel(t.Context())
			defer tr.wait.Wait()
			defer cancel()
			open := func(when string, excluded bool) {
				t.Helper()
				for i, p := range pods {
					want := node.Addr
					if excluded {
						want = p.Addrs[0]
					}
					name := fmt.Sprintf("%s: pod %d", when, i)
					tr.open(ctx, name+" to the peer", p.Dial(t, "tcp", peer), want)
					tr.open(ctx, name+" to the internet", p.Dial(t, "tcp", internet), node.Addr)
				}
				tr.alive(t, when)
			}
			has := func(prefix string, want bool) {
				t.Helper()
				node.Eventually(t, func() error {
					rules := node.Node.Run(t, "nft", "list", "ruleset")
					if backend == "iptables" {
						rules = node.Node.Run(t, "iptables-nft-save")
					}
					if strings.Contains(rules, prefix) != want {
						return fmt.Errorf("the translation has %s: %t, want %t:\n%s", prefix, !want, want, rules)
					}
					return nil
				})
			}
			open("before", false)
			vpc.EC2(t, "AssociateVpcCidrBlock", "VpcId", vpc.ID, "CidrBlock", "100.64.0.0/16")
			has("100.64.0.0/16", true)
			open("with another prefix of the VPC", false)
			excluded := netip.PrefixFrom(vpctest.PeerAddr, 24).Masked().String()
			env["AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"] = excluded
			node.Restart(t, syscall.SIGTERM) // serves pods before it changes the translation
			has(excluded, true)
			open("with the peer excluded", true)
			delete(env, "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS")
			node.Restart(t, syscall.SIGKILL)
			has(excluded, false)
			open("without the exclusion", false)
			cancel()
			tr.wait.Wait()
			wantNoDrops(t, vpc)
		})
	}
}
