// SPDX-License-Identifier: Apache-2.0

package nft_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/nft"
)

// list returns the table "ours" as the nft program prints it.
func list(t *testing.T, ns *fabric.Netns) string {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("needs the program nft: %v", err)
	}
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), "nft", "-s", "list", "table", "inet", "ours")
	cmd.Stdout, cmd.Stderr = &out, &out
	err := ns.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, &out)
	}
	return out.String()
}

func replace(t testing.TB, s *nft.Socket, table nft.Table) {
	t.Helper()
	if err := s.Change(nft.Table{}, table); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, s *nft.Socket) nft.Table {
	t.Helper()
	table, err := s.Table(t.Context(), "ours")
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// everything is a table with every statement that rules can have.
func everything() nft.Table {
	return nft.Table{
		Name: "ours",
		Sets: []nft.Set{
			{Name: "four", Family: nft.IPv4, Elements: []nft.Element{
				{Prefix: prefix("10.0.0.0/8")}, {Prefix: prefix("192.0.2.1/32")}, {Prefix: prefix("192.0.2.2/31")}, {Prefix: prefix("240.0.0.0/4")},
			}},
			{Name: "six", Family: nft.IPv6},
			{Name: "jumps4", Family: nft.IPv4, IsMap: true, Elements: []nft.Element{
				{Prefix: prefix("10.0.0.16/28"), Chain: "other"}, {Prefix: prefix("10.0.0.32/28"), Chain: "last"},
			}},
			{Name: "jumps6", Family: nft.IPv6, IsMap: true, Elements: []nft.Element{{Prefix: prefix("2001:db8::/80"), Chain: "other"}}},
			{Name: "exact4", Family: nft.IPv4, Kind: nft.Addrs, IsMap: true, Elements: []nft.Element{{Prefix: prefix("10.0.0.1/32"), Chain: "other"}}},
			{Name: "exact6", Family: nft.IPv6, Kind: nft.Addrs, Elements: []nft.Element{{Prefix: prefix("2001:db8::1/128")}}},
			{Name: "selves4", Family: nft.IPv4, Kind: nft.Selves, Elements: []nft.Element{{Prefix: prefix("10.0.0.1/32")}}},
			{Name: "selves6", Family: nft.IPv6, Kind: nft.Selves, Elements: []nft.Element{{Prefix: prefix("2001:db8::1/128")}}},
			{Name: "boxes4", Family: nft.IPv4, Kind: nft.Boxes, Elements: []nft.Element{
				{Box: nft.Box{First: addr("0.0.0.0"), Last: addr("9.255.255.255"), LastProtocol: 255, LastPort: 65535}},
				{Box: nft.Box{First: addr("10.0.0.0"), Last: addr("10.0.0.255"), FirstProtocol: 6, LastProtocol: 6, FirstPort: 80, LastPort: 81}},
				{Box: nft.Box{First: addr("10.0.0.0"), Last: addr("10.0.0.255"), FirstProtocol: 7, LastProtocol: 16, LastPort: 65535}},
				{Box: nft.Box{First: addr("11.0.0.1"), Last: addr("11.0.0.1"), FirstProtocol: 132, LastProtocol: 132, FirstPort: 7, LastPort: 7}},
			}},
			{Name: "boxes6", Family: nft.IPv6, Kind: nft.Boxes, Elements: []nft.Element{
				{Box: nft.Box{First: addr("::"), Last: addr("2001::ffff"), FirstProtocol: 58, LastProtocol: 58, LastPort: 65535}},
			}},
			{Name: "links", Kind: nft.Links, Elements: []nft.Element{{Link: "ens5"}, {Link: "ens6"}}},
		},
		Chains: []nft.Chain{
			{
				Name: "first", Type: nft.TypeFilter, Hook: nft.HookPrerouting, Priority: -90,
				Rules: []nft.Rule{
					{
						Statements: []nft.Statement{nft.Link{Name: "eni*"}, nft.NewFlow{}, nft.LocalAddr{Not: true}, nft.SetCtMark{Mask: 0x80, Value: 0x80}},
						Comment:    "with a comment",
					},
					nft.NewRule(nft.Link{Name: "ens5"}, nft.Reply{}, nft.CtMark{Mask: 0x7f, Not: true}, nft.SetCtMark{Mask: 0x7f, Value: 1}),
					nft.NewRule(nft.CtMark{Mask: 0x80, Value: 0x80}, nft.SetMark{Mask: 0x80, Value: 0x80}, nft.SetMark{Mask: 0x7f, Value: 3}),
					nft.NewRule(nft.NoReverseRoute{}, nft.Drop{}),
					nft.NewRule(nft.RouterAdvert{}, nft.Drop{}),
					nft.NewRule(nft.Destination{Addr: addr("169.254.169.254")}, nft.Reject{}),
					nft.NewRule(nft.Destination{Addr: addr("fd00:ec2::254")}, nft.Reject{}),
					nft.NewRule(nft.Link{Name: "ens6"}, nft.Reject{}),
					nft.NewRule(nft.SourceMap{Family: nft.IPv4, Map: "jumps4"}),
					nft.NewRule(nft.SourceMap{Family: nft.IPv6, Map: "jumps6"}),
					nft.NewRule(nft.DestinationMap{Family: nft.IPv4, Map: "jumps4"}),
					nft.NewRule(nft.DestinationMap{Family: nft.IPv6, Map: "jumps6"}),
					nft.NewRule(nft.DestinationNotIn{Family: nft.IPv6, Set: "six"}, nft.Jump{Chain: "last"}),
				},
			},
			{
				Name: "through", Type: nft.TypeFilter, Hook: nft.HookForward, Priority: nft.PriorityFilter,
				Rules: []nft.Rule{
					nft.NewRule(nft.Related{}, nft.Accept{}),
					nft.NewRule(nft.Reply{}, nft.Goto{Chain: "other"}),
					nft.NewRule(nft.SourceMap{Family: nft.IPv4, Map: "exact4"}),
					nft.NewRule(nft.InBoxes{Family: nft.IPv4, Set: "boxes4"}, nft.Return{}),
					nft.NewRule(nft.InBoxes{Family: nft.IPv4, Dst: true, Set: "boxes4"}, nft.Return{}),
					nft.NewRule(nft.InBoxes{Family: nft.IPv6, SourcePort: true, Set: "boxes6"}, nft.Return{}),
					nft.NewRule(nft.InBoxes{Family: nft.IPv6, Dst: true, SourcePort: true, Set: "boxes6"}, nft.Return{}),
					nft.NewRule(nft.Self{Family: nft.IPv4, Set: "selves4"}, nft.Return{}),
					nft.NewRule(nft.Self{Family: nft.IPv6, Set: "selves6"}, nft.Return{}),
					nft.NewRule(nft.LinkIn{Set: "links"}, nft.LinkIn{Out: true, Set: "links"}, nft.Established{}, nft.Counter{}),
					nft.NewRule(nft.Limit{PerSecond: 7}, nft.Log{Prefix: "denied: ", Group: 118}),
				},
			},
			{Name: "other", Rules: []nft.Rule{nft.NewRule(nft.Counter{}, nft.Return{})}},
			{Name: "last", Rules: []nft.Rule{nft.NewRule(nft.Accept{})}},
			{
				Name: "source", Type: nft.TypeNAT, Hook: nft.HookPostrouting, Priority: 110,
				Rules: []nft.Rule{
					nft.NewRule(
						nft.Link{Out: true, Name: "ens5"}, nft.DestinationNotIn{Family: nft.IPv4, Set: "four"}, nft.LocalAddr{Source: true, Not: true},
						nft.TCP, nft.SourceNAT{To: addr("10.0.1.10"), First: 1024, Last: 2047, Choice: nft.PortRandom}),
					nft.NewRule(nft.UDP, nft.SourceNAT{To: addr("10.0.1.10"), Choice: nft.PortHash}),
					nft.NewRule(nft.SourceNAT{To: addr("10.0.1.10")}),
					nft.NewRule(nft.TCP, nft.SourceNAT{To: addr("2001:db8::10"), First: 1024, Last: 2047, Choice: nft.PortRandom}),
					nft.NewRule(nft.SourceNAT{To: addr("2001:db8::10"), Choice: nft.PortHash}),
				},
			},
		},
	}
}

// TestEverything writes a table with every statement, and compares it with the
// kernel's content, with the listing of the nft program, and with the table that nft
// makes of the text.
func TestEverything(t *testing.T) {
	ns, s, _ := monitored(t)
	want := everything()
	replace(t, s, want)
	opts := cmp.Comparer(func(a, b nft.Table) bool { return a.Equal(b) })
	if diff := cmp.Diff(want, read(t, s), opts); diff != "" {
		t.Errorf("read back (-want +got):\n%s", cmp.Diff(want.String(), read(t, s).String()))
	}
	if diff := cmp.Diff(strings.Fields(want.String()), strings.Fields(list(t, ns))); diff != "" {
		t.Errorf("listed by nft (-want +got):\n%s", diff)
	}
	replace(t, s, nft.Table{Name: "ours"})
	if got := read(t, s); !got.IsEmpty() {
		t.Errorf("after deletion:\n%s", got)
	}
	run(t, ns, want.String())
	if got := read(t, s); !got.Equal(want) {
		t.Errorf("loaded by nft (-want +got):\n%s", cmp.Diff(want.String(), got.String()))
	}
}

// TestDirection holds two forms of a match of the direction against the listing of the
// nft program. The library encodes the field Direction in four bytes, of which the
// kernel reads the first: 1 becomes 0, which is the original direction.
func TestDirection(t *testing.T) {
	ns, s, _ := monitored(t)
	replace(t, s, nft.Table{Name: "ours", Chains: []nft.Chain{{Name: "c", Rules: []nft.Rule{nft.NewRule(nft.Reply{}, nft.Accept{})}}}})
	if got := list(t, ns); !strings.Contains(got, "ct direction reply accept") {
		t.Errorf("nft lists\n%s", got)
	}
	err := s.Do(func(c *nftables.Conn) error {
		table := &nftables.Table{Name: "ours", Family: nftables.TableFamilyINet}
		c.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "c", Table: table}, Exprs: []expr.Any{
			&expr.Ct{Key: expr.CtKeyPROTODST, Direction: 1, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 80}},
		}})
		return c.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, ns); !strings.Contains(got, "ct original proto-dst") {
		t.Errorf("the library's field Direction works now; nft lists\n%s", got)
	}
	if got := read(t, s).Chains[0].Rules[1].String(); got != "# ct cmp" {
		t.Errorf("a match that this package does not know reads as %q", got)
	}
}

