// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
	"github.com/vpcnet/vpcnet/datapath/policy"
)

func compiled(t testing.TB, c policy.Class) policy.Compiled {
	t.Helper()
	x, err := policy.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func allow(rules ...policy.Rule) policy.Rules { return policy.Rules{Isolated: true, Allow: rules} }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// examples are states by name.
func examples(t testing.TB) map[string]policy.State {
	deny := compiled(t, policy.Class{Ingress: allow(), Egress: allow()})
	web := compiled(t, policy.Class{Ingress: allow(
		policy.Rule{Name: "clients", Peers: []policy.Block{block("10.0.1.0/24", "10.0.1.7/32"), block("fd00::/64")}, Ports: []policy.Ports{{Protocol: policy.TCP, First: 80, Last: 81}}},
		policy.Rule{Name: "monitor", Peers: []policy.Block{block("10.0.9.9/32")}, Ports: []policy.Ports{{}}},
	)})
	dns := compiled(t, policy.Class{Egress: allow(policy.Rule{Name: "dns", Peers: []policy.Block{block("10.0.0.2/32")}, Ports: []policy.Ports{{Protocol: policy.UDP, First: 53}, {Protocol: policy.TCP, First: 53}}})})
	return map[string]policy.State{
		"empty": {},
		"deny":  {Classes: map[string]policy.Compiled{"deny": deny}, Pods: map[netip.Addr]string{addr("10.0.2.2"): "deny", addr("fd00::2"): "deny"}},
		"two": {
			Classes: map[string]policy.Compiled{"team/web": web, "dns": dns},
			Pods:    map[netip.Addr]string{addr("10.0.2.2"): "team/web", addr("fd00::2"): "team/web", addr("10.0.2.3"): "dns", addr("10.0.2.4"): ""},
		},
		"logged": {Classes: map[string]policy.Compiled{"dns": dns}, Pods: map[netip.Addr]string{addr("10.0.2.3"): "dns"}, LogLimit: 10},
	}
}

// TestGolden compares the text of states, and of the differences between them.
func TestGolden(t *testing.T) {
	all := examples(t)
	for name, s := range all {
		datapathtest.Golden(t, name, s.String())
	}
	datapathtest.Golden(t, "deny-to-two", policy.Diff(all["deny"], all["two"]))
	datapathtest.Golden(t, "two-to-deny", policy.Diff(all["two"], all["deny"]))
	for name, s := range all {
		if d := policy.Diff(s, s); d != "" {
			t.Errorf("%s to itself:\n%s", name, d)
		}
	}
}

// TestStateOf reads states back from their tables.
func TestStateOf(t *testing.T) {
	for name, s := range examples(t) {
		got, ours := policy.StateOf(s, false)
		if !ours || policy.Diff(got, s) != "" {
			t.Errorf("%s: ours %t, differs by\n%s", name, ours, policy.Diff(got, s))
		}
		if _, ours := policy.StateOf(s, true); ours {
			t.Errorf("%s: without its first chain it is still a table of this package", name)
		}
	}
}

// TestDecisions judges flows between pods of different classes.
func TestDecisions(t *testing.T) {
	s := examples(t)["two"]
	for f, want := range map[policy.Flow]policy.Decision{
		{addr("10.0.1.8"), addr("10.0.2.2"), policy.TCP, 80}: {Allowed: true, Ingress: "10.0.1.8-10.0.1.255 . tcp . 80-81"},
		{addr("10.0.1.7"), addr("10.0.2.2"), policy.TCP, 80}: {Class: "team/web", Direction: policy.Ingress},
		{addr("10.0.2.3"), addr("10.0.2.2"), policy.TCP, 80}: {Class: "dns", Direction: policy.Egress},
		{addr("10.0.2.3"), addr("10.0.0.2"), policy.UDP, 53}: {Allowed: true, Egress: "10.0.0.2 . udp . 53"},
		{addr("10.0.2.2"), addr("8.8.8.8"), policy.ICMP, 0}:  {Allowed: true},
		{addr("10.0.2.3"), addr("10.0.2.3"), policy.TCP, 80}: {Allowed: true},
		{addr("fd00::9"), addr("fd00::2"), policy.TCP, 81}:   {Allowed: true, Ingress: "fd00::/64 . tcp . 80-81"},
		{addr("fd00::9"), addr("fd00::2"), policy.TCP, 82}:   {Class: "team/web", Direction: policy.Ingress},
	} {
		if got := s.Judge(f); got != want {
			t.Errorf("%+v: %+v, want %+v", f, got, want)
		}
	}
}

// TestInvalidStates validates states that the kernel cannot have.
func TestInvalidStates(t *testing.T) {
	one := map[string]policy.Compiled{"a": {}}
	for name, s := range map[string]policy.State{
		"no name":       {Classes: map[string]policy.Compiled{"": {}}},
		"long name":     {Classes: map[string]policy.Compiled{strings.Repeat("a", 201): {}}},
		"space":         {Classes: map[string]policy.Compiled{"a b": {}}},
		"unknown class": {Classes: one, Pods: map[netip.Addr]string{addr("10.0.0.1"): "b"}},
		"mapped":        {Classes: one, Pods: map[netip.Addr]string{addr("::ffff:10.0.0.1"): "a"}},
		"zone":          {Classes: one, Pods: map[netip.Addr]string{addr("fe80::1%eth0"): "a"}},
		"no address":    {Classes: one, Pods: map[netip.Addr]string{{}: "a"}},
	} {
		if err := policy.Validate(s); !errors.Is(err, policy.ErrInvalid) {
			t.Errorf("%s: %v, want %v", name, err, policy.ErrInvalid)
		}
	}
}

func block(prefix string, except ...string) policy.Block {
	var b policy.Block
	if prefix != "" {
		b.Prefix = netip.MustParsePrefix(prefix)
	}
	for _, e := range except {
		b.Except = append(b.Except, netip.MustParsePrefix(e))
	}
	return b
}
