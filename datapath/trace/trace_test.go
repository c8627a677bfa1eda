// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/trace"
)

// modeLab is the View of a node with one pod of a mode.
type modeLab struct {
	trace.View
	pod datapath.Pod
}

// several names the case in which the pod is the second interface of its sandbox.
const several = "several interfaces"

// newModeLab computes the View of a healthy node with one pod, without a kernel.
func newModeLab(mode string) *modeLab {
	p := datapathtest.Pod(datapath.PerPod, 2)
	p.Mode = datapathtest.Modes()[mode]
	n := datapathtest.Node(datapath.PerPod)
	switch {
	case p.Mode.Branch != nil:
		n.Enforcement = p.Mode.Branch.Enforcement
		p.Addrs = datapathtest.BranchAddrs()
	case mode == several:
		p.IfName, p.Index = "eth1", 1
	}
	system := netstate.State{
		Addresses: []netstate.Address{
			{Link: "ens5", Prefix: netip.PrefixFrom(datapathtest.Node4, 24)}, {Link: "ens5", Prefix: netip.PrefixFrom(datapathtest.Node6, 128)},
		},
		Sysctls: []netstate.Sysctl{{Key: "net.ipv4.conf.all.rp_filter", Value: "0"}},
	}
	for _, e := range n.ENIs {
		system.Links = append(system.Links, netstate.Link{Name: e.Link, MAC: e.MAC.String(), Up: true})
	}
	inside := p.SandboxState()
	for _, ipv6 := range []bool{false, true} {
		anywhere, router := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.0.0.1")
		if ipv6 {
			anywhere, router = netip.MustParsePrefix("::/0"), netip.MustParseAddr("fe80:ec2::1")
		}
		if n.Enforcement != datapath.Strict && n.Enforcement != datapath.Standard {
			system.Rules = append(system.Rules, netstate.Rule{IPv6: ipv6, Table: 255, Protocol: 2})
		}
		main := netstate.Rule{IPv6: ipv6, Priority: 32766, Table: netstate.TableMain, Protocol: 2}
		system.Rules = append(system.Rules, main)
		system.Routes = append(system.Routes, netstate.Route{Dst: anywhere, Via: router, Link: "ens5", Table: netstate.TableMain, Protocol: 16})
		if mode == several { // the first interface
			inside.Rules = append(inside.Rules, netstate.Rule{IPv6: ipv6, Table: 255, Protocol: 2}, main)
			inside.Routes = append(inside.Routes, netstate.Route{Dst: anywhere, Via: claims.Gateway(router, 0), Link: "eth0", Table: netstate.TableMain, Protocol: claims.RouteProtocol})
		}
	}
	if mode == several {
		inside.Links = append(inside.Links, netstate.Link{Name: "eth0", Kind: "veth", MAC: "02:00:00:00:00:01", Up: true})
	}
	l := &modeLab{pod: p}
	l.Node, l.Sandbox = netstate.Join(system, n.State(), p.HostState()), &inside
	l.Desired = &datapath.Desired{Node: n, Pods: []datapath.Pod{p}}
	return l
}

// keepRules deletes the rules for which f returns false. f may change a rule.
func (l *modeLab) keepRules(f func(*netstate.Rule) bool) {
	l.Node.Rules = slices.DeleteFunc(l.Node.Rules, func(r netstate.Rule) bool { return !f(&r) })
}

// dropRules deletes the rules of a priority, in both families.
func dropRules(priority int) func(*modeLab) {
	return func(l *modeLab) { l.keepRules(func(r *netstate.Rule) bool { return r.Priority != priority }) }
}

// change changes one link on the node.
func change(name string, f func(*netstate.Link)) func(*modeLab) {
	return func(l *modeLab) { changeIn(l.Node.Links, name, f) }
}

// changeInside changes one link of the sandbox.
func changeInside(name string, f func(*netstate.Link)) func(*modeLab) {
	return func(l *modeLab) { changeIn(l.Sandbox.Links, name, f) }
}

func changeIn(links []netstate.Link, name string, f func(*netstate.Link)) {
	for i := range links {
		if links[i].Name == name {
			f(&links[i])
			return
		}
	}
	panic("no link " + name)
}

func setSysctl(key, value string) func(*modeLab) {
	return func(l *modeLab) {
		l.Node.Sysctls = slices.DeleteFunc(l.Node.Sysctls, func(s netstate.Sysctl) bool { return s.Key == key })
		l.Node.Sysctls = append(l.Node.Sysctls, netstate.Sysctl{Key: key, Value: value})
	}
}