// TestForeign has another program change a table of this package: its parts show, and
// the table is not equal to the one before.
func TestForeign(t *testing.T) {
	ns, s, _ := monitored(t)
	for script, want := range map[string]string{
		"add rule inet ours last quota over 10 bytes":                                 "\t\t# quota\n",
		"add rule inet ours last iifname \"ens5\" quota over 1 bytes accept":          "\t\tiifname \"ens5\" # quota accept\n",
		"add rule inet ours last socket transparent 1 accept":                         "\t\t# socket cmp accept\n",
		"add rule inet ours last ct original ip saddr 10.0.0.1 drop":                  "# ",
		"add rule inet ours last meta mark set meta mark ^ 0x80":                      "\t\t# meta bitwise meta\n",
		"add rule inet ours last continue":                                            "\t\t# verdict\n",
		"add rule inet ours last ip saddr . ip daddr . meta l4proto @triples":         "\t\t# meta cmp payload payload meta lookup\n",
		"add rule inet ours last limit rate over 3/second drop":                       "\t\t# limit drop\n",
		"add rule inet ours last limit rate 3/minute":                                 "\t\t# limit\n",
		"add rule inet ours last log level warn":                                      "\t\t# log\n",
		"add element inet ours selves4 { 10.0.0.1 . 10.0.0.2 }":                       "\t\t# has a pair of different addresses\n",
		"add rule inet ours last ip saddr 10.0.0.1":                                   "\t\t# meta cmp payload cmp\n",
		"add rule inet ours last ip daddr 10.0.0.1 reject with icmp host-unreachable": "\t\tip daddr 10.0.0.1 # reject\n",
		"add rule inet ours last reject with tcp reset":                               "\t\tmeta l4proto tcp # reject\n",
		"add rule inet ours last meta l4proto sctp":                                   "\t\t# meta cmp\n",
		"add element inet ours four { 192.0.2.9-192.0.2.14 }":                         "\t\t# has the range 192.0.2.9-192.0.2.14, which is not a prefix\n",
		"add element inet ours jumps4 { 10.0.0.99 : drop }":                           "\t\t# has a verdict for 10.0.0.99 that is not a jump\n",
		"add set inet ours extra { type inet_service; }":                              "\tset extra {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\t# of another type\n",
		"add set inet ours extra { type ipv4_addr . inet_service; }":                  "\t\t# of another type\n",
		"add set inet ours extra { type ipv4_addr; flags timeout; }":                  "\t\t# of another type\n",
		"add map inet ours extra { type ipv4_addr : mark; flags interval; }":          "\t\t# of another type\n",
		"add chain inet ours source { policy drop; }":                                 "\t\t# policy drop\n",
		"add chain inet ours extra { type filter hook input priority 0; }":            "\t\t# on another hook\n",
		"add table inet ours { flags dormant; }":                                      "\t# the table has flags 0x1\n",
	} {
		before := everything()
		replace(t, s, before)
		if strings.Contains(script, "@triples") {
			script = "add set inet ours triples { type ipv4_addr . ipv4_addr . inet_proto; }\n" + script
		}
		run(t, ns, script)
		after := read(t, s)
		if after.Equal(before) || !strings.Contains(after.String(), want) {
			t.Errorf("%s: want a table with %q, got\n%s", script, want, after)
		}
		replace(t, s, before)
		if got := read(t, s); !got.Equal(before) {
			t.Errorf("%s: not repaired:\n%s", script, got)
		}
	}
}

