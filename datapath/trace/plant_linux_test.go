// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// plant is a fault that Trace must find.
type plant struct {
	name string
	// do is a shell script that runs on the node, pod one that runs in the sandbox.
	// Their variables P4, P6 and HL hold the pod's addresses and its host link.
	do, pod string
	// to is the destination: "internet", "pod" for a pod of the node that is on the
	// primary ENI, or "" for a host in the VPC.
	to string
	// want lists the expected faults, by layout and family. The entry with the first
	// of these keys counts: "flat v4", "flat", "v4", "".
	want map[string]string
	// notes is the note that Trace must return, if any, and names is a part of its text.
	notes, names string
	// kernel is the fault that only Confirm finds, if any.
	kernel string
	// node changes the node before it is configured.
	node func(*datapath.Node)
}

// bothFamilies begins a loop of a script: F is the option of ip(8) for the family.
const bothFamilies = `for F in -4 -6; do `

// all is the value of plant.want if it is the same in all layouts and families.
func all(names string) map[string]string { return map[string]string{"": names} }

var plants = []plant{
	{name: "nothing", want: all("")},
	{name: "nothing, to the internet", to: "internet", want: all("")},
	{name: "nothing, to a pod", to: "pod", want: all("")},
	{name: "rules to pods deleted", do: bothFamilies + `while ip $F rule del pref 512 2>/dev/null; do :; done; done`,
		want: all("missing-rule")},
	{name: "rules to pods deleted, to a pod", to: "pod", do: bothFamilies + `while ip $F rule del pref 512 2>/dev/null; do :; done; done`,
		want: all("missing-rule")},
	{name: "rules from pods deleted", do: bothFamilies + `while ip $F rule del pref 1536 2>/dev/null; do :; done; done`,
		want: all("missing-rule wrong-eni")},
	{name: "rules from pods with another table", do: bothFamilies + `S=$(ip $F rule | sed -n 's/^1536:\t\(.*\) lookup 2.*/\1/p'); ip $F rule del pref 1536; ip $F rule add $S pref 1536 lookup main protocol kernel; done`,
		want: all("wrong-table wrong-eni")},
	{name: "rule of the mark deleted", to: "internet", do: bothFamilies + `ip $F rule del pref 1024 fwmark 0x80/0x80; done`,
		want: map[string]string{"v4": "missing-rule lost-snat", "v6": ""}},
	{name: "rule of the mark with another table", to: "internet", do: bothFamilies + `ip $F rule del pref 1024 fwmark 0x80/0x80; ip $F rule add fwmark 0x80/0x80 pref 1024 lookup 2 protocol kernel; done`,
		want: map[string]string{"v4": "wrong-table lost-snat", "v6": ""}},
	{name: "table of the ENI flushed", do: bothFamilies + `ip $F route flush table 2; done`,
		want: all("missing-route wrong-eni")},
	{name: "default route of the ENI's table by another link", do: `ip route replace default via 10.0.0.1 dev ens5 onlink table 2; ip -6 route replace default via fe80:ec2::1 dev ens5 table 2`,
		want: all("wrong-route wrong-eni")},
	{name: "a better default route by another link", do: `ip -6 route add default via fe80:ec2::1 dev ens5 table 2 metric 512`,
		want: map[string]string{"v4": "", "v6": "wrong-route wrong-eni"}},
	{name: "a route with two next hops", do: `ip route replace default table 2 nexthop via 10.0.0.1 dev ens5 onlink nexthop via 10.0.0.1 dev ens6 onlink; ip -6 route add 2001:db8:0:7::/64 table 2 nexthop via fe80:ec2::1 dev ens5 nexthop via fe80:ec2::1 dev ens6`,
		want: all(""), notes: "unjudged-route"},
	{name: "another program's route in the table of pods", do: `ip route add 10.0.7.0/24 via 10.0.0.1 dev ens5 table 20000; ip -6 route add 2001:db8:0:7::/64 via fe80:ec2::1 dev ens5 table 20000`,
		want: map[string]string{"flat": "wrong-route wrong-eni", "per-pod": ""}},
	{name: "service prefix in the VPC", node: func(n *datapath.Node) { n.ServicePrefixes = datapathtest.Prefixes("10.0.7.0/24", "2001:db8:0:7::/64") },
		want: all("wrong-eni")},
	{name: "pod's routes deleted", do: `for T in main 20000; do ip route del $P4 dev $HL table $T; ip -6 route del $P6 dev $HL table $T; done || :`,
		want: all("missing-route")},
	{name: "route that refuses", to: "internet", do: `ip route add blackhole 198.51.100.0/24; ip -6 route add unreachable 2001:db8:99::/48 table 2`,
		want: all("unreachable-route")},
	{name: "rule that refuses", do: bothFamilies + `ip $F rule add pref 600 prohibit; done`,
		want: all("unreachable-route")},
	{name: "another program's rule", do: `ip rule add from $P4 pref 700 lookup main; ip -6 rule add from $P6 pref 700 lookup main`,
		want: all("foreign-rule wrong-eni")},
	{name: "another program's rule with not", do: `ip rule add not from 10.9.0.0/16 pref 600 lookup main; ip -6 rule add not from fd00::/8 pref 600 lookup main`,
		want: all("foreign-rule wrong-eni")},
	{name: "another program's rule by protocol", do: bothFamilies + `ip $F rule add ipproto udp pref 600 lookup main; done`,
		want: all("foreign-rule wrong-eni")},
	{name: "another program's rule by port", do: bothFamilies + `ip $F rule add ipproto udp dport 7 pref 600 lookup main; done`,
		want: all(""), notes: "unjudged-rule", kernel: "kernel-disagrees"},
	{name: "two rules of one priority", do: `ip rule add from $P4 pref 700 lookup main; ip rule add from 10.0.0.0/8 pref 700 lookup 2; ip -6 rule add from $P6 pref 700 lookup main; ip -6 rule add from 2001:db8::/32 pref 700 lookup 2`,
		want: all("foreign-rule"), notes: "unjudged-rule", kernel: "kernel-disagrees"},
	{name: "rule that ignores default routes", do: bothFamilies + `ip $F rule add pref 600 lookup main suppress_prefixlength 0; done`,
		want: all("")},
	{name: "pod's address on the node", do: `ip addr add $P4/32 dev lo; ip -6 addr add $P6/128 dev lo`,
		want: all("address-on-node")},
	{name: "neighbour deleted", do: `ip neigh del $P4 dev $HL; ip -6 neigh del $P6 dev $HL`,
		want: all("missing-neighbour")},
	{name: "neighbour stale", do: `ip neigh replace $P4 lladdr 02:00:00:00:00:99 dev $HL nud permanent; ip -6 neigh replace $P6 lladdr 02:00:00:00:00:99 dev $HL nud permanent`,
		want: all("stale-neighbour")},
	{name: "MAC of the host link changed", do: `ip link set $HL address 02:00:00:00:00:98`,
		want: all("stale-neighbour")},
	{name: "gateway's neighbour deleted", pod: `ip neigh del 169.254.1.1 dev eth0; ip -6 neigh del fe80::1 dev eth0`,
		want: all("missing-neighbour")},
	{name: "pod's address deleted", pod: `ip addr flush dev eth0 scope global`,
		want: all("missing-address")},
	{name: "pod's default route deleted", pod: `ip route del default; ip -6 route del default`,
		want: all("missing-route")},
	{name: "pod's link down", pod: `ip link set eth0 down; ip addr add $P4/32 dev eth0 2>/dev/null || :; ip -6 addr add $P6/128 dev eth0 nodad 2>/dev/null || :`,
		want: all("link-down")},
	{name: "host link down", do: `ip link set $HL down`,
		want: all("link-down")},
	{name: "secondary ENI down", do: `ip link set ens6 down`,
		want: all("link-down wrong-eni")},
	{name: "primary ENI down", do: `ip link set ens5 down`,
		want: map[string]string{"flat v4": "no-reverse-route", "": ""}},
	{name: "primary ENI down, to the internet", to: "internet", do: `ip link set ens5 down`,
		want: map[string]string{"flat v4": "link-down no-reverse-route lost-snat", "per-pod v4": "link-down lost-snat", "v6": ""}},
	{name: "IPv6 off on the host link", do: `sysctl -w net.ipv6.conf.$HL.disable_ipv6=1`,
		want: map[string]string{"v4": "", "v6": "ipv6-off"}},
	{name: "strict filtering on the secondary ENI", do: `sysctl -w net.ipv4.conf.ens6.rp_filter=1`,
		want: map[string]string{"flat v4": "strict-rp-filter", "": ""}},
	{name: "strict filtering on the primary ENI", to: "internet", do: `sysctl -w net.ipv4.conf.ens5.rp_filter=1`,
		want: map[string]string{"per-pod v4": "strict-rp-filter", "": ""}},
	{name: "strict filtering on the host link", do: `sysctl -w net.ipv4.conf.$HL.rp_filter=1`,
		want: all("")},
	{name: "no default route in table main", do: `ip route del default; ip -6 route del default`,
		want: map[string]string{"flat v4": "no-reverse-route", "": ""}},
	{name: "forwarding off", do: `sysctl -w net.ipv4.ip_forward=0; sysctl -w net.ipv6.conf.all.forwarding=0`,
		want: all("forwarding-off")},
	{name: "forwarding off on the secondary ENI", do: `sysctl -w net.ipv4.conf.ens6.forwarding=0`,
		want: map[string]string{"v4": "forwarding-off", "v6": ""}},
	{name: "forwarding off on the host link", do: `sysctl -w net.ipv4.conf.$HL.forwarding=0`,
		want: map[string]string{"v4": "forwarding-off", "v6": ""}},
	{name: "our nftables table deleted", do: `nft delete table inet vpcnet`,
		want: map[string]string{"flat": "missing-filter wrong-eni", "per-pod": "missing-filter"}},
	{name: "chain prerouting flushed", do: `nft flush chain inet vpcnet prerouting`,
		want: map[string]string{"flat": "missing-filter wrong-eni", "per-pod": "missing-filter"}},
	{name: "chain from-pod flushed", do: `nft flush chain inet vpcnet from-pod`,
		want: map[string]string{"flat": "missing-filter wrong-eni", "per-pod": "missing-filter"}},
	{name: "maps of sources flushed", do: `nft flush map inet vpcnet source4; nft flush map inet vpcnet source6`,
		want: map[string]string{"flat": "missing-mark wrong-eni", "per-pod": ""}},
	{name: "chain of the ENI flushed", do: `nft flush chain inet vpcnet eni-1 || :`,
		want: map[string]string{"flat": "missing-mark wrong-eni", "per-pod": ""}},
	{name: "a dropping rule in our table", do: `nft insert rule inet vpcnet from-pod drop`,
		want: all("dropped")},
	{name: "an unknown rule in our table", do: `nft insert rule inet vpcnet from-pod meta length 1-65535 drop`,
		want: all(""), notes: "unjudged-filter"},
	{name: "another program's chain", do: `nft add table inet x; nft add chain inet x f '{ type filter hook forward priority 0; policy drop; }'`,
		want: all(""), notes: "foreign-filter"},
	{name: "policy of iptables-nft", do: `iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP`,
		want: all(""), notes: "foreign-filter", names: "filter FORWARD (policy drop)"},
	{name: "policy of iptables-legacy", do: `iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP`,
		want: all(""), notes: "foreign-filter", names: "iptables-legacy filter FORWARD (policy drop)"},
	{name: "rules of iptables-legacy", do: `iptables-legacy -A FORWARD -i nothing -j DROP; ip6tables-legacy -A FORWARD -i nothing -j DROP`,
		want: all(""), notes: "foreign-filter", names: "iptables-legacy filter FORWARD"},
	{name: "translation's table deleted", to: "internet", do: `nft delete table inet vpcnet-snat`,
		want: map[string]string{"v4": "lost-snat", "v6": ""}},
	{name: "translation's rule deleted", to: "internet", do: `nft flush chain inet vpcnet-snat source`,
		want: map[string]string{"v4": "lost-snat", "v6": ""}},
	{name: "translation's mark deleted", to: "internet", do: `nft flush chain inet vpcnet-snat pods`,
		want: map[string]string{"v4": "missing-mark lost-snat", "v6": ""}},
}