func linkDown(l *netstate.Link) { l.Up = false }

func dropRoutes(link string) func(*modeLab) {
	return func(l *modeLab) {
		l.Node.Routes = slices.DeleteFunc(l.Node.Routes, func(r netstate.Route) bool { return r.Link == link && r.Dst.Bits() == 0 })
	}
}

func otherMAC(l *netstate.Link) { l.MAC = "06:00:00:00:00:99" }

// modePlants lists faults of each mode.
var modePlants = []struct {
	mode, name string
	do         func(*modeLab)
	to         string // "node" for the node itself; "" for a host in the VPC
	// want lists the expected faults. If they differ between the families, " | "
	// separates those of IPv4 from those of IPv6.
	want string
}{
	{"bridge", "nothing", nil, "", ""},
	{"bridge", "port down", func(l *modeLab) { change(l.pod.HostLink(), linkDown)(l) }, "", "link-down"},
	{"bridge", "not a port", func(l *modeLab) { change(l.pod.HostLink(), func(x *netstate.Link) { x.Master = "" })(l) }, "", "not-a-port"},
	{"bridge", "port deleted", func(l *modeLab) {
		l.Node.Links = slices.DeleteFunc(l.Node.Links, func(x netstate.Link) bool { return x.Name == l.pod.HostLink() })
	}, "", "missing-link"},
	{"bridge", "bridge down", change("enibr0", linkDown), "", "link-down"},
	{"bridge", "another MAC of the bridge", change("enibr0", otherMAC), "", "stale-neighbour"},
	{"bridge", "rules from the pod deleted", dropRules(claims.PriorityFromPod), "", "missing-rule wrong-eni"},

	{"eni", "nothing", nil, "", ""},
	{"eni", "wrong gateway", func(l *modeLab) {
		for i, r := range l.Sandbox.Routes {
			if r.Via.IsValid() {
				l.Sandbox.Routes[i].Via = r.Via.Next()
			}
		}
	}, "", "wrong-route"},
	{"eni", "another MAC", changeInside("eth0", otherMAC), "", "wrong-mac"},
	{"eni", "link down", changeInside("eth0", linkDown), "", "link-down"},
	{"eni", "link deleted", func(l *modeLab) { l.Sandbox.Links = nil }, "", "missing-link"},
	{"eni", "address deleted", func(l *modeLab) { l.Sandbox.Addresses = nil }, "", "missing-address"},
	{"eni", "route deleted", func(l *modeLab) { l.Sandbox.Routes = nil }, "", "missing-route"},

	{"ipvlan", "nothing", nil, "", ""},
	{"ipvlan", "another MAC", changeInside("eth0", otherMAC), "", "wrong-mac"},
	{"ipvlan", "link down", changeInside("eth0", linkDown), "", "link-down"},
	{"ipvlan", "wrong gateway", func(l *modeLab) {
		for i, r := range l.Sandbox.Routes {
			if r.Link == "eth0" && r.Via.IsValid() {
				l.Sandbox.Routes[i].Via = r.Via.Next()
			}
		}
	}, "", "wrong-route"},
	{"ipvlan", "to the node", nil, "node", ""},
	{"ipvlan", "to the node, host link's MAC", func(l *modeLab) { change(l.pod.HostLink(), otherMAC)(l) }, "node", "stale-neighbour"},

	{several, "nothing", nil, "", ""},
	{several, "rule in the sandbox deleted", func(l *modeLab) {
		l.Sandbox.Rules = slices.DeleteFunc(l.Sandbox.Rules, func(r netstate.Rule) bool { return r.Priority == 1 })
	}, "", "missing-rule"},
	{several, "table in the sandbox empty", func(l *modeLab) {
		l.Sandbox.Routes = slices.DeleteFunc(l.Sandbox.Routes, func(r netstate.Route) bool { return r.Table == 1 })
	}, "", "missing-route"},
	{several, "link down", changeInside("eth1", linkDown), "", "link-down"},

	{"branch-standard", "nothing", nil, "", ""},
	{"branch-standard", "rules from the pod deleted", dropRules(claims.PriorityFromPod), "", "missing-rule wrong-eni"},
	{"branch-standard", "table without default", dropRoutes("vlan.eth.5"), "", "missing-route wrong-eni"},
	{"branch-standard", "VLAN link down", change("vlan.eth.5", linkDown), "", "link-down"},
	{"branch-standard", "another VLAN ID", change("vlan.eth.5", func(x *netstate.Link) { x.VLAN = 6 }), "", "wrong-vlan"},
	{"branch-standard", "another trunk", change("vlan.eth.5", func(x *netstate.Link) { x.Parent = "ens5" }), "", "wrong-vlan"},
	{"branch-standard", "another MAC", change("vlan.eth.5", otherMAC), "", "wrong-mac"},
	{"branch-standard", "trunk down", change("ens6", linkDown), "", "link-down"},

	{"branch-strict", "nothing", nil, "", ""},
	{"branch-strict", "nothing, to the node", nil, "node", ""},
	{"branch-strict", "rules of the host link deleted", func(l *modeLab) {
		l.keepRules(func(r *netstate.Rule) bool { return r.IIF != l.pod.HostLink() })
	}, "", "missing-filter missing-rule no-reverse-route | missing-filter missing-rule wrong-eni"},
	{"branch-strict", "rules from the pod deleted", func(l *modeLab) {
		l.keepRules(func(r *netstate.Rule) bool { return r.Priority != claims.PriorityBranch || r.IIF != l.pod.HostLink() })
	}, "", "missing-rule"},
	{"branch-strict", "rules against forged sources deleted", dropRules(claims.PriorityForged), "", "missing-filter"},
	{"branch-strict", "rules of the VLAN link deleted", func(l *modeLab) {
		l.keepRules(func(r *netstate.Rule) bool { return r.IIF != "vlan.eth.5" })
	}, "", "missing-rule no-reverse-route | missing-rule"},
	{"branch-strict", "rules to another table", func(l *modeLab) {
		for i, r := range l.Node.Rules {
			if r.IIF == l.pod.HostLink() && r.Priority == claims.PriorityBranch {
				l.Node.Rules[i].Table = 106
			}
		}
	}, "", "wrong-table"},
	{"branch-strict", "table without default", dropRoutes("vlan.eth.5"), "", "missing-route"},
	{"branch-strict", "trunk down", change("ens6", linkDown), "", "link-down"},
	{"branch-strict", "another VLAN ID", change("vlan.eth.5", func(x *netstate.Link) { x.VLAN = 6 }), "", "wrong-vlan"},
	{"branch-strict", "strict filtering on the VLAN link", setSysctl("net.ipv4.conf.vlan/eth/5.rp_filter", "1"), "", ""},
	{"branch-strict", "no rule for table local", dropRules(claims.PriorityLocal), "node", "missing-rule"},
	{"branch-strict", "rule for table local at priority 0", func(l *modeLab) {
		for _, ipv6 := range []bool{false, true} {
			l.Node.Rules = append(l.Node.Rules, netstate.Rule{IPv6: ipv6, Table: 255, Protocol: 2})
		}
	}, "node", "local-first no-reverse-route | local-first"},
	{"branch-strict", "early demultiplexing", setSysctl("net.ipv4.ip_early_demux", "1"), "node", "early-demux"},
}

