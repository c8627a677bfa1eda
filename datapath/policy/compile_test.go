// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// randomClass returns a class whose blocks and ports meet, contain and overlap one another.
func randomClass(r *rand.Rand) Class {
	return Class{Ingress: randomRules(r), Egress: randomRules(r)}
}

func randomRules(r *rand.Rand) (rules Rules) {
	rules.Before, rules.After = randomOrdered(r), randomOrdered(r)
	if rules.Isolated = r.IntN(5) > 0; !rules.Isolated {
		return rules
	}
	for range r.IntN(5) {
		rules.Allow = append(rules.Allow, randomRule(r))
	}
	return rules
}

func randomOrdered(r *rand.Rand) (rules []OrderedRule) {
	if r.IntN(2) == 0 {
		return nil
	}
	for range r.IntN(5) {
		rules = append(rules, OrderedRule{randomRule(r), Action(r.IntN(3))})
	}
	return rules
}

func randomRule(r *rand.Rand) Rule {
	rule := Rule{Name: fmt.Sprint("rule ", r.IntN(100))}
	for range r.IntN(4) {
		rule.Peers = append(rule.Peers, randomBlock(r))
	}
	for range r.IntN(4) {
		rule.Ports = append(rule.Ports, randomPorts(r))
	}
	return rule
}

func randomBlock(r *rand.Rand) (b Block) {
	if r.IntN(8) > 0 {
		b.Prefix = randomPrefix(r)
	}
	for range r.IntN(3) {
		b.Except = append(b.Except, randomPrefix(r))
	}
	return b
}

// randomPrefix returns a prefix among few addresses at the ends of both families, most with
// bits behind their length.
func randomPrefix(r *rand.Rand) netip.Prefix {
	a := randomAddr(r)
	if r.IntN(6) == 0 {
		return netip.PrefixFrom(a, r.IntN(a.BitLen()+1))
	}
	return netip.PrefixFrom(a, a.BitLen()-r.IntN(4))
}

func randomAddr(r *rand.Rand) netip.Addr {
	low := byte(r.IntN(16))
	switch r.IntN(4) {
	case 0:
		return netip.AddrFrom4([4]byte{10, 0, 0, low})
	case 1:
		return netip.AddrFrom4([4]byte{255, 255, 255, 240 | low})
	case 2:
		return netip.AddrFrom16([16]byte{0: 0xfd, 15: low})
	}
	return netip.AddrFrom16([16]byte{15: low})
}

func randomPorts(r *rand.Rand) (p Ports) {
	p.Protocol = []Protocol{0, TCP, UDP, SCTP, ICMP, ICMPv6, 7, 255}[r.IntN(8)]
	if p.Protocol.hasPorts() && r.IntN(4) > 0 {
		p.First = uint16([]int{1, 79, 80, 81, 90, 65534, 65535}[r.IntN(7)])
		if r.IntN(2) == 0 {
			p.Last = uint16(min(int(p.First)+r.IntN(12), 65535))
		}
	}
	return p
}

func randomPacket(r *rand.Rand) Packet {
	p := Packet{Direction: r.IntN(2) == 0, Peer: randomAddr(r), Protocol: []Protocol{0, 1, 5, TCP, 7, 8, UDP, ICMPv6, SCTP, 254, 255}[r.IntN(11)]}
	if p.Protocol.hasPorts() {
		p.Port = uint16([]int{0, 1, 2, 78, 79, 80, 81, 82, 90, 91, 95, 65533, 65534, 65535}[r.IntN(14)])
	}
	return p
}

// TestCompile has the boxes of random classes judge random packets as the rules do. The
// boxes must be disjoint, and of the right family.
func TestCompile(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	allowed, denied := 0, 0
	for range 3000 {
		c := randomClass(r)
		checkCompiled(t, c)
		compiled, err := Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		for range 30 {
			p := randomPacket(r)
			want, got := Judge(c, p), compiled.judge(p)
			if got.Allowed != want.Allowed {
				t.Fatalf("%+v\n%+v: boxes %v, rules %v", c, p, got, want)
			}
			if want.Allowed {
				allowed++
			} else {
				denied++
			}
		}
	}
	if allowed < 10_000 || denied < 10_000 {
		t.Errorf("%d packets allowed and %d denied, want many of both", allowed, denied)
	}
}

