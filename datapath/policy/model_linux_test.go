// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
	"github.com/vpcnet/vpcnet/datapath/policy"
)

// TestModel applies random policies to pods, sends random packets and replies, and has the
// kernel agree with the rules of the policies on each.
func TestModel(t *testing.T) {
	for _, layout := range datapathtest.Layouts() {
		t.Run(string(layout), func(t *testing.T) {
			w := newWorld(t, layout)
			r := rand.New(rand.NewPCG(7, 11))
			m := &model{world: w, r: r, hosts: []*host{w.a, w.b, w.c, w.vpc, w.out}}
			for _, h := range m.hosts {
				w.record(h)
			}
			for range 15 {
				m.round()
			}
			t.Logf("%d packets allowed, %d denied, %d replies", m.allowed, m.denied, m.replies)
			if m.allowed < 300 || m.denied < 300 || m.replies < 50 {
				t.Errorf("%d packets allowed, %d denied, %d replies: want many of each", m.allowed, m.denied, m.replies)
			}
		})
	}
}

type model struct {
	*world
	r     *rand.Rand
	hosts []*host

	allowed, denied, replies int
}

// expected is a packet with the verdict of the rules.
type expected struct {
	sent
	allowed bool
}

// round applies policies and sends packets under them.
func (m *model) round() {
	m.t.Helper()
	classes := map[string]policy.Class{}
	for _, h := range []*host{m.a, m.b, m.c} {
		if m.r.IntN(6) > 0 {
			classes[h.name] = policy.Class{Ingress: m.rules(), Egress: m.rules()}
		}
	}
	m.apply(m.state(classes))
	judge := func(from, to *host, f policy.Flow) bool {
		out := policy.Judge(classes[from.name], policy.Packet{Direction: policy.Egress, Peer: f.Dst, Protocol: f.Protocol, Port: f.Port})
		in := policy.Judge(classes[to.name], policy.Packet{Peer: f.Src, Protocol: f.Protocol, Port: f.Port})
		return out.Allowed && in.Allowed
	}
	var first, answers []expected
	for range 60 {
		from, to, f := m.flow()
		e := expected{m.send(from, to, f), judge(from, to, f)}
		first = append(first, e)
	}
	// A reply without a question is a flow of its own. A question counts once it has passed.
	m.check(first)
	for _, e := range first {
		switch {
		case e.Protocol != policy.UDP && e.Protocol != policy.SCTP && (e.Protocol != 7 || !e.allowed):
			continue
		case e.allowed:
			answers = append(answers, expected{m.reply(e.sent), true})
			m.replies++
		default:
			back := policy.Flow{Src: e.Dst, Dst: e.Src, Protocol: e.Protocol, Port: e.sport}
			answers = append(answers, expected{m.reply(e.sent), judge(e.to, e.from, back)})
		}
	}
	m.check(answers)
}

// check waits for the packets that must arrive, and then looks for the others, which were
// sent among them.
func (m *model) check(all []expected) {
	m.t.Helper()
	var packets []sent
	for _, e := range all {
		packets = append(packets, e.sent)
	}
	complete := func(got map[string]bool) bool {
		for _, e := range all {
			if e.allowed && !got[string(e.marker)] {
				return false
			}
		}
		return true
	}
	got := m.arrived(packets)
	for end := time.Now().Add(patience); !complete(got) && time.Now().Before(end); got = m.arrived(packets) {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	got = m.arrived(packets)
	wrong := false
	for _, e := range all {
		if got[string(e.marker)] != e.allowed {
			wrong = true
			m.t.Errorf("from %s to %s, %+v: arrived %t, the rules allow %t", e.from.name, e.to.name, e.Flow, !e.allowed, e.allowed)
		}
		if e.allowed {
			m.allowed++
		} else {
			m.denied++
		}
	}
	if wrong {
		s, _, err := m.h.Observe(m.t.Context())
		m.t.Fatalf("%v under\n%s", err, s)
	}
}

// flow returns a random flow that touches a pod.
func (m *model) flow() (from, to *host, f policy.Flow) {
	for {
		from, to = m.hosts[m.r.IntN(len(m.hosts))], m.hosts[m.r.IntN(len(m.hosts))]
		six := datapathtest.HasIPv6() && m.r.IntN(2) == 0
		f = policy.Flow{Src: from.of(six), Dst: to.of(six)}
		f.Protocol = []policy.Protocol{policy.TCP, policy.UDP, policy.SCTP, policy.ICMP, 7}[m.r.IntN(5)]
		if six && f.Protocol == policy.ICMP {
			f.Protocol = policy.ICMPv6
		}
		if f.Protocol == policy.TCP || f.Protocol == policy.UDP || f.Protocol == policy.SCTP {
			f.Port = uint16([]int{9, 53, 79, 80, 81, 85}[m.r.IntN(6)])
		}
		isPod := func(h *host) bool { return h == m.a || h == m.b || h == m.c }
		// Connection tracking cannot tell the directions of protocol 7 apart.
		if from != to && (isPod(from) || isPod(to)) && (f.Protocol != 7 || f.Src.Less(f.Dst)) {
			return from, to, f
		}
	}
}

func (m *model) rules() (rules policy.Rules) {
	rules.Before, rules.After = m.ordered(), m.ordered()
	if rules.Isolated = m.r.IntN(4) > 0; !rules.Isolated {
		return rules
	}
	for range m.r.IntN(5) {
		rules.Allow = append(rules.Allow, m.rule())
	}
	return rules
}

func (m *model) ordered() (rules []policy.OrderedRule) {
	if m.r.IntN(2) == 0 {
		return nil
	}
	for range m.r.IntN(4) {
		rules = append(rules, policy.OrderedRule{Rule: m.rule(), Action: policy.Action(m.r.IntN(3))})
	}
	return rules
}

func (m *model) rule() (rule policy.Rule) {
	for range m.r.IntN(4) {
		rule.Peers = append(rule.Peers, m.block())
	}
	for range m.r.IntN(4) {
		rule.Ports = append(rule.Ports, []policy.Ports{
			{}, {Protocol: policy.TCP}, {Protocol: policy.TCP, First: 80}, {Protocol: policy.TCP, First: 80, Last: 84},
			{Protocol: policy.UDP, First: 53, Last: 80}, {Protocol: policy.UDP}, {Protocol: policy.SCTP, First: 9}, {Protocol: policy.SCTP},
			{Protocol: policy.ICMP}, {Protocol: policy.ICMPv6}, {Protocol: 7},
		}[m.r.IntN(11)])
	}
	return rule
}

// block returns a block that has some of the hosts.
func (m *model) block() (b policy.Block) {
	around := func() netip.Prefix {
		h := m.hosts[m.r.IntN(len(m.hosts))]
		a := h.addrs[m.r.IntN(len(h.addrs))]
		return netip.PrefixFrom(a, a.BitLen()-m.r.IntN(20))
	}
	switch m.r.IntN(5) {
	case 0:
	case 1:
		b.Prefix = netip.MustParsePrefix([]string{"0.0.0.0/0", "::/0"}[m.r.IntN(2)])
	default:
		b.Prefix = around()
	}
	for range m.r.IntN(2) {
		b.Except = append(b.Except, around())
	}
	return b
}