// TestTraceModeFaults plants each fault of modePlants in the state of a healthy node.
func TestTraceModeFaults(t *testing.T) {
	planted := map[string]bool{}
	for _, p := range modePlants {
		planted[p.mode] = true
		for i, family := range []string{"v4", "v6"} {
			t.Run(p.mode+"/"+p.name+"/"+family, func(t *testing.T) {
				l := newModeLab(p.mode)
				if p.do != nil {
					p.do(l)
				}
				dst := []netip.Addr{datapathtest.VPCHost4, datapathtest.VPCHost6}[i]
				if p.to == "node" {
					dst = []netip.Addr{datapathtest.Node4, datapathtest.Node6}[i]
				}
				want := p.want
				if v4, v6, apart := strings.Cut(p.want, " | "); apart {
					want = []string{v4, v6}[i]
				}
				f := trace.Flow{Src: l.pod.Addrs[i].Addr, Dst: dst}
				path := trace.Trace(throughJSON(t, l.View), f)
				if diff := cmp.Diff(sortedWords(want), faultNames(path.Faults)); diff != "" {
					t.Errorf("faults (-want +got):\n%s\n%s", diff, path)
				}
				if len(path.Unchecked) > 0 {
					t.Errorf("Unchecked is not empty, although the View is complete:\n%s", path)
				}
			})
		}
	}
	for name := range datapathtest.Modes() {
		if !planted[name] {
			t.Errorf("modePlants has no fault of mode %s", name)
		}
	}
}