func checkCompiled(t *testing.T, c Class) {
	t.Helper()
	compiled, err := Compile(c)
	if err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	for _, d := range []Direction{Ingress, Egress} {
		for family, boxes := range compiled.side(d).boxes {
			for i, e := range boxes {
				if nft.FamilyOf(e.Box.First) != family || nft.FamilyOf(e.Box.Last) != family || e.Box.Last.Less(e.Box.First) {
					t.Fatalf("%+v: box %s of %s", c, e, family)
				}
				for _, o := range boxes[:i] {
					if overlap(e.Box, o.Box) {
						t.Fatalf("%+v: boxes %s and %s overlap", c, e, o)
					}
				}
			}
		}
	}
}

func overlap(a, b nft.Box) bool {
	return !a.Last.Less(b.First) && !b.Last.Less(a.First) &&
		a.LastProtocol >= b.FirstProtocol && b.LastProtocol >= a.FirstProtocol &&
		a.LastPort >= b.FirstPort && b.LastPort >= a.FirstPort
}

// FuzzCompile is TestCompile with the fuzzer's choice of random numbers and packets.
func FuzzCompile(f *testing.F) {
	f.Add(uint64(1), []byte{10, 0, 0, 1}, uint8(6), uint16(80))
	f.Add(uint64(2), []byte{15: 1}, uint8(0), uint16(0))
	f.Fuzz(func(t *testing.T, seed uint64, peer []byte, protocol uint8, port uint16) {
		c := randomClass(rand.New(rand.NewPCG(seed, 0)))
		checkCompiled(t, c)
		a, ok := netip.AddrFromSlice(peer)
		if !ok || a.Is4In6() {
			return
		}
		compiled, err := Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		p := Packet{Peer: a, Protocol: Protocol(protocol), Port: port}
		for _, p.Direction = range []Direction{Ingress, Egress} {
			if want, got := Judge(c, p), compiled.judge(p); got.Allowed != want.Allowed {
				t.Errorf("%+v\n%+v: boxes %v, rules %v", c, p, got, want)
			}
		}
	})
}

func block(prefix string, except ...string) Block {
	var b Block
	if prefix != "" {
		b.Prefix = netip.MustParsePrefix(prefix)
	}
	for _, e := range except {
		b.Except = append(b.Except, netip.MustParsePrefix(e))
	}
	return b
}

// TestBoxes compares the boxes of some rules.
func TestBoxes(t *testing.T) {
	port80 := Ports{Protocol: TCP, First: 80}
	for name, tt := range map[string]struct {
		rules []Rule
		want  []string
	}{
		"nothing":           {},
		"without peers":     {rules: []Rule{{Ports: []Ports{{}}}}},
		"without ports":     {rules: []Rule{{Peers: []Block{{}}}}},
		"everything":        {rules: []Rule{{Peers: []Block{{}}, Ports: []Ports{{}}}}, want: []string{"0.0.0.0/0 . 0-255 . 0-65535", "::/0 . 0-255 . 0-65535"}},
		"one family":        {rules: []Rule{{Peers: []Block{block("0.0.0.0/0")}, Ports: []Ports{port80}}}, want: []string{"0.0.0.0/0 . tcp . 80"}},
		"bits behind":       {rules: []Rule{{Peers: []Block{block("10.0.0.5/24")}, Ports: []Ports{port80}}}, want: []string{"10.0.0.0/24 . tcp . 80"}},
		"except":            {rules: []Rule{{Peers: []Block{block("10.0.0.0/30", "10.0.0.1/32")}, Ports: []Ports{port80}}}, want: []string{"10.0.0.0 . tcp . 80", "10.0.0.2/31 . tcp . 80"}},
		"except all":        {rules: []Rule{{Peers: []Block{block("10.0.0.0/30", "10.0.0.0/8")}, Ports: []Ports{port80}}}},
		"allowed by others": {rules: []Rule{{Peers: []Block{block("10.0.0.0/30", "10.0.0.1/32"), block("10.0.0.1/32")}, Ports: []Ports{port80}}}, want: []string{"10.0.0.0/30 . tcp . 80"}},
		"neighbours":        {rules: []Rule{{Peers: []Block{block("10.0.0.0/25"), block("10.0.0.128/25")}, Ports: []Ports{{Protocol: TCP, First: 80, Last: 84}, {Protocol: TCP, First: 85}}}}, want: []string{"10.0.0.0/24 . tcp . 80-85"}},
		"inside": {
			rules: []Rule{{Peers: []Block{block("10.0.0.0/8")}, Ports: []Ports{port80}}, {Peers: []Block{block("10.1.0.0/16")}, Ports: []Ports{{Protocol: TCP, First: 70, Last: 90}}}},
			want:  []string{"10.0.0.0/16 . tcp . 80", "10.1.0.0/16 . tcp . 70-90", "10.2.0.0-10.255.255.255 . tcp . 80"},
		},
		"all of one and a port of others": {
			rules: []Rule{{Peers: []Block{block("10.0.0.1/32")}, Ports: []Ports{{}}}, {Peers: []Block{block("10.0.0.0/30")}, Ports: []Ports{port80}}},
			want:  []string{"10.0.0.0 . tcp . 80", "10.0.0.1 . 0-255 . 0-65535", "10.0.0.2/31 . tcp . 80"},
		},
		"protocols": {
			rules: []Rule{{Peers: []Block{block("10.0.0.1/32")}, Ports: []Ports{{Protocol: ICMP}, {Protocol: TCP}, {Protocol: 7}, {Protocol: SCTP, First: 9}}}},
			want:  []string{"10.0.0.1 . icmp . 0-65535", "10.0.0.1 . 6-7 . 0-65535", "10.0.0.1 . sctp . 9"},
		},
	} {
		c, err := Compile(Class{Egress: Rules{Isolated: true, Allow: tt.rules}})
		if diff := cmp.Diff(tt.want, boxTexts(c, Egress)); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
		if c.Isolated(Ingress) || !c.Isolated(Egress) {
			t.Errorf("%s: isolated %t, %t", name, c.Isolated(Ingress), c.Isolated(Egress))
		}
	}
}

