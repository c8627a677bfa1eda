// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

// The property test has a network of four ENIs in two subnets. Their instances have no
// addresses, so that they answer nothing.
var ruleENIs = []fabric.ENI{
	{ID: "eni-1", Instance: "node-1", Subnet: "subnet-a", MAC: mac(1), Addr: ip("10.0.1.10"), Addrs: []netip.Addr{ip("10.0.1.11"), ip("2001:db8:1:1::10")}, Public: true},
	{ID: "eni-2", Instance: "node-1", Device: 1, Subnet: "subnet-b", MAC: mac(2), Addr: ip("10.0.2.20"), Prefixes: []netip.Prefix{prefix("10.0.2.32/28"), prefix("2001:db8:1:2:f::/80")}},
	{ID: "eni-3", Instance: "node-2", Subnet: "subnet-b", MAC: mac(3), Addr: ip("10.0.2.10"), Addrs: []netip.Addr{ip("2001:db8:1:2::10")}, Public: true},
	{ID: "eni-4", Instance: "node-3", Subnet: "subnet-a", MAC: mac(4), Addr: ip("10.0.1.40"), Addrs: []netip.Addr{ip("2001:db8:1:1::40")}},
}

// ruleAddrs are addresses that packets and rules of the property test use: owned ones,
// others of the VPC, of pods outside the VPC, of the internet and of the peer network.
var ruleAddrs = []netip.Addr{
	ip("10.0.1.10"), ip("10.0.1.11"), ip("10.0.2.20"), ip("10.0.2.33"), ip("10.0.2.10"), ip("10.0.1.40"), ip("10.0.2.99"),
	ip("100.64.1.5"), ip("100.64.2.5"), fabric.InternetAddr, fabric.PeerAddr,
	ip("2001:db8:1:1::10"), ip("2001:db8:1:2:f::7"), ip("2001:db8:1:2::10"), ip("2001:db8:1:1::40"), ip("2001:db8:1:2::99"),
	ip("fd64::1:5"), fabric.InternetAddr6, fabric.PeerAddr6,
}

var rulePrefixes = []netip.Prefix{
	prefix("0.0.0.0/0"), prefix("10.0.0.0/16"), prefix("10.0.1.0/24"), prefix("10.0.2.0/24"), prefix("10.0.2.32/28"),
	prefix("10.0.1.10/32"), prefix("100.64.0.0/16"), prefix("100.64.2.0/24"), prefix("192.168.100.0/24"), prefix("203.0.113.0/24"),
	prefix("::/0"), prefix("2001:db8:1::/56"), prefix("2001:db8:1:2::/64"), prefix("2001:db8:1:2:f::/80"), prefix("fd64::/64"), prefix("fd00:100::/64"),
}

type ruleWorld struct {
	t        *testing.T
	r        *rand.Rand
	f        *fabric.Fabric
	judge    *vpcrules.Judge
	wires    map[vpcrules.Target]*wire
	captures map[vpcrules.Target]*fabric.Capture
	now      time.Time
	stateful bool // the rules are mainly for tracked flows
	sent     []sentPacket
	drops    map[vpcrules.Stage]uint64
	flows    map[string]uint64 // packets by flow log entry
}

// sentPacket is a packet with its verdict. Its number is its index + 1.
type sentPacket struct {
	from vpcrules.Target
	p    vpcrules.Packet
	v    vpcrules.Verdict
}

func eniTarget(id string) vpcrules.Target { return vpcrules.Target{Kind: vpcrules.ToENI, ENI: id} }

