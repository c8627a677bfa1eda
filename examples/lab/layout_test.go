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
		// An agent that has addresses in its journal serves pods before it has changed the
		// node.
		ctx, cancel := context.WithTimeout(t.Context(), 3*k.patience)
		defer cancel()
		var have netstate.State
		err = poll(ctx, func() (bool, error) {
			have, err = n.observe(ctx)
			return layoutsOf(have) == layout, err
		})
		if err != nil {
			t.Errorf("the node has the rules of the layouts %q, want only those of %s: %v:\n%s", layoutsOf(have), layout, err, have)
		}
		if _, err := n.addPod(t.Context()); err != nil {
			t.Errorf("layout %s: %v", layout, err)
		}
	}
}

// layoutsOf returns the layouts that a node has rules of.
func layoutsOf(have netstate.State) string {
	var layouts []string
	if slices.ContainsFunc(have.Rules, func(r netstate.Rule) bool { return r.Priority == 512 && r.Table == datapath.TablePods }) {
		layouts = append(layouts, layoutFlat)
	}
	if slices.ContainsFunc(have.Rules, func(r netstate.Rule) bool { return r.Priority == 512 && r.To.IsValid() }) {
		layouts = append(layouts, layoutPerPod)
	}
	return strings.Join(layouts, ", ")
}