// TestForeignIsNotWritten: a rule with a part that is not known is an error, and the
// transaction does not happen.
func TestForeignIsNotWritten(t *testing.T) {
	s := socket(t)
	for _, rule := range []nft.Rule{nft.ParseRule("tcp dport 80 drop"), nft.NewRule(nft.Foreign{Text: "quota"})} {
		err := s.Change(nft.Table{}, nft.Table{Name: "ours", Chains: []nft.Chain{{Name: "c", Rules: []nft.Rule{rule}}}})
		if !errors.Is(err, nft.ErrForeign) {
			t.Errorf("%s: %v, want ErrForeign", rule, err)
		}
	}
	err := s.Change(nft.Table{}, nft.Table{Name: "ours", Chains: []nft.Chain{{Name: "c", Type: nft.TypeFilter, Hook: "input"}}})
	if err == nil {
		t.Error("a chain on an unknown hook is written")
	}
	if got := read(t, s); !got.IsEmpty() {
		t.Errorf("something was written:\n%s", got)
	}
}

// large returns a table with n elements in one set or map.
func large(n int, family nft.Family, isMap, boxes bool) nft.Table {
	set := nft.Set{Name: "large", Family: family, IsMap: isMap}
	if boxes {
		set.Kind = nft.Boxes
	}
	for i := range n {
		// Every other address, so that no interval ends where the next begins.
		a := netip.AddrFrom4([4]byte{10, byte(i >> 15), byte(i >> 7), byte(i << 1)})
		if family == nft.IPv6 {
			a = netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 11: 1, 13: byte(i >> 15), 14: byte(i >> 7), 15: byte(i << 1)})
		}
		e := nft.Element{Prefix: netip.PrefixFrom(a, a.BitLen())}
		if boxes {
			e = nft.Element{Box: nft.Box{First: a, Last: a.Next(), FirstProtocol: 6, LastProtocol: 6, FirstPort: 80, LastPort: 90}}
		}
		if isMap {
			e.Chain = "eni-1"
		}
		set.Elements = append(set.Elements, e)
	}
	return nft.Table{Name: "ours", Sets: []nft.Set{set}, Chains: []nft.Chain{{Name: "eni-1"}}}
}