func newRuleWorld(t *testing.T, seed uint64) *ruleWorld {
	isolatetest.Require(t)
	f, err := fabric.New(t.Context(), vpcConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &ruleWorld{
		t: t, r: rand.New(rand.NewPCG(seed, 11)), f: f, now: time.Unix(1e9, 0),
		wires: map[vpcrules.Target]*wire{}, captures: map[vpcrules.Target]*fabric.Capture{},
		drops: map[vpcrules.Stage]uint64{}, flows: map[string]uint64{},
	}
	for _, e := range ruleENIs {
		if f.Instance(e.Instance) == nil {
			if _, err := f.AddInstance(e.Instance); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Attach(e); err != nil {
			t.Fatal(err)
		}
		n := f.Instance(e.Instance)
		run(t, n, linkUp(e.Link()))
		if err := f.WaitUp(t.Context(), e.ID); err != nil {
			t.Fatal(err)
		}
		link, _ := f.RouterLink(e.ID)
		w.wires[eniTarget(e.ID)] = newWire(t, f, n, e.Link(), link)
		w.captures[eniTarget(e.ID)] = capture(t, f.Router(), link)
	}
	for _, o := range []struct {
		kind vpcrules.TargetKind
		n    *fabric.Netns
		link string
	}{{vpcrules.Internet, f.Internet(), "igw"}, {vpcrules.Peer, f.Peer(), "tgw"}} {
		// The hosts must not answer.
		run(t, o.n, func() error { return removeAddrs("eth0") })
		w.wires[vpcrules.Target{Kind: o.kind}] = newWire(t, f, o.n, "eth0", o.link)
		w.captures[vpcrules.Target{Kind: o.kind}] = capture(t, f.Router(), o.link)
	}
	w.judge = vpcrules.NewJudge(f.Network())
	return w
}

func pick[T any](r *rand.Rand, all []T) T { return all[r.IntN(len(all))] }

func (w *ruleWorld) traffic() vpcrules.Traffic {
	protocols := []int{vpcrules.All, vpcrules.All, vpcrules.TCP, vpcrules.TCP, vpcrules.UDP, vpcrules.ICMP, vpcrules.ICMPv6, 47}
	t := vpcrules.Traffic{Protocol: pick(w.r, protocols), From: vpcrules.All, To: vpcrules.All}
	switch t.Protocol {
	case vpcrules.TCP, vpcrules.UDP:
		ports := pick(w.r, [][2]int{{0, 65535}, {22, 22}, {80, 443}, {0, 80}, {1000, 65535}, {65535, 65535}, {vpcrules.All, vpcrules.All}})
		t.From, t.To = ports[0], ports[1]
	case vpcrules.ICMP, vpcrules.ICMPv6:
		types := pick(w.r, [][2]int{{vpcrules.All, vpcrules.All}, {8, vpcrules.All}, {3, 4}, {0, 0}, {128, vpcrules.All}, {1, 4}})
		t.From, t.To = types[0], types[1]
	}
	return t
}

// statefulRules returns random groups that allow one direction, so that many packets pass
// only because their flow is tracked.
func (w *ruleWorld) statefulRules() (rules vpcrules.Rules) {
	wide := []netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0"), prefix("10.0.0.0/16"), prefix("2001:db8:1::/56")}
	for i := range 3 {
		g := vpcrules.Group{ID: fmt.Sprint("sg-", i)}
		for _, p := range wide {
			if w.r.IntN(4) > 0 {
				g.Rules = append(g.Rules, vpcrules.Rule{Egress: i == 0, Traffic: pick(w.r, []vpcrules.Traffic{everything, w.traffic()}), Prefix: p})
			}
			if i == 2 { // flows of UDP and TCP are not tracked
				g.Rules = append(g.Rules, vpcrules.Rule{Egress: true, Traffic: everything, Prefix: p})
			}
		}
		rules.Groups = append(rules.Groups, g)
	}
	return rules
}

// rules returns random rules. Each part of them is missing at times.
func (w *ruleWorld) rules() (rules vpcrules.Rules) {
	if w.stateful {
		return w.statefulRules()
	}
	if w.r.IntN(3) > 0 {
		for i := range 1 + w.r.IntN(2) {
			t := vpcrules.RouteTable{ID: fmt.Sprint("rtb-", i), Main: i == 0}
			if i > 0 {
				t.Subnets = []string{pick(w.r, []string{"subnet-a", "subnet-b"})}
			}
			targets := []vpcrules.Target{
				{Kind: vpcrules.Internet}, {Kind: vpcrules.Internet}, {Kind: vpcrules.Peer}, {}, {Kind: vpcrules.Local},
				eniTarget("eni-1"), eniTarget("eni-2"), eniTarget("eni-3"), eniTarget("eni-9"),
			}
			for _, p := range rulePrefixes {
				if w.r.IntN(2) == 0 && !slices.Contains(vpcConfig.VPC, p) {
					t.Routes = append(t.Routes, vpcrules.Route{Destination: p, Target: pick(w.r, targets)})
				}
			}
			rules.RouteTables = append(rules.RouteTables, t)
		}
	}
	for _, subnet := range []string{"subnet-a", "subnet-b"} {
		if w.r.IntN(3) > 0 {
			continue
		}
		a := vpcrules.ACL{ID: "acl-" + subnet, Subnets: []string{subnet}}
		for i, n := range w.r.Perm(8) {
			a.Entries = append(a.Entries, vpcrules.Entry{
				Number: 100 + n, Egress: i%2 == 0, Allow: w.r.IntN(4) > 0, Traffic: w.traffic(), Prefix: pick(w.r, rulePrefixes),
			})
		}
		rules.ACLs = append(rules.ACLs, a)
	}
	for i := range w.r.IntN(4) {
		g := vpcrules.Group{ID: fmt.Sprint("sg-", i)}
		for range w.r.IntN(5) {
			rule := vpcrules.Rule{Egress: w.r.IntN(2) == 0, Traffic: w.traffic(), Prefix: pick(w.r, rulePrefixes)}
			if w.r.IntN(3) == 0 {
				rule.Prefix, rule.Group = netip.Prefix{}, fmt.Sprint("sg-", w.r.IntN(3))
			}
			g.Rules = append(g.Rules, rule)
		}
		rules.Groups = append(rules.Groups, g)
	}
	return rules
}

// change replaces the rules and the attributes of the ENIs.
func (w *ruleWorld) change() {
	w.t.Helper()
	if err := w.f.SetRules(w.rules()); err != nil {
		w.t.Fatal(err)
	}
	for _, e := range ruleENIs {
		a := fabric.Attributes{Unchecked: w.r.IntN(3) == 0, Public: e.Public}
		for i := range 3 {
			if w.stateful && len(a.Groups) == 0 && (i == 2 || w.r.IntN(2) == 0) || !w.stateful && w.r.IntN(2) == 0 {
				a.Groups = append(a.Groups, fmt.Sprint("sg-", i))
			}
		}
		if err := w.f.SetAttributes(e.ID, a); err != nil {
			w.t.Fatal(err)
		}
	}
	w.judge.SetNetwork(w.f.Network())
}

// fresh returns a random packet of a random sender.
func (w *ruleWorld) fresh() (vpcrules.Target, vpcrules.Packet) {
	senders := slices.SortedFunc(maps.Keys(w.wires), func(a, b vpcrules.Target) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ENI, b.ENI))
	})
	from := pick(w.r, senders)
	p := vpcrules.Packet{Src: pick(w.r, ruleAddrs)}
	e, inside := w.f.ENI(from.ENI)
	switch {
	case inside && w.r.IntN(10) > 0:
		p.Src = pick(w.r, slices.DeleteFunc(slices.Concat([]netip.Addr{e.Addr}, e.Addrs, firsts(e.Prefixes)), func(a netip.Addr) bool { return !a.IsValid() }))
	case from.Kind == vpcrules.Internet:
		p.Src = pick(w.r, []netip.Addr{fabric.InternetAddr, fabric.InternetAddr6})
	case from.Kind == vpcrules.Peer:
		p.Src = pick(w.r, []netip.Addr{fabric.PeerAddr, fabric.PeerAddr6})
	}
	for p.Dst = pick(w.r, ruleAddrs); p.Dst.Is4() != p.Src.Is4(); {
		p.Dst = pick(w.r, ruleAddrs)
	}
	p.Protocol = pick(w.r, []int{vpcrules.TCP, vpcrules.TCP, vpcrules.UDP, vpcrules.ICMP, 47})
	ports := []uint16{0, 22, 80, 81, 443, 444, 999, 1000, 65535}
	switch p.Protocol {
	case vpcrules.TCP, vpcrules.UDP:
		p.SrcPort, p.DstPort = pick(w.r, ports), pick(w.r, ports)
		p.Opens = p.Protocol == vpcrules.TCP && w.r.IntN(2) == 0
	case vpcrules.ICMP:
		p.Type, p.ID = pick(w.r, []uint8{8, 0, 13, 14, 5}), uint16(w.r.IntN(3))
		if p.Src.Is6() {
			p.Protocol, p.Type = vpcrules.ICMPv6, pick(w.r, []uint8{128, 129, 160})
		}
	}
	p.Fragment = w.r.IntN(20) == 0
	if p.Fragment {
		p.Opens = false
	}
	return from, p
}

