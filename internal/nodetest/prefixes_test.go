// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"context"
	"errors"
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
					name := when + string(rune('a'+i))
					tr.open(ctx, name+" to the peer", p.Dial(t, "tcp", peer), want)
					tr.open(ctx, name+" to the internet", p.Dial(t, "tcp", internet), node.Addr)
				}
				tr.alive(t, when)
			}
			open("before", false)
			vpc.EC2(t, "AssociateVpcCidrBlock", "VpcId", vpc.ID, "CidrBlock", "100.64.0.0/16")
			node.Eventually(t, func() error {
				rules := node.Node.Run(t, "nft", "list", "ruleset")
				if backend == "iptables" {
					rules = node.Node.Run(t, "iptables-nft-save")
				}
				if !strings.Contains(rules, "100.64.0.0/16") {
					return errors.New("the translation lacks the new prefix:\n" + rules)
				}
				return nil
			})
			open("with another prefix of the VPC", false)
			env["AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"] = netip.PrefixFrom(vpctest.PeerAddr, 24).Masked().String()
			node.Restart(t, syscall.SIGTERM)
			open("with the peer excluded", true)
			delete(env, "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS")
			node.Restart(t, syscall.SIGKILL)
			open("without the exclusion", false)
			cancel()
			tr.wait.Wait()
			wantNoDrops(t, vpc)
		})
	}
}
