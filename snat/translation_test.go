// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// TestTranslation reads the translation back from whole and damaged rules.
func TestTranslation(t *testing.T) {
	whole := Config{
		NodeAddrs: []netip.Addr{netip.MustParseAddr("10.0.0.10")}, PrimaryLink: "ens5", NodePort: true,
		VPC: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
	}
	want := Translation{
		Inside: whole.VPC, To: whole.NodeAddrs[0], Link: "ens5", Mark: 0x80, HostLinkPrefix: "eni",
	}
	flush := func(name string) func(*Ruleset) {
		return func(r *Ruleset) {
			for i := range r.table.Chains {
				if r.table.Chains[i].Name == name {
					r.table.Chains[i].Rules = nil
				}
			}
		}
	}
	for _, c := range []struct {
		name   string
		config func(*Config)
		damage func(*Ruleset)
		want   func(*Translation)
		none   bool
	}{
		{name: "whole"},
		{name: "ports", config: func(c *Config) { c.Ports = Ports{1024, 2047} }},
		{name: "returns", config: func(c *Config) { c.Returns = []Return{{"ens6", 1}} }},
		{name: "return with all bits", config: func(c *Config) { c.Returns = []Return{{"ens6", 0x7f}} }},
		{name: "another bit", config: func(c *Config) { c.Mark = 0x100 }, want: func(w *Translation) { w.Mark = 0x100 }},
		{name: "external", config: func(c *Config) { c.External = true }, none: true},
		{name: "nothing", damage: func(r *Ruleset) { *r = Ruleset{} }, none: true},
		{name: "no marks", damage: flush("pods"), want: func(w *Translation) { w.Mark, w.HostLinkPrefix = 0, "" }},
		{name: "mark of flows alone", damage: func(r *Ruleset) {
			for i, c := range r.table.Chains {
				if c.Name == "pods" {
					r.table.Chains[i].Rules = c.Rules[:1]
				}
			}
		}, want: func(w *Translation) { w.Mark, w.HostLinkPrefix = 0, "" }},
		{name: "mark of packets alone", damage: func(r *Ruleset) {
			for i, c := range r.table.Chains {
				if c.Name == "pods" {
					r.table.Chains[i].Rules = slices.Delete(slices.Clone(c.Rules), 0, 1)
				}
			}
		}, want: func(w *Translation) { w.Mark = 0 }},
		{name: "no translation", damage: flush("source"), want: func(w *Translation) { w.To, w.Link = netip.Addr{}, "" }},
		{name: "no destinations", damage: func(r *Ruleset) { r.table.Sets[0].Elements = nil }, want: func(w *Translation) { w.Inside = nil }},
		{name: "foreign rule", damage: func(r *Ruleset) {
			r.table.Chains = append(r.table.Chains, nft.Chain{Name: "x", Rules: []nft.Rule{nft.NewRule(nft.Foreign{Text: "quota"})}})
		}, want: func(w *Translation) { w.Odd = []string{"# quota"} }},
	} {
		cfg, want := whole, want
		if c.config != nil {
			c.config(&cfg)
		}
		r, err := cfg.Ruleset()
		if err != nil {
			t.Fatal(err)
		}
		if c.damage != nil {
			c.damage(&r)
		}
		if c.want != nil {
			c.want(&want)
		}
		got, ok := r.Translation()
		if ok == c.none {
			t.Errorf("%s: found %t, want %t", c.name, ok, !c.none)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" && !c.none {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