func firsts(prefixes []netip.Prefix) (all []netip.Addr) {
	for _, p := range prefixes {
		all = append(all, p.Addr().Next())
	}
	return all
}

// answer returns a packet of the other direction to one that was delivered: a reply, or
// an ICMP error that quotes it.
func (w *ruleWorld) answer(to sentPacket) (vpcrules.Target, vpcrules.Packet) {
	p := to.p
	p.Src, p.Dst, p.SrcPort, p.DstPort, p.Quoted = p.Dst, p.Src, p.DstPort, p.SrcPort, nil
	p.Opens = p.Protocol == vpcrules.TCP && !p.Fragment && w.r.IntN(5) == 0
	if w.r.IntN(4) == 0 && !to.p.Fragment && to.p.Quoted == nil {
		p.Protocol, p.Type, p.Code = vpcrules.ICMP, 3, 3
		if p.Src.Is6() {
			p.Protocol, p.Type, p.Code = vpcrules.ICMPv6, 1, 4
		}
		p.SrcPort, p.DstPort, p.ID, p.Opens, p.Quoted = 0, 0, 0, false, &to.p
		return to.v.To, p
	}
	requests, replies := vpcrules.EchoTypes(p.Protocol)
	i := slices.Index(requests, p.Type)
	switch {
	case i >= 0 && w.r.IntN(5) > 0:
		p.Type = replies[i]
	case w.r.IntN(2) == 0:
		return to.from, to.p // the same packet again
	}
	return to.v.To, p
}