// faults returns the expected faults in one layout and family.
func (p plant) faults(layout datapath.Layout, family string) string {
	for _, key := range []string{string(layout) + " " + family, string(layout), family} {
		if names, ok := p.want[key]; ok {
			return names
		}
	}
	return p.want[""]
}

// plantLab returns a lab with package snat and with a pod on each ENI: p on the second
// ENI, and other, which has an echo server, on the primary ENI.
func plantLab(t *testing.T, layout datapath.Layout, change func(*datapath.Node)) (l *datapathtest.Lab, p, other datapath.Pod) {
	t.Helper()
	l = datapathtest.NewLab(t, layout)
	if change != nil {
		change(&l.Node)
	}
	l.AddVPCHost()
	l.EnsureNode()
	l.Translate()
	p, other = l.Pod(1, "one"), l.Pod(0, "two")
	l.AddPod(p)
	l.AddPod(other)
	for _, a := range other.Addrs {
		datapathtest.Echo(t, other.Netns, a.Addr)
	}
	return l, p, other
}

// TestTraceFindsFaults plants faults. It compares the faults that Trace finds with the
// table, and the path that Trace returns with the fate of real packets.
func TestTraceFindsFaults(t *testing.T) {
	for _, tool := range []string{"ip", "nft", "iptables-nft", "iptables-legacy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs the program %s: %v", tool, err)
		}
	}
	for _, layout := range datapathtest.Layouts() {
		for _, plant := range plants {
			t.Run(string(layout)+"/"+plant.name, func(t *testing.T) {
				l, p, other := plantLab(t, layout, plant.node)
				vars := []string{"P4=" + p.Addrs[0].Addr.String(), "P6=" + p.Addrs[1].Addr.String(), "HL=" + p.HostLink()}
				datapathtest.Shell(t, l.Netns.Path(), plant.do, vars...)
				datapathtest.Shell(t, p.Netns, plant.pod, vars...)
				v := l.View(p)
				v.Desired.Pods = append(v.Desired.Pods, other)
				var both sync.WaitGroup
				for i, family := range []string{"v4", "v6"} {
					to := map[string]netip.Addr{
						"": []netip.Addr{datapathtest.VPCHost4, datapathtest.VPCHost6}[i], "internet": []netip.Addr{datapathtest.Outside4, datapathtest.Outside6}[i], "pod": other.Addrs[i].Addr,
					}[plant.to]
					f := trace.Flow{Src: p.Addrs[i].Addr, Dst: to, Proto: "udp", Port: fabric.EchoPort}
					path := plant.check(t, l, v, f, plant.faults(layout, family))
					both.Go(func() { plant.send(t, p.Netns, path) })
				}
				both.Wait()
			})
		}
	}
}

