// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzDecode feeds the readers of netlink messages with anything: they may fail,
// but not crash, and what they return must print.
func FuzzDecode(f *testing.F) {
	var b batch
	b.route(OpAdd, 3, Route{Dst: netip.MustParsePrefix("10.0.0.0/24"), Via: netip.MustParseAddr("10.0.0.1"), Table: 20000, MTU: 1500}, create)
	b.rule(OpAdd, Rule{Priority: 512, To: netip.MustParsePrefix("2001:db8::1/128"), IPv6: true, Table: 2, Mark: 1, Mask: 0x7f, IIF: "lo"})
	b.address(OpAdd, 3, Address{Prefix: netip.MustParsePrefix("10.0.0.1/32")})
	b.neighbor(OpAdd, 3, Neighbor{Addr: netip.MustParseAddr("fe80::1"), MAC: "02:00:00:00:00:01"})
	b.createVeth(Pod{ContainerID: "c", IfName: "eth0", MTU: 1400}, 3)
	for i, at := range b.starts {
		end := len(b.buf)
		if i+1 < len(b.starts) {
			end = b.starts[i+1]
		}
		f.Add(b.buf[at+16 : end])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		links := names{3: "eth0"}
		if l, err := parseLink(body); err == nil {
			_ = l.String()
		}
		if a, err := parseAddress(body, links); err == nil {
			_ = Change{OpAdd, a}.String()
		}
		if n, _, err := parseNeighbor(body, links); err == nil {
			_ = Change{OpDelete, n}.String()
		}
		if r, _, err := parseRoute(body, links); err == nil {
			_ = Change{OpAdd, r}.String()
			_ = State{Routes: []Route{r, r}}.lookup(query{dst: netip.MustParseAddr("10.0.0.1")})
		}
		if r, err := parseRule(body); err == nil {
			_ = Change{OpDelete, r}.String()
			_, _ = r.judge(query{src: netip.MustParseAddr("10.0.0.1"), dst: netip.MustParseAddr("10.0.0.1")})
		}
		_ = (&eventFilter{names: names{}, seen: map[string]seenLink{}, prefix: "eni"}).concerns(event{message: message{kind: 16, body: body}})
	})
}

// FuzzRule holds that the text of a rule that compiles comes back from its
// expressions as it was.
func FuzzRule(f *testing.F) {
	for _, c := range (Node{RefuseMetadata: true, ENIs: []ENI{{Device: 1, Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}}}}).filter([]bool{false, true}).Chains {
		for _, r := range c.Rules {
			f.Add(r)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		exprs, err := compileRule(text)
		if err != nil || len(exprs) == 0 {
			return
		}
		canonical := decompileRule(exprs)
		again, err := compileRule(canonical)
		if err != nil {
			t.Fatalf("%q came back as %q: %v", text, canonical, err)
		}
		if diff := cmp.Diff(canonical, decompileRule(again)); diff != "" {
			t.Errorf("%q: (-once +twice)\n%s", text, diff)
		}
		if strings.ContainsAny(canonical, "\n") {
			t.Errorf("%q came back with a line break", text)
		}
	})
}

// FuzzDiff holds that the changes from any state of a node to what is wanted lead
// there: no difference is left when they are made.
func FuzzDiff(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3}, true)
	f.Add([]byte{255, 7, 9, 30, 31, 32}, false)
	f.Fuzz(func(t *testing.T, drop []byte, perPod bool) {
		layout := Flat
		if perPod {
			layout = PerPod
		}
		pod := Pod{ContainerID: "c", IfName: "eth0", Layout: layout, Addrs: []PodAddr{{Addr: netip.MustParseAddr("10.0.0.101"), Table: 2}}}
		want := pod.HostState()
		have := want
		have.Routes, have.Rules, have.Neighbors = nil, nil, nil
		for i, r := range want.Routes {
			if i < len(drop) && drop[i]%2 == 0 {
				r.Table += int(drop[i])
				have.Routes = append(have.Routes, r)
			}
		}
		for i, r := range want.Rules {
			if i < len(drop) && drop[i]%3 == 0 {
				r.Table += int(drop[i])
				have.Rules = append(have.Rules, r)
			}
		}
		got := have
		for _, c := range Diff(have, want) {
			got = got.with(c)
		}
		if left := Diff(got, want); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// with carries out a change on a value.
func (s State) with(c Change) State {
	switch i := c.Item.(type) {
	case Route:
		s.Routes = swap(s.Routes, i, c.Op, Route.key)
	case Rule:
		s.Rules = swap(s.Rules, i, c.Op, Rule.key)
	case Neighbor:
		s.Neighbors = swap(s.Neighbors, i, c.Op, Neighbor.key)
	}
	return s
}

func swap[T any, K comparable](items []T, item T, op Op, key func(T) K) []T {
	var kept []T
	for _, i := range items {
		if key(i) != key(item) {
			kept = append(kept, i)
		}
	}
	if op == OpAdd {
		kept = append(kept, item)
	}
	return kept
}