func (w *ruleWorld) sendOne() {
	from, p := w.fresh()
	if n := len(w.sent); n > 0 && w.r.IntN(4) > 0 {
		if to := w.sent[n-1-w.r.IntN(min(n, 30))]; to.v.Drop == vpcrules.Delivered {
			from, p = w.answer(to)
		}
	}
	v := w.judge.Forward(w.now, from, p)
	w.sent = append(w.sent, sentPacket{from, p, v})
	w.wires[from].send(w.t, p, uint32(len(w.sent)))
	w.drops[v.Drop]++
	for _, l := range v.Logged {
		w.flows[logKey(l.ENI, l.Action, p)]++
	}
}

func logKey(eni string, action vpcrules.Action, p vpcrules.Packet) string {
	if p.Fragment {
		p.SrcPort, p.DstPort = 0, 0
	}
	return fmt.Sprintf("%s %s %d %v:%d > %v:%d", eni, action, p.Protocol, p.Src, p.SrcPort, p.Dst, p.DstPort)
}

// compare checks that the router delivered the packets that the Judge delivers, and no
// others, and that counters and flow log agree with the Judge.
func (w *ruleWorld) compare(log *fabric.FlowLog) {
	want := map[vpcrules.Target]map[uint32]int{}
	for target := range w.captures {
		want[target] = map[uint32]int{}
	}
	for i, s := range w.sent {
		want[s.from][uint32(i+1)]++
		if s.v.Drop == vpcrules.Delivered {
			want[s.v.To][uint32(i+1)]++
		}
	}
	for target, c := range w.captures {
		got := map[uint32]int{}
		eventually(w.t, func() bool {
			got = numbers(w.t, c)
			return maps.Equal(got, want[target])
		})
		if diff := gocmp.Diff(want[target], got); diff != "" {
			w.t.Errorf("frames on the link to %v, by number (-want +got):\n%s", target, diff)
		}
	}
	d, err := w.f.Drops()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := func(all map[string]uint64) (n uint64) {
		for _, v := range all {
			n += v
		}
		return n
	}
	got := map[string]uint64{
		"source": sum(d.Spoofed), "destination": sum(d.Foreign), "gateway": d.InternetGateway, "groups": d.SecurityGroups, "acl": d.NetworkACLs,
	}
	wantDrops := map[string]uint64{
		"source": w.drops[vpcrules.SourceCheck], "destination": w.drops[vpcrules.DestinationCheck], "gateway": w.drops[vpcrules.Gateway],
		"groups": w.drops[vpcrules.GroupsOut] + w.drops[vpcrules.GroupsIn], "acl": w.drops[vpcrules.ACLOut] + w.drops[vpcrules.ACLIn],
	}
	if diff := gocmp.Diff(wantDrops, got); diff != "" {
		w.t.Errorf("counted drops (-want +got):\n%s", diff)
	}
	records, err := log.Records()
	if err != nil {
		w.t.Fatal(err)
	}
	flows := map[string]uint64{}
	for _, r := range records {
		if r.Status == vpcrules.StatusOK {
			flows[logKey(r.ENI, r.Action, vpcrules.Packet{Protocol: int(r.Protocol), Src: r.PktSrc, Dst: r.PktDst, SrcPort: r.SrcPort, DstPort: r.DstPort})] += r.Packets
		}
	}
	if diff := gocmp.Diff(w.flows, flows); diff != "" {
		w.t.Errorf("packets of the flow log (-want +got):\n%s", diff)
	}
}

