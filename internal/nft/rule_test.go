// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// statements has at least one value of each kind of statement, with its text.
var statements = []struct {
	statement Statement
	text      string
}{
	{Link{Name: "ens5"}, `iifname "ens5"`},
	{Link{Name: "eni*"}, `iifname "eni*"`},
	{Link{Out: true, Name: "ens5"}, `oifname "ens5"`},
	{LinkIn{Set: "links"}, "iifname @links"},
	{LinkIn{Out: true, Set: "links"}, "oifname @links"},
	{NewFlow{}, "ct state new"},
	{Established{}, "ct state established"},
	{Related{}, "ct state related"},
	{Reply{}, "ct direction reply"},
	{CtMark{Mask: 0x80, Value: 0x80}, "ct mark & 0x00000080 == 0x00000080"},
	{CtMark{Mask: 0x7f, Not: true}, "ct mark & 0x0000007f != 0x00000000"},
	{LocalAddr{}, "fib daddr type local"},
	{LocalAddr{Source: true, Not: true}, "fib saddr type != local"},
	{NoReverseRoute{}, "fib saddr . iif oif missing"},
	{RouterAdvert{}, "icmpv6 type nd-router-advert"},
	{TCP, "meta l4proto tcp"},
	{UDP, "meta l4proto udp"},
	{Destination{netip.MustParseAddr("169.254.169.254")}, "ip daddr 169.254.169.254"},
	{Destination{netip.MustParseAddr("fd00:ec2::254")}, "ip6 daddr fd00:ec2::254"},
	{DestinationNotIn{IPv4, "four"}, "ip daddr != @four"},
	{DestinationNotIn{IPv6, "six"}, "ip6 daddr != @six"},
	{SourceMap{IPv4, "jumps4"}, "ip saddr vmap @jumps4"},
	{SourceMap{IPv6, "jumps6"}, "ip6 saddr vmap @jumps6"},
	{DestinationMap{IPv4, "jumps4"}, "ip daddr vmap @jumps4"},
	{DestinationMap{IPv6, "jumps6"}, "ip6 daddr vmap @jumps6"},
	{InBoxes{Family: IPv4, Set: "boxes4"}, "ip saddr . meta l4proto . th dport @boxes4"},
	{InBoxes{Family: IPv6, Dst: true, SourcePort: true, Set: "boxes6"}, "ip6 daddr . meta l4proto . th sport @boxes6"},
	{Self{IPv4, "selves4"}, "ip saddr . ip daddr @selves4"},
	{Self{IPv6, "selves6"}, "ip6 saddr . ip6 daddr @selves6"},
	{Limit{3}, "limit rate 3/second"},
	{Log{Prefix: `denied "x": `, Group: 118}, `log prefix "denied \"x\": " group 118`},
	{Goto{"other"}, "goto other"},
	{FlowAdd{"fast"}, "flow add @fast"},
	{SetMark{Mask: 0x80, Value: 0x80}, "meta mark set meta mark | 0x00000080"},
	{SetMark{Mask: 0x7f, Value: 1}, "meta mark set meta mark & 0xffffff81 | 0x00000001"},
	{SetCtMark{Mask: 0x80, Value: 0x80}, "ct mark set ct mark | 0x00000080"},
	{SetCtMark{Mask: 0x7f, Value: 2}, "ct mark set ct mark & 0xffffff82 | 0x00000002"},
	{Counter{}, "counter"},
	{SourceNAT{To: netip.MustParseAddr("10.0.1.10"), Choice: PortRandom}, "snat ip to 10.0.1.10 fully-random"},
	{SourceNAT{To: netip.MustParseAddr("10.0.1.10"), Choice: PortHash}, "snat ip to 10.0.1.10 random"},
	{SourceNAT{To: netip.MustParseAddr("10.0.1.10"), First: 1024, Last: 2047}, "snat ip to 10.0.1.10:1024-2047"},
	{SourceNAT{To: netip.MustParseAddr("2001:db8::10"), Choice: PortRandom}, "snat ip6 to 2001:db8::10 fully-random"},
	{SourceNAT{To: netip.MustParseAddr("2001:db8::10"), First: 1024, Last: 2047}, "snat ip6 to [2001:db8::10]:1024-2047"},
	{Jump{"other"}, "jump other"},
	{Return{}, "return"},
	{Accept{}, "accept"},
	{Drop{}, "drop"},
	{Reject{}, "reject"},
	{Foreign{"quota accept"}, "# quota accept"},
}

var equateAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// TestStatementText prints each statement and reads it back, alone and in a rule
// with a comment.
func TestStatementText(t *testing.T) {
	for _, tt := range statements {
		if got := tt.statement.String(); got != tt.text {
			t.Errorf("%#v prints %q, want %q", tt.statement, got, tt.text)
		}
		for _, want := range []Rule{
			NewRule(tt.statement),
			{Statements: []Statement{Counter{}, tt.statement}, Comment: `of "x" counter`},
		} {
			if diff := cmp.Diff(want, ParseRule(want.String()), equateAddrs); diff != "" {
				t.Errorf("%s (-want +got):\n%s", want, diff)
			}
			data, err := json.Marshal(want)
			if err != nil || !strings.HasPrefix(string(data), `"`) {
				t.Errorf("%s: JSON %s, %v, want a string", want, data, err)
			}
			var got Rule
			if err := json.Unmarshal(data, &got); err != nil || got.String() != want.String() {
				t.Errorf("%s: from JSON %s, %v", want, got, err)
			}
		}
	}
}

// TestParseForeign reads rules with parts that are not known.
func TestParseForeign(t *testing.T) {
	for text, want := range map[string]Rule{
		"no rule of nft":                    NewRule(Foreign{"no rule of nft"}),
		`iifname "eni*" tcp dport 80 drop`:  NewRule(Link{Name: "eni*"}, Foreign{"tcp dport 80 drop"}),
		"acceptance":                        NewRule(Foreign{"acceptance"}),
		"accept # limit":                    NewRule(Accept{}, Foreign{"limit"}),
		"ip daddr 10.0.0.0/8":               NewRule(Foreign{"ip daddr 10.0.0.0/8"}),
		"ip6 daddr 10.0.0.1":                NewRule(Foreign{"ip6 daddr 10.0.0.1"}),
		"meta mark set meta mark & 0x1":     NewRule(Foreign{"meta mark set meta mark & 0x1"}),
		"jump":                              NewRule(Foreign{"jump"}),
		"goto":                              NewRule(Foreign{"goto"}),
		"ct state related,new":              NewRule(Foreign{"ct state related,new"}),
		"ip saddr . meta l4proto @x":        NewRule(Foreign{"ip saddr . meta l4proto @x"}),
		`log prefix "a`:                     NewRule(Foreign{`log prefix "a`}),
		`drop comment "a" comment "b"`:      {Statements: []Statement{Drop{}, Foreign{`comment "a"`}}, Comment: "b"},
		"":                                  {},
		`# ct cmp comment "by hand"`:        {Statements: []Statement{Foreign{"ct cmp"}}, Comment: "by hand"},
		"snat ip6 to 2001:db8::1%a":         NewRule(Foreign{"snat ip6 to 2001:db8::1%a"}),
		"snat ip6 to 10.0.0.1":              NewRule(Foreign{"snat ip6 to 10.0.0.1"}),
		"meta l4proto sctp":                 NewRule(Foreign{"meta l4proto sctp"}),
		"ct mark & 0x80 == 0x80":            NewRule(Foreign{"ct mark & 0x80 == 0x80"}),
		"icmpv6 type nd-router-advert drop": NewRule(RouterAdvert{}, Drop{}),
	} {
		if diff := cmp.Diff(want, ParseRule(text), equateAddrs, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

// FuzzParseRule reads any text: what it reads prints as text that reads as the same.
func FuzzParseRule(f *testing.F) {
	for _, tt := range statements {
		f.Add(tt.text)
		f.Add(tt.text + ` accept comment "x"`)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := ParseRule(text)
		if again := ParseRule(r.String()); again.String() != r.String() {
			t.Errorf("%q is %q and then %q", text, r, again)
		}
	})
}

// FuzzElements writes prefixes as intervals and reads them back, in either order.
func FuzzElements(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 16, 192, 168, 0, 0, 24}, false, false)
	f.Add([]byte{0, 0, 0, 0, 0}, true, true)
	f.Add([]byte{255, 255, 255, 255, 32, 0, 0, 0, 0, 32, 10, 0, 1, 0, 24, 10, 0, 2, 0, 24}, true, false)
	f.Add([]byte{255, 255, 255, 255, 128, 0x20, 1, 13, 184, 32}, false, true)
	f.Fuzz(func(t *testing.T, data []byte, backwards, six bool) {
		var (
			want   []Element
			bounds []bound
		)
		for ; len(data) >= 5; data = data[5:] {
			e := Element{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte(data)), int(data[4]%33)).Masked(), Chain: "c"}
			if six {
				a := [16]byte{0: data[0], 1: data[1], 14: data[2], 15: data[3]}
				e.Prefix = netip.PrefixFrom(netip.AddrFrom16(a), int(data[4])%129).Masked()
			}
			overlaps := false
			for _, o := range want {
				overlaps = overlaps || o.Prefix.Overlaps(e.Prefix)
			}
			if !overlaps {
				want = append(want, e)
			}
		}
		for _, e := range want {
			bounds = append(bounds, boundsOf(e)...)
		}
		if backwards {
			for i, j := 0, len(bounds)-1; i < j; i, j = i+1, j-1 {
				bounds[i], bounds[j] = bounds[j], bounds[i]
			}
		}
		got, err := elementsOf(bounds)
		byAddr := cmpopts.SortSlices(func(a, b Element) bool { return a.Prefix.Addr().Less(b.Prefix.Addr()) })
		if diff := cmp.Diff(want, got, equateAddrs, cmpopts.EquateEmpty(), byAddr); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}