// TestTraceNeighborDiscovery deletes the rules that let neighbour discovery work on VLAN
// links under Strict.
func TestTraceNeighborDiscovery(t *testing.T) {
	l := newModeLab("branch-strict")
	l.keepRules(func(r *netstate.Rule) bool { return r.IPProto == 0 })
	for i, want := range []string{"", "missing-rule"} {
		path := trace.Trace(l.View, trace.Flow{Src: l.pod.Addrs[i].Addr, Dst: []netip.Addr{datapathtest.VPCHost4, datapathtest.VPCHost6}[i]})
		if diff := cmp.Diff(sortedWords(want), faultNames(path.Faults)); diff != "" {
			t.Errorf("faults (-want +got):\n%s\n%s", diff, path)
		}
	}
}

// TestTraceNodeToStrict traces a packet from the node itself to a pod under Strict. It
// passes through the VPC.
func TestTraceNodeToStrict(t *testing.T) {
	l := newModeLab("branch-strict")
	f := trace.Flow{Src: datapathtest.Node4, Dst: l.pod.Addrs[0].Addr}
	if path := trace.Trace(l.View, f); !path.OK() || path.Egress != "ens5" {
		t.Errorf("the packet does not leave by ens5:\n%s", path)
	}
	setSysctl("net.ipv4.ip_early_demux", "1")(l)
	if path := trace.Trace(l.View, f); !path.Has(trace.FaultEarlyDemux) {
		t.Errorf("fault %s is missing:\n%s", trace.FaultEarlyDemux, path)
	}
}

// TestTraceForged traces packets of a pod under Strict with a source that the pod does
// not have.
func TestTraceForged(t *testing.T) {
	l := newModeLab("branch-strict")
	l.Sandbox = nil
	for i, dst := range []netip.Addr{datapathtest.VPCHost4, datapathtest.VPCHost6} {
		f := trace.Flow{Src: l.pod.Addrs[i].Addr.Next(), Dst: dst, HostLink: l.pod.HostLink()}
		path := trace.Trace(l.View, f)
		if diff := cmp.Diff([]string{"source-not-owned"}, faultNames(path.Faults)); diff != "" {
			t.Errorf("faults (-want +got):\n%s\n%s", diff, path)
		}
	}
}

// TestTraceUnchecked traces with incomplete Views, and with rules that Trace cannot
// evaluate.
func TestTraceUnchecked(t *testing.T) {
	public := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		name, mode    string
		do            func(*modeLab)
		dst           netip.Addr
		faults, notes string
	}{
		{"complete View", "bridge", nil, datapathtest.VPCHost4, "", ""},
		{"neither Desired nor Sandbox", "bridge", func(l *modeLab) { l.Desired, l.Sandbox = nil, nil }, datapathtest.VPCHost4, "", "unknown-owner unknown-port unseen-sandbox"},
		{"no Sandbox", "eni", func(l *modeLab) { l.Sandbox = nil }, datapathtest.VPCHost4, "", "unseen-sandbox"},
		{"no Desired", "eni", func(l *modeLab) { l.Desired = nil }, datapathtest.VPCHost4, "", "unknown-owner"},
		{"unknown pod", several, func(l *modeLab) {
			*l = modeLab{pod: l.pod, View: trace.View{Node: netstate.State{Links: l.Node.Links}}}
		}, datapathtest.VPCHost4, "unknown-source", ""},
		{"pod with an ENI of its own, to the internet", "eni", nil, public, "", "untranslated"},
		{"pod under Strict, to the internet", "branch-strict", nil, public, "", "untranslated"},
		{"a device outside the node translates", "branch-strict", func(l *modeLab) { l.External = true }, public, "", ""},
		{"a foreign rule in the table of package snat", "bridge", func(l *modeLab) {
			l.Translation = &trace.Translation{Odd: []string{"# quota"}}
		}, datapathtest.VPCHost4, "", "unjudged-translation"},
		{"chains of both families", "bridge", func(l *modeLab) {
			l.Filters = []trace.OtherChain{{Family: "ip", Table: "filter", Chain: "FORWARD", Drops: true}, {Family: "ip6", Table: "filter", Chain: "FORWARD"}}
		}, datapathtest.VPCHost4, "", "foreign-filter"},
		{"a chain of the other family", "bridge", func(l *modeLab) {
			l.Filters = []trace.OtherChain{{Family: "ip6", Table: "filter", Chain: "FORWARD"}}
		}, datapathtest.VPCHost4, "", ""},
		{"a rule by port", "bridge", func(l *modeLab) {
			l.Node.Rules = append(l.Node.Rules, netstate.Rule{Priority: 600, Other: "dport 53-53", Table: netstate.TableMain, Protocol: 4})
		}, datapathtest.VPCHost4, "", "unjudged-rule"},
		{"a rule by port for another source", "bridge", func(l *modeLab) {
			l.Node.Rules = append(l.Node.Rules, netstate.Rule{Priority: 600, From: datapathtest.Prefixes("10.9.0.0/16")[0], Other: "dport 53-53", Table: netstate.TableMain, Protocol: 4})
		}, datapathtest.VPCHost4, "", ""},
		{"a rule by protocol", "bridge", func(l *modeLab) {
			l.Node.Rules = append(l.Node.Rules, netstate.Rule{Priority: 600, IPProto: 17, Table: netstate.TableMain, Protocol: 4})
		}, datapathtest.VPCHost4, "", "unjudged-rule"},
		{"a rule by port after the rule that decides", "bridge", func(l *modeLab) {
			l.Node.Rules = append(l.Node.Rules, netstate.Rule{Priority: 2000, Other: "dport 53-53", Table: netstate.TableMain, Protocol: 4})
		}, datapathtest.VPCHost4, "", ""},
	} {
		l := newModeLab(c.mode)
		if c.do != nil {
			c.do(l)
		}
		path := trace.Trace(l.View, trace.Flow{Src: l.pod.Addrs[0].Addr, Dst: c.dst})
		var notes []string
		for _, n := range path.Unchecked {
			notes = append(notes, string(n.Name))
		}
		slices.Sort(notes)
		if diff := cmp.Diff(sortedWords(c.notes), slices.Compact(notes)); diff != "" {
			t.Errorf("%s: Unchecked (-want +got):\n%s\n%s", c.name, diff, path)
		}
		if diff := cmp.Diff(sortedWords(c.faults), faultNames(path.Faults)); diff != "" {
			t.Errorf("%s: faults (-want +got):\n%s\n%s", c.name, diff, path)
		}
	}
}