// TestJudgeAgreesWithKernel sends random packets under random rules and compares the
// router with the Judge. It fails also if the random packets miss a stage.
func TestJudgeAgreesWithKernel(t *testing.T) {
	seen := map[vpcrules.Stage]uint64{}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := newRuleWorld(t, seed)
			w.stateful = seed%2 == 1
			log, err := w.f.FlowLog(fabric.FlowLogInput{})
			if err != nil {
				t.Fatal(err)
			}
			for range 12 {
				w.change()
				onOneCPU(t, func() {
					for range 60 {
						w.sendOne()
					}
				})
			}
			w.compare(log)
			if t.Failed() {
				w.explain()
			}
			for stage, n := range w.drops {
				seen[stage] += n
			}
		})
	}
	for _, stage := range []vpcrules.Stage{
		vpcrules.Delivered, vpcrules.SourceCheck, vpcrules.Routing, vpcrules.GroupsOut, vpcrules.ACLOut, vpcrules.Gateway,
		vpcrules.DestinationCheck, vpcrules.ACLIn, vpcrules.GroupsIn,
	} {
		if seen[stage] < 5 {
			t.Errorf("stage %q: %d packets, want at least 5", stage, seen[stage])
		}
	}
}

// explain logs the packets, so that a difference can be understood.
func (w *ruleWorld) explain() {
	for i, s := range w.sent {
		w.t.Logf("%d: from %v: %+v: %+v", i+1, s.from, s.p, s.v)
	}
}