// FuzzBounds reads intervals that a kernel might hold.
func FuzzBounds(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1, 0, 10, 0, 0, 7, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		var bounds []bound
		for ; len(data) >= 5; data = data[5:] {
			bounds = append(bounds, bound{addr: netip.AddrFrom4([4]byte(data)), end: data[4]&1 != 0})
		}
		elements, err := elementsOf(bounds)
		for _, e := range elements {
			if e.Prefix != e.Prefix.Masked() {
				t.Errorf("%v is not a masked prefix, %v", e.Prefix, err)
			}
		}
	})
}

// TestEndOfInterval has prefixes and the address after their last.
func TestEndOfInterval(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "11.0.0.0", "0.0.0.0/1": "128.0.0.0", "10.0.0.255/32": "10.0.1.0",
		"2001:db8::/32": "2001:db9::", "fd00::ffff/128": "fd00::1:0",
	} {
		bounds := boundsOf(Element{Prefix: netip.MustParsePrefix(text)})
		if len(bounds) != 2 || bounds[1].addr.String() != want || !bounds[1].end {
			t.Errorf("%s ends at %v, want %s", text, bounds[1:], want)
		}
	}
	for _, text := range []string{"0.0.0.0/0", "255.255.255.255/32", "240.0.0.0/4", "::/0", "ff00::/8"} {
		if bounds := boundsOf(Element{Prefix: netip.MustParsePrefix(text)}); len(bounds) != 1 {
			t.Errorf("%s ends at %v, want no end", text, bounds[1:])
		}
	}
}

// TestRangeIsNotAPrefix reads intervals that are not prefixes.
func TestRangeIsNotAPrefix(t *testing.T) {
	for _, ends := range [][2]string{{"192.0.2.1", "192.0.2.7"}, {"10.0.0.0", "10.0.0.3"}, {"fd00::1", "fd00::3"}} {
		first, end := netip.MustParseAddr(ends[0]), netip.MustParseAddr(ends[1])
		elements, err := elementsOf([]bound{{addr: end, end: true}, {addr: first}})
		if err == nil || !strings.Contains(err.Error(), first.String()+"-"+end.Prev().String()) {
			t.Errorf("%v to before %v: %v, %v, want an error with the range", first, end, elements, err)
		}
	}
}
