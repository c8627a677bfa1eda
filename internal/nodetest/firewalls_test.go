// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// firewall has the rules that a firewall makes on a node.
type firewall struct {
	name string
	// install and repair are scripts, which see the programs of a variant as $IPTABLES and
	// $IP6TABLES, and a function that loads rules by name, see loads. After repair the firewall
	// has the settings that package preflight asks for.
	install, repair string
	// passes has the ways that the firewall leaves open before repair.
	passes []string
	// strict means that the firewall filters reverse paths of IPv6, so that it depends on the
	// layout what pods on second ENIs reach before repair.
	strict bool
	// chain is what the trace names, with the family of the packet and the variant.
	chain func(family, variant string) string
}

func iptablesChain(family, variant string) string {
	table := "filter"
	if variant == "legacy" {
		table = "iptables-legacy filter"
	}
	return family + " " + table + " FORWARD (policy drop)"
}

// loads are functions that load the rules of a firewall: with false those that were recorded,
// and with true those that the firewall itself makes.
var loads = map[bool]string{
	false: "load() { for f in $RULES/$1.*; do case $f in *.nft) nft -f $f;; *.v4) $IPTABLES-restore --noflush <$f;; *.v6) $IP6TABLES-restore --noflush <$f;; esac; done; }",
	true:  "load() { unshare -m sh -e $RULES/daemon.sh $1 $VARIANT; }",
}

var firewalls = []firewall{
	{name: "none", passes: ways},
	{
		name:    "docker",
		install: "load docker",
		repair:  "for i in -i -o; do $IPTABLES -I DOCKER-USER $i eni+ -j ACCEPT; $IP6TABLES -I FORWARD $i eni+ -j ACCEPT; done",
		passes:  []string{"node to pod", "pod to node"},
		chain:   iptablesChain,
	},
	{
		name:    "ufw",
		install: "load ufw",
		repair: `for v in "$IPTABLES ufw-user" "$IP6TABLES ufw6-user"; do set -- $v
			$1 -A $2-forward -i eni+ -j ACCEPT; $1 -A $2-forward -o eni+ -j ACCEPT; $1 -A $2-input -i eni+ -j ACCEPT; done`,
		passes: []string{"node to pod"},
		chain:  iptablesChain,
	},
	{
		name:    "firewalld",
		install: "load firewalld",
		repair:  "nft delete table inet firewalld; load firewalld-pods",
		passes:  []string{"node to pod", "node port"},
		strict:  true,
		chain:   func(string, string) string { return "inet firewalld filter_FORWARD" },
	},
}

// ways are the ways of packets that TestFirewalls tries.
var ways = []string{"node to pod", "pod to node", "pod to pod", "pod to other node", "pod to internet", "other node to pod", "node port"}

