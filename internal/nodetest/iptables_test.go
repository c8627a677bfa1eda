// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

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
			if enis := node.ENIs(); len(enis) < 2 {
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

			checkNodePorts(t, node, "iptables-legacy", far, pods[0], pods[3])
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

// checkNodePorts makes a node port for each pod, and checks that it answers at the addresses
// of all ENIs.
func checkNodePorts(t *testing.T, n *Node, program string, client *Pod, pods ...*Pod) {
	t.Helper()
	for i, to := range pods {
		port := uint16(30001 + i)
		n.Node.Run(t, program, "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-m", "addrtype", "--dst-type", "LOCAL", "--dport", fmt.Sprint(port), "-j", "DNAT", "--to-destination", to.At(0).String())
		for _, e := range n.ENIs() {
			at := netip.AddrPortFrom(e.Addr, port)
			if got := client.Ask(t, "tcp", at).Addr(); got != client.Addrs[0] {
				t.Errorf("node port %v sees %v, want %v", at, got, client.Addrs[0])
			}
		}
	}
}

// TestIptablesOnNewNode runs an agent that uses iptables on a node where no other program has
// rules: the variant is that of the program iptables. The agent's own tables come first.
func TestIptablesOnNewNode(t *testing.T) {
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			vpc := vpctest.New(t)
			env := map[string]string{"VPCNET_LAYOUT": layout, "VPCNET_SNAT_BACKEND": "iptables", "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}
			node := Start(t, vpc.Node(t, "t3.small"), Config{Env: env})
			wantBackend(t, node, "iptables-nft")
			node.Eventually(t, func() error { return logged(node, "warn", "Services that have their endpoints outside of the VPC") })
			var pods []*Pod
			for range 7 { // a t3.small has 3 addresses for pods on each ENI
				pods = append(pods, node.AddPod(t))
			}
			far := Start(t, vpc.Node(t, "t3.small"), Config{}).AddPod(t)
			for _, p := range pods {
				if got := p.Ask(t, "tcp", internet).Addr(); got != node.Addr {
					t.Errorf("the internet sees %v from pod %v, want %v", got, p.Addrs[0], node.Addr)
				}
			}
			checkNodePorts(t, node, "iptables-nft", far, pods[0], pods[3], pods[6])
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

// TestIptablesLocked holds the xtables lock while an agent starts on a node with rules of an
// earlier agent in iptables. With nftables it serves pods, and removes these rules once the
// lock is free. With iptables it says what it waits for, and serves pods once the lock is free.
func TestIptablesLocked(t *testing.T) {
	vpc := vpctest.New(t)
	plain := vpc.Node(t, "t3.small")
	plain.Run(t, "iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
	plain.Run(t, "iptables-legacy", "-t", "nat", "-N", "VPCNET-PODS")
	release := lockXtables(t)
	env := map[string]string{"VPCNET_SNAT_BACKEND": "nftables"}
	node := Start(t, plain, Config{Env: env})
	p := node.AddPod(t)
	if got := p.Ask(t, "tcp", internet).Addr(); got != node.Addr {
		t.Errorf("the internet sees %v, want %v", got, node.Addr)
	}
	release()
	node.Eventually(t, func() error { return onlyRulesOf(t, node, "nftables") })

	release = lockXtables(t)
	env["VPCNET_SNAT_BACKEND"] = "iptables"
	node.Agent.Stop(t)
	node.Run(t)
	node.Eventually(t, func() error { return logged(node, "another program holds the xtables lock") })
	release()
	node.Eventually(t, func() error { return onlyRulesOf(t, node, "iptables-legacy") })
	if got := node.AddPod(t).Ask(t, "tcp", internet).Addr(); got != node.Addr {
		t.Errorf("the internet sees %v, want %v", got, node.Addr)
	}
}

// lockXtables holds the xtables lock, as a program of iptables-legacy does, until the caller
// or the end of the test releases it.
func lockXtables(t *testing.T) (release func()) {
	t.Helper()
	f, err := os.OpenFile("/run/xtables.lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { f.Close() })
	t.Cleanup(release)
	return release
}

// TestPodsWhileLocked adds pods while another program holds the xtables lock. With nftables
// none of them waits, not even the one that needs a second ENI. With iptables those with an
// address of a ready ENI do not wait. The one that needs a new ENI is refused after the bound
// of one attempt to change the rules, and is added when the lock is free.
func TestPodsWhileLocked(t *testing.T) {
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			vpc := vpctest.New(t)
			plain := vpc.Node(t, "t3.nano") // with one address for pods on each ENI
			plain.Run(t, "iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
			env := map[string]string{"VPCNET_SNAT_BACKEND": backend, "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}
			node := Start(t, plain, Config{Env: env})
			release := lockXtables(t)
			pods := []*Pod{node.AddPod(t)}
			if backend == "iptables" {
				for range 2 { // the second one meets the failure of the first
					_, err := node.TryPod(t, PodConfig{})
					var refused *types.Error
					if !errors.As(err, &refused) || refused.Code != types.ErrTryAgainLater || !strings.Contains(err.Error(), "another program holds the xtables lock") {
						t.Fatalf("ADD while the lock is held: %v, want code %d with the cause", err, types.ErrTryAgainLater)
					}
				}
				release()
				node.Eventually(t, func() error {
					if s := node.Status(t); s.Free == 0 {
						return fmt.Errorf("no address is free after the lock was released: %s", s.Evidence)
					}
					return nil
				})
			}
			pods = append(pods, node.AddPod(t))
			if enis := node.ENIs(); len(enis) != 2 {
				t.Fatalf("%d ENIs, want a second one for the second pod", len(enis))
			}
			for _, p := range pods {
				if got := p.Ask(t, "tcp", internet).Addr(); got != node.Addr {
					t.Errorf("the internet sees %v from pod %v, want %v", got, p.Addrs[0], node.Addr)
				}
			}
		})
	}
}