// TestFlowValidate checks which flows are valid packets.
func TestFlowValidate(t *testing.T) {
	l := newModeLab("bridge")
	for _, f := range []trace.Flow{
		{},
		{Src: datapathtest.Node4, Dst: datapathtest.VPCHost6},
		{Src: datapathtest.Node4, Dst: datapathtest.VPCHost4, Proto: "tpc"},
		{Src: datapathtest.Node4, Dst: datapathtest.VPCHost4, Proto: "256"},
	} {
		if f.Validate() == nil || trace.Trace(l.View, f).OK() {
			t.Errorf("%+v is valid, want an error", f)
		}
	}
	for _, proto := range []string{"", "icmp", "ICMPv6", "tcp", "udp", "sctp", "47"} {
		if err := (trace.Flow{Src: datapathtest.Node4, Dst: datapathtest.VPCHost4, Proto: proto}).Validate(); err != nil {
			t.Errorf("protocol %q: %v", proto, err)
		}
	}
}

// throughJSON returns v after encoding and decoding.
func throughJSON(t *testing.T, v trace.View) (saved trace.View) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &saved); err != nil {
		t.Fatal(err)
	}
	return saved
}

// faultNames returns the names of the faults, sorted and without duplicates.
func faultNames(faults []trace.Fault) []string {
	names := map[string]bool{}
	for _, f := range faults {
		names[string(f.Name)] = true
	}
	var list []string
	for n := range names {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

// sortedWords returns the words of s, nil if there are none.
func sortedWords(s string) []string {
	words := strings.Fields(s)
	slices.Sort(words)
	if len(words) == 0 {
		return nil
	}
	return words
}

// TestTraceMode traces a packet of a pod of each mode.
func TestTraceMode(t *testing.T) {
	for name, mode := range datapathtest.Modes() {
		p := datapathtest.Pod(datapath.PerPod, 2)
		p.Mode = mode
		n := datapathtest.Node(datapath.PerPod)
		if mode.Branch != nil {
			n.Enforcement = mode.Branch.Enforcement
			p.Addrs = datapathtest.BranchAddrs()
		}
		host, sandbox := netstate.Join(n.State(), p.HostState()), p.SandboxState()
		for _, e := range n.ENIs {
			if _, ok := host.Link(e.Link); !ok {
				host.Links = append(host.Links, netstate.Link{Name: e.Link, MAC: e.MAC.String(), Up: true})
			}
		}
		v := trace.View{Node: host, Sandbox: &sandbox, Desired: &datapath.Desired{Node: n, Pods: []datapath.Pod{p}}}
		path := trace.Trace(v, trace.Flow{Src: p.Addrs[0].Addr, Dst: netip.MustParseAddr("10.0.7.7")})
		datapathtest.Golden(t, "trace-"+name, path.String())
	}
}
