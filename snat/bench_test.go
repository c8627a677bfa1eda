// SPDX-License-Identifier: Apache-2.0

//go:build linux

package snat_test

import (
	"testing"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/snat"
)

func BenchmarkRuleset(b *testing.B) {
	for b.Loop() {
		if _, err := configs["excluded"].Ruleset(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkApply applies the same ruleset repeatedly, and two rulesets in turn.
func BenchmarkApply(b *testing.B) {
	isolatetest.Require(b)
	for name, second := range map[string]snat.Config{"same": configs["default"], "other": configs["excluded"]} {
		b.Run(name, func(b *testing.B) {
			ns, err := fabric.CreateNetns("/run/netns/bench")
			if err != nil {
				b.Fatal(err)
			}
			defer ns.Delete()
			h, err := snat.Open(ns.Path())
			if err != nil {
				b.Fatal(err)
			}
			defer h.Close()
			var rules [2]snat.Ruleset
			for i, c := range []snat.Config{configs["default"], second} {
				if rules[i], err = c.Ruleset(); err != nil {
					b.Fatal(err)
				}
			}
			turn := 0
			for b.Loop() {
				if _, err := h.Apply(b.Context(), rules[turn%2]); err != nil {
					b.Fatal(err)
				}
				turn++
			}
		})
	}
}
