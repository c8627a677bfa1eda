// SPDX-License-Identifier: Apache-2.0

//go:build linux

package iptables_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/snat/iptables"
)

// TestSave checks that Save returns the rules of other programs by variant, and that Restore
// changes those that its text names and no others.
func TestSave(t *testing.T) {
	for _, variant := range variants {
		t.Run(string(variant), func(t *testing.T) {
			ns := namespace(t)
			h := open(t, iptables.Config{Netns: ns.Path(), Variant: variant})
			for _, chain := range []string{"OTHER-A", "OTHER-B"} {
				if err := ns.Do(func() error { return exec.Command("iptables-"+string(variant), "-t", "nat", "-N", chain).Run() }); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := h.Apply(t.Context(), rules(t)); err != nil {
				t.Fatal(err)
			}
			before, err := h.Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Restore(t.Context(), variant, "*nat\n-F OTHER-A\n-X OTHER-A\nCOMMIT\n"); err != nil {
				t.Fatal(err)
			}
			saved, err := h.Save(t.Context())
			if text := saved[variant]; err != nil || strings.Contains(text, "OTHER-A") || !strings.Contains(text, ":OTHER-B ") {
				t.Errorf("%v, %v, want OTHER-B alone", saved, err)
			}
			if after, err := h.Observe(t.Context()); err != nil || !after.Equal(before) {
				t.Errorf("our chains: %v, %v, want\n%v", after, err, before)
			}
			if err := h.Restore(t.Context(), "other", ""); !errors.Is(err, iptables.ErrNoProgram) {
				t.Errorf("an unknown variant: %v, want ErrNoProgram", err)
			}
		})
	}
}