// TestOrderedBoxes compares the boxes of some ordered rules.
func TestOrderedBoxes(t *testing.T) {
	rule := func(a Action, prefix string, ports ...Ports) OrderedRule {
		return OrderedRule{Rule{Peers: []Block{block(prefix)}, Ports: ports}, a}
	}
	port80, port81 := Ports{Protocol: TCP, First: 80}, Ports{Protocol: TCP, First: 81}
	for name, tt := range map[string]struct {
		rules Rules
		free  bool // not isolated
		want  []string
	}{
		"nothing denied": {Rules{Before: []OrderedRule{rule(Accept, "10.0.0.0/8", Ports{})}, After: []OrderedRule{rule(Pass, "", Ports{})}}, true, nil},
		"all denied":     {Rules{After: []OrderedRule{rule(Deny, "", Ports{})}}, false, nil},
		"the default is isolation": {
			Rules{After: []OrderedRule{rule(Accept, "10.0.0.0/8", port80), rule(Deny, "", Ports{})}}, false, []string{"10.0.0.0/8 . tcp . 80"},
		},
		"isolated, so without After": {
			Rules{Isolated: true, Allow: []Rule{rule(0, "10.0.0.1/32", port80).Rule}, After: []OrderedRule{rule(Accept, "", Ports{})}}, false, []string{"10.0.0.1 . tcp . 80"},
		},
		"denied for all": {
			Rules{Before: []OrderedRule{rule(Deny, "10.0.0.1/32", port80)}, Isolated: true, Allow: []Rule{rule(0, "10.0.0.0/30", port80).Rule}}, false,
			[]string{"10.0.0.0 . tcp . 80", "10.0.0.2/31 . tcp . 80"},
		},
		"accepted for all": {
			Rules{Before: []OrderedRule{rule(Accept, "10.0.0.1/32", port81)}, Isolated: true, Allow: []Rule{rule(0, "10.0.0.0/31", port80).Rule}}, false,
			[]string{"10.0.0.0 . tcp . 80", "10.0.0.1 . tcp . 80-81"},
		},
		"passed on": {
			Rules{
				Before:   []OrderedRule{rule(Pass, "10.0.0.1/32", port80, port81), rule(Deny, "0.0.0.0/0", Ports{})},
				Isolated: true, Allow: []Rule{rule(0, "10.0.0.0/8", port80).Rule},
			}, false, []string{"10.0.0.1 . tcp . 80"},
		},
		"one port less": {
			Rules{Before: []OrderedRule{rule(Deny, "128.0.0.0/1", Ports{Protocol: TCP, First: 22})}}, false,
			[]string{
				"0.0.0.0/1 . 0-255 . 0-65535",
				"128.0.0.0/1 . 0-5 . 0-65535", "128.0.0.0/1 . tcp . 0-21", "128.0.0.0/1 . tcp . 23-65535", "128.0.0.0/1 . 7-255 . 0-65535",
				"::/0 . 0-255 . 0-65535",
			},
		},
	} {
		c, err := Compile(Class{Egress: tt.rules})
		if diff := cmp.Diff(tt.want, boxTexts(c, Egress)); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
		if c.Isolated(Egress) == tt.free {
			t.Errorf("%s: isolated %t", name, c.Isolated(Egress))
		}
	}
}

