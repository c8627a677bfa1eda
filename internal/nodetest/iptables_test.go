// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// TestIptablesBackend runs pods on two ENIs of a node that translates with each backend in
// turn, in each layout. In the internet they have the node's address, in the VPC their own,
// and their node ports answer at the addresses of both ENIs. Flows that are open when the
// backend changes go on. Rules that another program flushes come back.
func TestIptablesBackend(t *testing.T) {
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			vpc := vpctest.New(t)
			env := map[string]string{"VPCNET_LAYOUT": layout, "VPCNET_SNAT_BACKEND": "iptables", "ENABLE_IPv6": "true", "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}
			plain := vpc.Node(t, "t3.small")
			// The kubelet shows by this chain which variant the node uses.
			plain.Run(t, "iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
			node := Start(t, plain, Config{Env: env})
			wantBackend(t, node, "iptables-legacy")
			var pods []*Pod
			for range 4 { // a t3.small has 3 addresses for pods on each ENI
				pods = append(pods, node.AddPod(t))
			}
			far := Start(t, vpc.Node(t, "t3.small"), Config{Env: map[string]string{"VPCNET_LAYOUT": layout, "ENABLE_IPv6": "true"}}).AddPod(t)
			enis := node.ENIs()
			if len(enis) < 2 {
				t.Fatalf("%d ENIs, want a second one for the fourth pod", len(enis))
			}
			check := func() {
				t.Helper()
				for _, p := range pods {
					for i, internet := range []netip.Addr{vpctest.InternetAddr, vpctest.InternetAddr6} {
						want := []netip.Addr{node.Addr, p.Addrs[1]}[i]
						if got := p.Ask(t, "tcp", netip.AddrPortFrom(internet, vpctest.EchoPort)).Addr(); got != want {
							t.Errorf("the internet sees %v from pod %v, want %v", got, p.Addrs[i], want)
						}
						if got := p.Ask(t, "udp", far.At(i)).Addr(); got != p.Addrs[i] {
							t.Errorf("%v sees %v, want %v", far.Addrs[i], got, p.Addrs[i])
						}
					}
					p.Check(t)
				}
			}
			check()

			// Node ports of a pod on each ENI, at the address of each ENI.
			for port, to := range map[string]*Pod{"30001": pods[0], "30002": pods[3]} {
				node.Node.Run(t, "iptables-legacy", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-m", "addrtype", "--dst-type", "LOCAL", "--dport", port, "-j", "DNAT", "--to-destination", to.At(0).String())
				for _, e := range enis {
					at := netip.MustParseAddrPort(e.Addr.String() + ":" + port)
					if got := far.Ask(t, "tcp", at).Addr(); got != far.Addrs[0] {
						t.Errorf("node port %v sees %v, want %v", at, got, far.Addrs[0])
					}
				}
			}
			node.Eventually(t, func() error { return inOrder(t, node) })

			node.Node.Run(t, "iptables-legacy", "-t", "nat", "-F", "POSTROUTING")
			node.Node.Run(t, "ip6tables-legacy", "-t", "mangle", "-F")
			node.Eventually(t, func() error {
				if text := node.Node.Run(t, "iptables-legacy-save") + node.Node.Run(t, "ip6tables-legacy-save"); strings.Count(text, "-j VPCNET-MARKS") != 2 || !strings.Contains(text, "-j VPCNET-SOURCE") {
					return errors.New("the rules are not repaired:\n" + text)
				}
				return nil
			})
			check()

			open := pods[3].Dial(t, "tcp", internet)
			for _, backend := range []string{"nftables", "auto", "iptables"} {
				env["VPCNET_SNAT_BACKEND"] = backend
				node.Restart(t, syscall.SIGTERM)
				want := map[string]string{"nftables": "nftables", "auto": "nftables", "iptables": "iptables-legacy"}[backend]
				wantBackend(t, node, want)
				node.Eventually(t, func() error { return onlyRulesOf(t, node, want) })
				if got, err := fabric.Exchange(t.Context(), open, "still here"); err != nil || got.Addr() != node.Addr {
					t.Errorf("%s: an open flow has the source %v, %v, want %v", backend, got, err, node.Addr)
				}
				check()
			}
			wantNoDrops(t, vpc)
		})
	}
}

// wantBackend checks the backend in the status.
func wantBackend(t *testing.T, n *Node, want string) {
	t.Helper()
	if got := n.Status(t).Network.SNATBackend; got != want {
		t.Errorf("backend %q, want %q", got, want)
	}
}

// inOrder returns an error unless the jump to our chain is behind the rules for node ports.
func inOrder(t *testing.T, n *Node) error {
	t.Helper()
	rules := strings.Split(strings.TrimSpace(n.Node.Run(t, "iptables-legacy", "-t", "nat", "-S", "PREROUTING")), "\n")
	if !strings.Contains(rules[len(rules)-1], "-j VPCNET-PODS") {
		return errors.New("rules come after ours:\n" + strings.Join(rules, "\n"))
	}
	return nil
}

// onlyRulesOf returns an error unless a backend has rules and the other has none.
func onlyRulesOf(t *testing.T, n *Node, backend string) error {
	t.Helper()
	chains := n.Node.Run(t, "iptables-legacy-save") + n.Node.Run(t, "ip6tables-legacy-save")
	table := n.Node.Run(t, "nft", "list", "tables")
	if strings.Contains(chains, "VPCNET-") != (backend != "nftables") || strings.Contains(table, "vpcnet-snat") != (backend == "nftables") {
		return errors.New("rules of the other backend:\n" + chains + table)
	}
	return nil
}

// TestIptablesAbsent asks for iptables on a system without it: the agent ends with an error
// that names the programs.
func TestIptablesAbsent(t *testing.T) {
	vpc := vpctest.New(t)
	node := Start(t, vpc.Node(t, "t3.small"), Config{})
	node.Agent.Stop(t)
	hidden := []string{"unshare", "-m", "sh", "-c", `for d in /usr/sbin /sbin /usr/local/sbin; do mount -t tmpfs none $d; done; exec env PATH=/nowhere "$0" "$@"`}
	node.Configure(Config{Env: map[string]string{"VPCNET_SNAT_BACKEND": "iptables"}, Wrap: hidden})
	node.Run(t)
	<-node.Agent.Done()
	if err := logged(node, "no program found", "iptables-nft", "iptables-legacy"); err != nil {
		t.Errorf("%v:\n%s", err, node.Agent.Output())
	}
}
