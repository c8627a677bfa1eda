// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// readOnly runs a program with a read-only /proc/sys, as containers without privileges have.
var readOnly = []string{"unshare", "-m", "sh", "-c", `mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$0" "$@"`}

var errNotRepaired = errors.New("the network of the pod is not repaired")

// logged returns an error unless a line of the agent's log has all words.
func logged(n *Node, words ...string) error {
	for line := range strings.Lines(n.Agent.Output()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return nil
		}
	}
	return fmt.Errorf("no line of the log has %q", words)
}

// internet is the echo server in the internet.
var internet = netip.AddrPortFrom(vpctest.InternetAddr, vpctest.EchoPort)

// TestReadOnlySettings runs the agent with a read-only /proc/sys. If the settings of the node are
// right, it serves pods, also with an ENI that it attaches only then. If one is wrong, it says
// which, and that it cannot write it.
func TestReadOnlySettings(t *testing.T) {
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			vpc := vpctest.New(t)
			env := map[string]string{"VPCNET_LAYOUT": layout, "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}
			node := Start(t, vpc.Node(t, "t3.nano"), Config{Env: env}) // makes the settings
			node.Configure(Config{Env: env, Wrap: readOnly})
			node.Restart(t, syscall.SIGTERM)
			pods := []*Pod{node.AddPod(t), node.AddPod(t)} // each ENI has one address for pods
			if enis := node.ENIs(); len(enis) < 2 {
				t.Fatalf("%d ENIs, want a second one", len(enis))
			}
			for _, p := range pods {
				if got := p.Ask(t, "tcp", internet).Addr(); got != node.Addr {
					t.Errorf("the internet sees %v, want %v", got, node.Addr)
				}
				p.Delete(t)
			}

			node.Node.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=0")
			node.Agent.Stop(t)
			node.Run(t)
			node.Eventually(t, func() error { return logged(node, "net.ipv4.ip_forward", "read-only") })
		})
	}
}

// TestPodWishes checks that a pod has the address and the MAC that its runtime asks for, that
// the agent's repairs keep them, and that the VPC and the internet are reached with them.
func TestPodWishes(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	node := Start(t, vpc.Node(t, "t3.small"), Config{Env: map[string]string{"WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "3"}})
	free := node.ENIs()[0].Addrs[2]
	const mac = "02:00:00:00:00:07"
	conflist := `{"cniVersion":"1.0.0","name":"vpcnet","plugins":[{"type":"vpc-cni","capabilities":{"mac":true,"ips":true},"agentSocket":"` +
		node.File("agent.sock") + `","stateDir":"` + node.File("state") + `"}]}`
	p := node.AddPodWith(t, PodConfig{Conflist: conflist, Capabilities: map[string]any{"mac": mac, "ips": []string{free.String() + "/32"}}})
	if p.Addrs[0] != free || linkOf(t, p).HardwareAddr.String() != mac {
		t.Errorf("the pod has %v and the MAC %v, want %v and %s", p.Addrs[0], linkOf(t, p).HardwareAddr, free, mac)
	}
	p.Ask(t, "udp", internet)
	var host string
	for _, i := range p.Result.Interfaces {
		if i.Sandbox == "" {
			host = i.Name
		}
	}
	time.Sleep(11 * time.Second) // a plugin may be wiring a younger pod, which the agent leaves alone
	node.Node.Run(t, "ip", "route", "del", free.String(), "table", "20000")
	node.Eventually(t, func() error {
		if list := node.Node.Run(t, "ip", "route", "show", "table", "20000", free.String()); !strings.Contains(list, host) {
			return errNotRepaired
		}
		return nil
	})
	if got := linkOf(t, p).HardwareAddr.String(); got != mac {
		t.Errorf("after the repair the pod has the MAC %s, want %s", got, mac)
	}
	p.Check(t)
	if got := p.Ask(t, "udp", internet).Addr(); got != node.Addr {
		t.Errorf("the internet sees %v, want %v", got, node.Addr)
	}
}