// TestVerdicts names the rule that decides.
func TestVerdicts(t *testing.T) {
	c := Class{
		Ingress: Rules{
			Before:   []OrderedRule{{Rule{Name: "never", Peers: []Block{block("10.0.0.9/32")}, Ports: []Ports{{}}}, Deny}},
			Isolated: true, Allow: []Rule{
				{Name: "web", Peers: []Block{block("10.0.0.0/24")}, Ports: []Ports{{Protocol: TCP, First: 80}}},
				{Name: "all", Peers: []Block{block("10.0.0.7/32")}, Ports: []Ports{{}}},
			},
		},
		Egress: Rules{After: []OrderedRule{{Rule{Name: "default", Peers: []Block{block("10.0.0.9/32")}, Ports: []Ports{{}}}, Deny}}},
	}
	for want, p := range map[Verdict]Packet{
		{true, "web"}: {Peer: netip.MustParseAddr("10.0.0.7"), Protocol: TCP, Port: 80},
		{true, "all"}: {Peer: netip.MustParseAddr("10.0.0.7"), Protocol: ICMP},
		{}:            {Peer: netip.MustParseAddr("10.0.0.8"), Protocol: UDP, Port: 80},
		{true, ""}:    {Peer: netip.MustParseAddr("10.0.0.8"), Protocol: UDP, Port: 80, Direction: Egress},

		{false, "never"}:   {Peer: netip.MustParseAddr("10.0.0.9"), Protocol: TCP, Port: 80},
		{false, "default"}: {Peer: netip.MustParseAddr("10.0.0.9"), Protocol: TCP, Port: 80, Direction: Egress},
	} {
		if got := Judge(c, p); got != want {
			t.Errorf("%+v: %+v, want %+v", p, got, want)
		}
	}
}

// TestInvalid compiles classes that have no meaning.
func TestInvalid(t *testing.T) {
	isolated := func(r Rule) Class { return Class{Egress: Rules{Isolated: true, Allow: []Rule{r}}} }
	for name, c := range map[string]Class{
		"not isolated":   {Ingress: Rules{Allow: []Rule{{}}}},
		"action":         {Ingress: Rules{Before: []OrderedRule{{Action: 3}}}},
		"ordered rule":   {Egress: Rules{After: []OrderedRule{{Rule: Rule{Ports: []Ports{{First: 9}}}}}}},
		"reversed ports": isolated(Rule{Ports: []Ports{{Protocol: TCP, First: 9, Last: 8}}}),
		"ports of ICMP":  isolated(Rule{Ports: []Ports{{Protocol: ICMP, First: 9}}}),
		"ports of all":   isolated(Rule{Ports: []Ports{{First: 9}}}),
		"IPv4 in IPv6":   isolated(Rule{Peers: []Block{block("::ffff:10.0.0.0/120")}}),
		"no exception":   isolated(Rule{Peers: []Block{{Except: []netip.Prefix{{}}}}}),
	} {
		if _, err := Compile(c); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want %v", name, err, ErrInvalid)
		}
	}
}

// TestManyRules compiles 1,000 peers in each of 100 rules with different ports: the boxes
// are no product of both.
func TestManyRules(t *testing.T) {
	var rules []Rule
	for i := range 100 {
		r := Rule{Ports: []Ports{{Protocol: TCP, First: uint16(1 + 2*i)}}}
		for j := range 1000 {
			r.Peers = append(r.Peers, Block{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(j >> 7), byte(j << 1)}), 32)})
		}
		rules = append(rules, r)
	}
	c, err := Compile(Class{Ingress: Rules{Isolated: true, Allow: rules}})
	if boxes := boxTexts(c, Ingress); err != nil || len(boxes) != 100_000 || !slices.Contains(boxes, "10.99.0.2 . tcp . 199") {
		t.Errorf("%v, %d boxes, want 100000", err, len(boxes))
	}
}

// boxTexts returns the texts of the boxes of a direction in nft's notation, first those of
// IPv4.
func boxTexts(c Compiled, d Direction) (texts []string) {
	for _, f := range families {
		for _, e := range c.side(d).boxes[f] {
			texts = append(texts, e.String())
		}
	}
	return texts
}
