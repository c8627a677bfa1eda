// SPDX-License-Identifier: Apache-2.0

package netstate_test

import (
	"net/netip"
	"testing"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// TestLookup checks which rule and route decide. Packets go from 10.0.0.10 to
// 198.51.100.9 unless a row says otherwise.
func TestLookup(t *testing.T) {
	prefix := netip.MustParsePrefix
	main := netstate.TableMain
	for _, c := range []struct {
		name   string
		rules  []netstate.Rule // in addition to those of nodeState
		routes []netstate.Route
		query  netstate.Query
		want   string // link, or a type of route, or "local", or "none"
		unsure int    // number of rules in Unjudged
	}{
		{name: "default route", want: "ens5"},
		{name: "by source", query: netstate.Query{Src: netip.MustParseAddr("10.0.0.20")}, want: "ens6"},
		{name: "own address", query: netstate.Query{Dst: netip.MustParseAddr("10.0.0.10")}, want: "local"},
		{name: "longest prefix", routes: []netstate.Route{{Dst: prefix("198.51.100.0/24"), Link: "ens7", Table: main}}, want: "ens7"},
		{name: "lowest metric", routes: []netstate.Route{
			{Dst: prefix("198.51.100.0/24"), Link: "ens7", Table: main, Metric: 2}, {Dst: prefix("198.51.100.0/24"), Link: "ens8", Table: main, Metric: 1},
		}, want: "ens8"},
		{name: "throw", rules: []netstate.Rule{{Priority: 1, Table: 7}}, routes: []netstate.Route{
			{Dst: prefix("0.0.0.0/0"), Link: "ens7", Table: 7}, {Dst: prefix("198.51.100.0/24"), Table: 7, Type: "throw"},
		}, want: "ens5"},
		{name: "unreachable", routes: []netstate.Route{{Dst: prefix("198.51.100.9/32"), Table: main, Type: "unreachable"}}, want: "unreachable"},
		{name: "prohibiting rule", rules: []netstate.Rule{{Priority: 1, Other: "action 8"}}, want: "prohibit"},
		{name: "empty table", rules: []netstate.Rule{{Priority: 1, Table: 7}}, want: "ens5"},
		{name: "mark", rules: []netstate.Rule{{Priority: 1, Mark: 1, Mask: 0x7f, Table: 2}}, query: netstate.Query{Mark: 0x81}, want: "ens6"},
		{name: "other mark", rules: []netstate.Rule{{Priority: 1, Mark: 1, Mask: 0x7f, Table: 2}}, query: netstate.Query{Mark: 2}, want: "ens5"},
		{name: "incoming link", rules: []netstate.Rule{{Priority: 1, IIF: "eni1", Table: 2}}, query: netstate.Query{IIF: "eni1"}, want: "ens6"},
		{name: "other incoming link", rules: []netstate.Rule{{Priority: 1, IIF: "eni1", Table: 2}}, query: netstate.Query{IIF: "eni2"}, want: "ens5"},
		{name: "packet of the node", rules: []netstate.Rule{{Priority: 1, IIF: "lo", Table: 2}}, want: "ens6"},
		{name: "not from", rules: []netstate.Rule{{Priority: 1, From: prefix("10.9.0.0/16"), Other: "not", Table: 2}}, want: "ens6"},
		{name: "no default route", rules: []netstate.Rule{{Priority: 1, Other: "suppress_prefixlength 0", Table: 2}}, want: "ens5"},
		{name: "known protocol", rules: []netstate.Rule{{Priority: 1, IPProto: 17, Table: 2}}, query: netstate.Query{Proto: 17}, want: "ens6"},
		{name: "unknown protocol", rules: []netstate.Rule{{Priority: 1, IPProto: 17, Table: 2}}, want: "ens5", unsure: 1},
		{name: "unknown selector", rules: []netstate.Rule{{Priority: 1, Other: "dport 53-53", Table: 2}}, want: "ens5", unsure: 1},
		{name: "same priority", rules: []netstate.Rule{{Priority: 32766, Table: 2}}, want: "ens5", unsure: 1},
		{name: "other family", query: netstate.Query{Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2")}, want: "none"},
	} {
		s := nodeState()
		s.Rules, s.Routes = append(s.Rules, c.rules...), append(s.Routes, c.routes...)
		if !c.query.Src.IsValid() {
			c.query.Src = netip.MustParseAddr("10.0.0.10")
		}
		if !c.query.Dst.IsValid() {
			c.query.Dst = netip.MustParseAddr("198.51.100.9")
		}
		v := s.Lookup(c.query)
		got := v.Route.Link
		switch {
		case !v.Found:
			got = "none"
		case v.Local:
			got = "local"
		case v.Refuses():
			got = v.Route.Type
		case !v.LeavesBy(got):
			t.Errorf("%s: LeavesBy(%q) = false, want true", c.name, got)
		}
		if got != c.want || len(v.Unjudged) != c.unsure {
			t.Errorf("%s: %v, %d unjudged rules, want %s, %d", c.name, v, len(v.Unjudged), c.want, c.unsure)
		}
	}
}

// TestLookupWithoutRules checks that a State without rules has those of a new namespace.
func TestLookupWithoutRules(t *testing.T) {
	s := nodeState()
	s.Rules = nil
	v := s.Lookup(netstate.Query{Src: netip.MustParseAddr("10.0.0.20"), Dst: netip.MustParseAddr("198.51.100.9")})
	if !v.LeavesBy("ens5") {
		t.Errorf("Lookup: %v, want ens5", v)
	}
}