// TestLarge replaces a table with 100,000 elements in one transaction, and deletes half
// of them. The kernel limits the transaction of an ordinary user by net.core.wmem_max.
// There the test checks that the error says so, and goes on with as many as fit.
func TestLarge(t *testing.T) {
	for _, tt := range []struct {
		family       nft.Family
		isMap, boxes bool
	}{
		{family: nft.IPv4},
		{family: nft.IPv6},
		{family: nft.IPv4, isMap: true},
		{family: nft.IPv6, isMap: true},
		{family: nft.IPv4, boxes: true},
		{family: nft.IPv6, boxes: true},
	} {
		t.Run(fmt.Sprintf("%s map=%v boxes=%v", tt.family, tt.isMap, tt.boxes), func(t *testing.T) {
			s := socket(t)
			n := 100_000
			want := large(n, tt.family, tt.isMap, tt.boxes)
			err := s.Change(nft.Table{}, want)
			for errors.Is(err, nft.ErrTooLarge) && n > 3_000 {
				if !strings.Contains(err.Error(), "net.core.wmem_max") {
					t.Fatalf("error %q, want the name of the setting in it", err)
				}
				if os.Getuid() == 0 && ownsMachine(t) {
					t.Fatalf("%d elements with all privileges: %v", n, err)
				}
				n /= 2
				want = large(n, tt.family, tt.isMap, tt.boxes)
				err = s.Change(nft.Table{}, want)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, s); !got.Equal(want) {
				t.Fatalf("%d elements, want %d", len(got.Sets[0].Elements), len(want.Sets[0].Elements))
			}
			deleted := n / 2
			if tt.boxes {
				deleted = 100 // the kernel looks at all boxes for each
			}
			half := want.Sets[0]
			half.Elements = half.Elements[:deleted]
			err = s.Update(func(tx *nft.Tx) error { return tx.DeleteElements("ours", half) })
			want.Sets[0].Elements = slices.Clone(want.Sets[0].Elements[deleted:])
			if got := read(t, s); err != nil || !got.Equal(want) {
				t.Fatalf("%v, %d elements, want %d", err, len(got.Sets[0].Elements), len(want.Sets[0].Elements))
			}
		})
	}
}

// ownsMachine reports whether the test runs in the machine's first user namespace, which
// maps each user to itself.
func ownsMachine(t *testing.T) bool {
	t.Helper()
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return slices.Equal(strings.Fields(string(data)), []string{"0", "0", "4294967295"})
}
