// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/datapath/trace"
)

// TestTracePolicies traces packets of a pod under policies, and the answers to packets from
// outside, from a saved View.
func TestTracePolicies(t *testing.T) {
	l := newModeLab(several)
	pod := l.pod.Addrs[0].Addr
	far := netip.MustParseAddr("10.9.9.9")
	only := func(protocol policy.Protocol, port uint16) policy.Rules {
		return policy.Rules{Isolated: true, Allow: []policy.Rule{{
			Peers: []policy.Block{{Prefix: netip.PrefixFrom(far, 24)}}, Ports: []policy.Ports{{Protocol: protocol, First: port}},
		}}}
	}
	dns := policy.Class{Egress: only(policy.UDP, 53)}
	for _, c := range []struct {
		name   string
		class  policy.Class
		odd    bool
		flow   trace.Flow
		faults string
		notes  string
		wants  []string
	}{
		{"free", policy.Class{Ingress: policy.Rules{Isolated: true}}, false, trace.Flow{Src: pod, Dst: far, Proto: "tcp", Port: 1}, "", "", nil},
		{"allowed", dns, false, trace.Flow{Src: pod, Dst: far, Proto: "udp", Port: 53}, "", "", []string{
			"nft out          class web of " + pod.String() + " allows it", "because of: 10.9.9.0/24 . udp . 53", "nft reout        class web of " + pod.String() + " allows it",
		}},
		{"another port", dns, false, trace.Flow{Src: pod, Dst: far, Proto: "udp", Port: 54}, "policy-denied", "", []string{
			"nft out          drops it", "no element of class web has 10.9.9.9 . udp . 54", "denies egress to 10.9.9.9 . udp . 54",
		}},
		{"another protocol", dns, false, trace.Flow{Src: pod, Dst: far, Proto: "icmp"}, "policy-denied", "", nil},
		{"another protocol without a port", dns, false, trace.Flow{Src: pod, Dst: far, Proto: "tcp"}, "policy-denied", "", nil},
		{"another peer", dns, false, trace.Flow{Src: pod, Dst: netip.MustParseAddr("10.8.8.8")}, "policy-denied", "", nil},
		{"no port", dns, false, trace.Flow{Src: pod, Dst: far, Proto: "udp"}, "", "unjudged-policy", nil},
		{"no protocol", dns, false, trace.Flow{Src: pod, Dst: far}, "", "unjudged-policy", nil},
		{"every protocol", policy.Class{Egress: policy.Rules{Isolated: true, Allow: []policy.Rule{{Peers: []policy.Block{{}}, Ports: []policy.Ports{{}}}}}}, false, trace.Flow{Src: pod, Dst: far}, "", "", nil},
		{"changed by another program", policy.Class{}, true, trace.Flow{Src: pod, Dst: far}, "", "unjudged-policy", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			compiled, err := policy.Compile(c.class)
			if err != nil {
				t.Fatal(err)
			}
			v := l.View
			v.Policies = &trace.Policies{Odd: c.odd, State: policy.State{
				Classes: map[string]policy.Compiled{"web": compiled}, Pods: map[netip.Addr]string{pod: "web"},
			}}
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			var saved trace.View
			if err := json.Unmarshal(text, &saved); err != nil {
				t.Fatal(err)
			}
			p := trace.Trace(saved, c.flow)
			var faults, notes []string
			for _, f := range p.Faults {
				faults = append(faults, string(f.Name))
			}
			for _, n := range p.Unchecked {
				if n.Name == trace.NotePolicy {
					notes = append(notes, string(n.Name))
				}
			}
			if got := strings.Join(faults, " "); got != c.faults {
				t.Errorf("faults %q, want %q", got, c.faults)
			}
			if got := strings.Join(notes, " "); got != c.notes {
				t.Errorf("notes %q, want %q", got, c.notes)
			}
			for _, w := range c.wants {
				if !strings.Contains(p.String(), w) {
					t.Errorf("want %q in:\n%s", w, p)
				}
			}
		})
	}
}

// TestTraceAccelerated traces a packet between links with accelerated flows, and one by
// another link.
func TestTraceAccelerated(t *testing.T) {
	const hop = "lets further packets of an established TCP or UDP flow pass"
	l := newModeLab(several)
	far := netip.MustParseAddr("10.9.9.9")
	p := trace.Trace(l.View, trace.Flow{Src: l.pod.Addrs[0].Addr, Dst: far})
	if strings.Contains(p.String(), hop) {
		t.Errorf("without a flowtable:\n%s", p)
	}
	n := l.Desired.Node
	n.Accelerate = true
	l.Node.Flows = n.State().Flows
	l.Node.Flows.Links = append(l.Node.Flows.Links, netstate.FlowLink{Name: l.pod.HostLink()})
	p = trace.Trace(l.View, trace.Flow{Src: l.pod.Addrs[0].Addr, Dst: far})
	if strings.Count(p.String(), hop) != 1 || len(p.Faults) != 0 {
		t.Errorf("with a flowtable:\n%s", p)
	}
	l.Node.Flows.Links = l.Node.Flows.Links[:len(l.Node.Flows.Links)-1]
	p = trace.Trace(l.View, trace.Flow{Src: l.pod.Addrs[0].Addr, Dst: far})
	if strings.Contains(p.String(), hop) {
		t.Errorf("of a pod with a link that the flowtable does not have:\n%s", p)
	}
}
