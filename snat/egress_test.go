// SPDX-License-Identifier: Apache-2.0

//go:build linux

package snat_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/snat"
)

var equateAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// egress6 and egress4 are pods of both families with three ways to translate.
var (
	egress6 = []snat.Egress{
		{Pod: netip.MustParseAddr("fd00::ac:2"), Node: netip.MustParseAddr("2001:db8::10"), Random: snat.RandomPRNG},
		{Pod: netip.MustParseAddr("fd00::ac:3"), Node: netip.MustParseAddr("2001:db8::10"), Random: snat.RandomPRNG},
		{Pod: netip.MustParseAddr("fd00::ac:5"), Node: netip.MustParseAddr("2001:db8::11"), Random: snat.RandomNone},
	}
	egress4 = []snat.Egress{{Pod: netip.MustParseAddr("169.254.172.2"), Node: netip.MustParseAddr("10.0.1.10"), Random: snat.RandomHash}}
)

const egressText6 = `table inet vpcnet-egress-ip6 {
	map pods {
		type ipv6_addr : verdict
		flags interval
		elements = { fd00::ac:2 : jump to-2001-db8--10-prng,
			     fd00::ac:3 : jump to-2001-db8--10-prng,
			     fd00::ac:5 : jump to-2001-db8--11-none }
	}

	map inward {
		type ipv6_addr : verdict
		flags interval
		elements = { fd00::ac:2 : jump refuse,
			     fd00::ac:3 : jump refuse,
			     fd00::ac:5 : jump refuse }
	}

	set multicast {
		type ipv6_addr
		flags interval
		elements = { ff00::/8 }
	}

	chain links {
		type filter hook prerouting priority dstnat + 10; policy accept;
		iifname "eg6*" jump from-pod
		ip6 daddr vmap @inward
	}

	chain from-pod {
		icmpv6 type nd-router-advert drop
		fib saddr . iif oif missing drop
	}

	chain refuse {
		ct state new reject
	}

	chain source {
		type nat hook postrouting priority srcnat + 5; policy accept;
		ip6 saddr vmap @pods
	}

	chain to-2001-db8--10-prng {
		ip6 daddr != @multicast counter snat ip6 to 2001:db8::10 fully-random
	}

	chain to-2001-db8--11-none {
		ip6 daddr != @multicast counter snat ip6 to 2001:db8::11
	}
}
`

// listEgress returns a table as the nft program prints it, without counts. The first line
// has the number of the table, which a table that is made again does not keep.
func listEgress(t *testing.T, ns *fabric.Netns, table string) string {
	t.Helper()
	return tool(t, ns, "", "nft", "-s", "-a", "list", "table", "inet", table)
}

func observeEgress(t *testing.T, h *snat.Handle) snat.EgressState {
	t.Helper()
	s, err := h.ObserveEgress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func addEgress(t *testing.T, h *snat.Handle, wantChanged bool, pods ...snat.Egress) {
	t.Helper()
	changed, err := h.Egress(t.Context(), pods...)
	if err != nil || changed != wantChanged {
		t.Fatalf("Egress(%v): %v, %v, want %v", pods, changed, err, wantChanged)
	}
}

// TestEgress adds pods one after the other, reads them, and deletes them. No step makes the
// table again, and the last one deletes it.
func TestEgress(t *testing.T) {
	ns, h := namespace(t)
	addEgress(t, h, true, egress6[2])
	number, _, _ := strings.Cut(listEgress(t, ns, "vpcnet-egress-ip6"), "\n")
	for _, p := range slices.Concat(egress6[:2], egress4) {
		addEgress(t, h, true, p)
	}
	addEgress(t, h, false, slices.Concat(egress4, egress6)...)
	if diff := cmp.Diff(snat.EgressState{Pods: slices.Concat(egress4, egress6)}, observeEgress(t, h), equateAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	text := tool(t, ns, "", "nft", "-s", "list", "table", "inet", "vpcnet-egress-ip6")
	sorted := func(s string) []string { return slices.Sorted(slices.Values(strings.Split(s, "\n"))) }
	if diff := cmp.Diff(sorted(egressText6), sorted(text)); diff != "" {
		t.Errorf("the program nft lists other lines (-want +got):\n%s", diff)
	}
	moved := egress6[2]
	moved.Node = egress6[0].Node
	addEgress(t, h, true, moved)
	if err := h.PruneEgress(t.Context(), func(e snat.Egress) bool { return e.Pod == egress6[1].Pod }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(snat.EgressState{Pods: egress6[1:2]}, observeEgress(t, h), equateAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again, _, _ := strings.Cut(listEgress(t, ns, "vpcnet-egress-ip6"), "\n"); again != number {
		t.Errorf("%s, want %s: the table was made again", again, number)
	}
	if err := h.PruneEgress(t.Context(), func(snat.Egress) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if left := tool(t, ns, "", "nft", "list", "ruleset"); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// TestEgressDamage lets another program change the table. ObserveEgress names the change, and
// Egress repairs it.
func TestEgressDamage(t *testing.T) {
	ns, h := namespace(t)
	addEgress(t, h, true, egress6...)
	want := observeEgress(t, h)
	for script, odd := range map[string]string{
		"flush ruleset": "",
		"flush chain inet vpcnet-egress-ip6 source":                                              "chain source: deleted rule",
		"flush chain inet vpcnet-egress-ip6 to-2001-db8--10-prng":                                "",
		"flush chain inet vpcnet-egress-ip6 refuse":                                              "chain refuse: deleted rule",
		"insert rule inet vpcnet-egress-ip6 source accept":                                       "chain source: added rule",
		"delete element inet vpcnet-egress-ip6 pods { fd00::ac:3 }":                              "set inward: added fd00::ac:3",
		"delete element inet vpcnet-egress-ip6 inward { fd00::ac:3 }":                            "set inward: deleted fd00::ac:3",
		"add element inet vpcnet-egress-ip6 multicast { 2001:db8::/32 }":                         "set multicast: added 2001:db8::/32",
		"add chain inet vpcnet-egress-ip6 x { type filter hook input priority 0; policy drop; }": "chain x added",
	} {
		tool(t, ns, script, "nft", "-f", "-")
		got := observeEgress(t, h)
		if text := strings.Join(got.Odd, "\n"); !strings.Contains(text, odd) || cmp.Equal(want, got, equateAddrs) {
			t.Errorf("%s: %+v, want %q", script, got, odd)
		}
		addEgress(t, h, true, egress6...)
		if diff := cmp.Diff(want, observeEgress(t, h), equateAddrs); diff != "" {
			t.Errorf("%s: not repaired (-want +got):\n%s", script, diff)
		}
	}
}

func TestEgressInvalid(t *testing.T) {
	_, h := namespace(t)
	for _, p := range []snat.Egress{
		{},
		{Pod: egress6[0].Pod},
		{Pod: egress6[0].Pod, Node: egress4[0].Node},
		{Pod: netip.MustParseAddr("::ffff:10.0.0.1"), Node: egress6[0].Node},
		{Pod: egress6[0].Pod, Node: egress6[0].Node, Random: "fair"},
	} {
		if _, err := h.Egress(t.Context(), p); err == nil {
			t.Errorf("%+v: no error", p)
		}
	}
	if got := observeEgress(t, h); len(got.Pods)+len(got.Odd) != 0 {
		t.Errorf("%+v, want nothing", got)
	}
}
