// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
)

// serviceFile is the unit of systemd, which has the capabilities of the agent.
const serviceFile = "../../examples/deploy/vpcnet.service"

// capabilities returns the capabilities that the unit gives to the agent, in the form of
// setpriv, such as net_admin.
func capabilities(t *testing.T) (all []string) {
	t.Helper()
	b, err := os.ReadFile(serviceFile)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindSubmatch(b)
	if line == nil {
		t.Fatalf("%s has no CapabilityBoundingSet", serviceFile)
	}
	for name := range strings.FieldsSeq(string(line[1])) {
		all = append(all, strings.ToLower(strings.TrimPrefix(name, "CAP_")))
	}
	return all
}

// with returns a wrapper that leaves a process the given capabilities.
func with(capabilities ...string) []string {
	set := "-all"
	for _, c := range capabilities {
		set += ",+" + c
	}
	return []string{"setpriv", "--no-new-privs", "--bounding-set=" + set}
}

// TestCapabilities runs an agent with the capabilities of the unit of systemd and no others:
// it serves pods on two ENIs, repairs what another program changes, and survives its end.
// Without any one of them it does not become ready, and says that it lacks a permission, as
// does the probe of its container.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	needed := capabilities(t)
	t.Run("all", func(t *testing.T) {
		vpc := vpctest.New(t)
		node := Start(t, vpc.Node(t, "t3.small"), Config{Wrap: with(needed...)})
		var pods []*Pod
		for range 4 {
			p := node.AddPod(t)
			p.Ping(t, vpctest.InternetAddr)
			pods = append(pods, p)
		}
		for _, probe := range []string{introspect.ProbeLive, introspect.ProbeReady} {
			if out, err := node.probe(probe); err != nil {
				t.Errorf("probe %s of a node with pods: %v: %s", probe, err, out)
			}
		}
		node.Node.Run(t, "nft", "flush", "ruleset")
		node.Eventually(t, func() error {
			if tables := node.Node.Run(t, "nft", "list", "tables"); !strings.Contains(tables, "vpcnet") {
				return fmt.Errorf("tables %q, want that of the agent", tables)
			}
			return nil
		})
		node.Restart(t, syscall.SIGKILL)
		for _, p := range pods {
			if got := p.Ask(t, "tcp", internet).Addr(); got != node.Addr {
				t.Errorf("the internet sees %v, want %v", got, node.Addr)
			}
			p.Delete(t)
		}
		wantNoDrops(t, vpc)
	})
	for i, missing := range needed {
		t.Run("without "+missing, func(t *testing.T) {
			rest := append(append([]string{}, needed[:i]...), needed[i+1:]...)
			node := &Node{Node: vpctest.New(t).Node(t, "t3.small"), dir: t.TempDir(), cfg: Config{Wrap: with(rest...)}}
			node.Run(t)
			node.Eventually(t, func() error {
				s := node.Status(t)
				if s.Ready || !strings.Contains(s.Evidence, "operation not permitted") {
					return fmt.Errorf("status: ready %v, evidence %q, want it to name the permission", s.Ready, s.Evidence)
				}
				return nil
			})
			if out, err := node.probe(introspect.ProbeLive); err != nil {
				t.Errorf("probe of a node without pods: %v: %s", err, out)
			}
			if out, err := node.probe(introspect.ProbeReady); err == nil || !strings.Contains(out, "operation not permitted") {
				t.Errorf("probe of a node that is not ready: %v: %s", err, out)
			}
		})
	}
}

// TestIptablesCapability runs agents on a node with a kubelet that uses iptables-legacy. An agent needs
// CAP_NET_RAW to see that, and to use it.
func TestIptablesCapability(t *testing.T) {
	t.Parallel()
	plain := vpctest.New(t).Node(t, "t3.small")
	plain.Run(t, "iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
	cfg := Config{Wrap: with(capabilities(t)...), Env: map[string]string{"VPCNET_SNAT_BACKEND": "iptables"}}
	node := Start(t, plain, cfg)
	wantBackend(t, node, "iptables-nft")
	cfg.Wrap = with(append(capabilities(t), "net_raw")...)
	node.Configure(cfg)
	node.Restart(t, syscall.SIGTERM)
	wantBackend(t, node, "iptables-legacy")
	if got := node.AddPod(t).Ask(t, "tcp", internet).Addr(); got != node.Addr {
		t.Errorf("the internet sees %v, want %v", got, node.Addr)
	}
}

// probe runs a probe of the agent's container, with the capabilities of the agent.
func (n *Node) probe(name string) (string, error) {
	out, err := n.Command("probe", name).CombinedOutput()
	return string(out), err
}
