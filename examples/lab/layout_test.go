// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// TestOtherLayout restarts an agent with the other layout, and back, while its pods
// send traffic. No datagram may be lost, and no rule of the old layout may stay.
func TestOtherLayout(t *testing.T) {
	k := silent(testWorld(t, small(layoutFlat)))
	for _, step := range []func(context.Context) error{k.startAgents, k.addPods} {
		if err := step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	n := k.nodes[0]
	for _, layout := range []string{layoutPerPod, layoutFlat} {
		k.o.Layout = layout
		streams, err := k.openStreams(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.restartUnderLoad(t.Context(), streams); err != nil {
			t.Fatal(err)
		}
		for _, s := range streams {
			if s.lost() > 0 || s.sent == 0 {
				t.Errorf("to %s, %s: %d of %d datagrams lost", layout, s.name, s.lost(), s.sent)
			}
		}
		h, err := datapath.Open(n.ns.Path())
		if err != nil {
			t.Fatal(err)
		}
		have, err := h.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		single := slices.ContainsFunc(have.Rules, func(r netstate.Rule) bool {
			return r.Priority == 512 && r.To.IsValid()
		})
		if flat := strings.Contains(have.String(), "lookup 20000"); single == flat || flat != (layout == layoutFlat) {
			t.Errorf("layout %s: the node has rules of the flat layout: %t, rules of single pods: %t; want only those of %s:\n%s", layout, flat, single, layout, have)
		}
		if _, err := n.addPod(t.Context()); err != nil {
			t.Errorf("layout %s: %v", layout, err)
		}
	}
}