// TestFirewalls runs a node beside the rules of a firewall, with each backend of the
// translation. A firewall that drops forwarded packets closes the ways of pods, and the trace
// names its chain. With the settings that package preflight asks for, all ways are open.
//
// With -long the firewalls run, which are then to be installed: firewalld, ufw and docker.io.
func TestFirewalls(t *testing.T) {
	t.Parallel()
	for _, f := range firewalls {
		for _, setup := range []struct{ backend, variant, layout string }{
			{"nftables", "legacy", "flat"}, {"nftables", "nft", "per-pod"}, {"iptables", "nft", "flat"}, {"iptables", "legacy", "per-pod"},
		} {
			t.Run(f.name+"/"+setup.backend+" beside "+setup.variant, func(t *testing.T) {
				vpc := vpctest.New(t)
				env := maps.Clone(families["dual-stack"].env)
				env["WARM_ENI_TARGET"], env["WARM_IP_TARGET"] = "0", "1"
				env["VPCNET_LAYOUT"], env["VPCNET_SNAT_BACKEND"] = setup.layout, setup.backend
				plain := vpc.Node(t, "t3.nano") // with one address for pods on each ENI
				run := func(script string) {
					t.Helper()
					rules, err := filepath.Abs("testdata/firewalls")
					if err != nil {
						t.Fatal(err)
					}
					plain.Run(t, "sh", "-ec", fmt.Sprintf("VARIANT=%[1]s IPTABLES=iptables-%[1]s IP6TABLES=ip6tables-%[1]s RULES=%[2]s; %[3]s\n%[4]s", setup.variant, rules, loads[*long], script))
				}
				// The kubelet shows by this chain which variant the node uses.
				run("$IPTABLES -t mangle -N KUBE-KUBELET-CANARY\n" + f.install)
				node := Start(t, plain, Config{Env: env})
				w := firewalled{node: node, near: []*Pod{node.AddPod(t), node.AddPod(t)}}
				w.far = Start(t, vpc.Node(t, "t3.nano"), Config{Env: env}).AddPod(t)
				if enis := node.ENIs(); len(enis) != 2 {
					t.Fatalf("%d ENIs, want a second one for the second pod", len(enis))
				}
				// nodePorts makes the node ports again, as kube-proxy does: firewalld removes all rules
				// of iptables when it starts.
				nodePorts := func() {
					t.Helper()
					for family, program := range []string{"$IPTABLES", "$IP6TABLES"} {
						nat := program + " -t nat "
						run(nat + "-N NODE-PORTS 2>/dev/null || " + nat + "-F NODE-PORTS; " + nat + "-C PREROUTING -j NODE-PORTS 2>/dev/null || " + nat + "-A PREROUTING -j NODE-PORTS")
						for i, p := range w.near {
							run(fmt.Sprintf(nat+"-A NODE-PORTS -p udp -m addrtype --dst-type LOCAL --dport %d -j DNAT --to-destination %v", 30000+i, p.At(family)))
						}
					}
				}
				nodePorts()
				w.check(t, f.passes, f.strict)
				for family, name := range []string{"ip", "ip6"} {
					if f.chain != nil {
						w.wantNamed(t, family, f.chain(name, setup.variant))
					}
				}
				run(f.repair)
				nodePorts()
				w.check(t, ways, false)
				wantNoDrops(t, vpc)
			})
		}
	}
}

// TestFirewallRules checks that the programs which load the recorded rules exist.
func TestFirewallRules(t *testing.T) {
	for _, program := range []string{"nft", "iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Error(err)
		}
	}
}

// firewalled is a node beside a firewall, with a pod on each of two ENIs, and a pod of another
// node.
type firewalled struct {
	node *Node
	near []*Pod
	far  *Pod
}

// check tries each way in both families. Only those in passes may be open. With strict it
// leaves out IPv6 of the pod on the second ENI.
func (w firewalled) check(t *testing.T, passes []string, strict bool) {
	t.Helper()
	for family, node := range []netip.Addr{w.node.Addr, w.node.Addr6} {
		internet := []netip.Addr{vpctest.InternetAddr, vpctest.InternetAddr6}[family]
		stop := w.node.Echo(t, netip.AddrPortFrom(node, vpctest.EchoPort))
		for i, p := range w.near {
			if strict && i == 1 && family == 1 {
				continue
			}
			for _, try := range []struct {
				way  string
				from *vpctest.Host
				to   netip.AddrPort
			}{
				{"node to pod", w.node.Host, p.At(family)},
				{"pod to node", p.Host, netip.AddrPortFrom(node, vpctest.EchoPort)},
				{"pod to pod", p.Host, w.near[1-i].At(family)},
				{"pod to other node", p.Host, w.far.At(family)},
				{"pod to internet", p.Host, netip.AddrPortFrom(internet, vpctest.EchoPort)},
				{"other node to pod", w.far.Host, p.At(family)},
				{"node port", w.far.Host, netip.AddrPortFrom(node, uint16(30000+i))},
			} {
				switch {
				case slices.Contains(passes, try.way):
					try.from.Ask(t, "udp", try.to)
				case i == family: // each closed way takes time
					try.from.NoAnswer(t, "udp", try.to)
				}
			}
		}
		stop()
	}
}

// wantNamed checks that a trace of a pod's packet names a chain.
func (w firewalled) wantNamed(t *testing.T, family int, chain string) {
	t.Helper()
	for _, p := range w.near {
		v, err := trace.Observe(t.Context(), w.node.Path(), p.Path())
		if err != nil {
			t.Fatal(err)
		}
		path := trace.Trace(v, trace.Flow{Src: p.Addrs[family], Dst: w.far.Addrs[family]})
		if !slices.ContainsFunc(path.Unchecked, func(n trace.Note) bool { return n.Name == trace.NoteForeign && strings.Contains(n.Detail, chain) }) {
			t.Errorf("the trace does not name %q:\n%s", chain, path)
		}
	}
}
