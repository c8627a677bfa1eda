// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// freshDamages are scripts that another program runs as soon as the ADD of a pod has ended.
// They see the pod's host link as $LINK, its address as $ADDR, and the table of pods as $TABLE.
var freshDamages = []struct {
	name, script string
	layout       string // empty means each
}{
	{name: "flush the table of pods", layout: "flat", script: "ip route flush table $TABLE"},
	{name: "delete the route", script: "ip route del $ADDR table $TABLE"},
	{name: "lead the route elsewhere", script: "ip route replace $ADDR dev ens5 table $TABLE"},
	{name: "delete the rules", layout: "per-pod", script: "ip rule del to $ADDR; ip rule del from $ADDR"},
	{name: "delete the neighbour", script: "ip neigh del $ADDR dev $LINK"},
	{name: "change the neighbour", script: "ip neigh replace $ADDR lladdr 02:00:00:00:00:99 dev $LINK nud permanent"},
	{name: "set the link down", script: "ip link set $LINK down"},
	{name: "change the MTU", script: "ip link set $LINK mtu 1300"},
	{name: "change the MAC", script: "ip link set $LINK address 02:00:00:00:00:98"},
	{name: "let the link learn", script: "ip link set $LINK arp on"},
}

// TestFreshPods damages the network of a pod directly after its ADD. The agent repairs it.
func TestFreshPods(t *testing.T) {
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			vpc := vpctest.New(t)
			node := Start(t, vpc.Node(t, "t3.nano"), Config{Env: map[string]string{"VPCNET_LAYOUT": layout, "IP_COOLDOWN_PERIOD": "0"}})
			far := Start(t, vpc.Node(t, "t3.nano"), Config{}).AddPod(t)
			node.AddPod(t) // has the only address of the primary ENI
			table := map[string]string{"flat": "20000", "per-pod": "main"}[layout]
			for _, d := range freshDamages {
				if d.layout != "" && d.layout != layout {
					continue
				}
				p := node.AddPod(t)
				link := p.Result.Interfaces[0].Name
				before := freshState(t, node, p, link)
				node.Node.Run(t, "sh", "-ec", fmt.Sprintf("LINK=%s ADDR=%v TABLE=%s; %s", link, p.Addrs[0], table, d.script))
				node.Eventually(t, func() error {
					if after := freshState(t, node, p, link); after != before {
						return fmt.Errorf("%s: not repaired, before:\n%s\nafter:\n%s", d.name, before, after)
					}
					return nil
				})
				if got := far.Ask(t, "tcp", p.At(0)).Addr(); got != far.Addrs[0] {
					t.Errorf("%s: the pod sees %v, want %v", d.name, got, far.Addrs[0])
				}
				p.Delete(t)
			}
		})
	}
}

// freshState returns what the kernel of a node has for a pod.
func freshState(t *testing.T, n *Node, p *Pod, link string) string {
	t.Helper()
	var out []string
	for _, args := range []string{"-4 route show table all", "-4 rule", "-4 neigh", "-o link"} {
		for line := range strings.Lines(n.Node.Run(t, "ip", strings.Fields(args)...)) {
			if strings.Contains(line, link) || slices.Contains(strings.Fields(line), p.Addrs[0].String()) {
				out = append(out, strings.TrimSpace(line))
			}
		}
	}
	return strings.Join(out, "\n")
}