// check traces one flow with the complete View, with the View after encoding as JSON, and
// without Desired and Sandbox.
func (p plant) check(t *testing.T, l *datapathtest.Lab, v trace.View, f trace.Flow, want string) trace.Path {
	t.Helper()
	path := trace.Trace(v, f)
	if diff := cmp.Diff(sortedWords(want), faultNames(path.Faults)); diff != "" {
		t.Errorf("faults (-want +got):\n%s\n%s", diff, path)
	}
	if p.notes != "" && !slices.ContainsFunc(path.Unchecked, func(n trace.Note) bool {
		return string(n.Name) == p.notes && strings.Contains(n.Detail, p.names)
	}) {
		t.Errorf("note %s with %q is missing:\n%s", p.notes, p.names, path)
	}
	kernel, err := trace.Confirm(t.Context(), l.Netns.Path(), path)
	if diff := cmp.Diff(sortedWords(p.kernel), faultNames(kernel)); err != nil || diff != "" {
		t.Errorf("Confirm = %v, %v, want %q\n%s", kernel, err, p.kernel, path)
	}
	if again := trace.Trace(throughJSON(t, v), f); again.String() != path.String() {
		t.Errorf("the path differs after encoding the View as JSON:\n%s", cmp.Diff(path.String(), again.String()))
	}

	partial := v
	partial.Desired, partial.Sandbox = nil, nil
	blind := trace.Trace(partial, f)
	for _, n := range faultNames(blind.Faults) {
		if !path.Has(trace.FaultName(n)) && n != string(trace.FaultUnknownSource) && !p.hides(n) {
			t.Errorf("Trace finds %s only without Desired and Sandbox:\n%s\n%s", n, blind, path)
		}
	}
	if blind.OK() && len(blind.Unchecked) == 0 {
		t.Errorf("without Desired and Sandbox, Trace returns neither a fault nor a note:\n%s", blind)
	}

	return path
}

// send sends the packet of a path and checks whether it arrives as Trace says.
func (p plant) send(t *testing.T, from string, path trace.Path) {
	within := datapathtest.AnswerTime
	if path.OK() { // leave time for the answer on a busy machine
		within *= 3
	}
	seen, err := datapathtest.Ask(from, path.Flow.Src, path.Flow.Dst, within)
	open := slices.ContainsFunc(path.Unchecked, func(n trace.Note) bool { return string(n.Name) == p.notes })
	switch {
	case err == nil && seen != path.Source:
		t.Errorf("the destination saw the source %s:\n%s", seen, path)
	case err != nil && path.OK() && !open:
		t.Errorf("no answer (%v), but Trace found no fault:\n%s", err, path)
	}
}

// hides reports whether Trace with the sandbox finds another fault first, inside the pod,
// instead of the named one on the node.
func (p plant) hides(name string) bool {
	return p.name == "MAC of the host link changed" && name == string(trace.FaultNoNeighbor)
}
