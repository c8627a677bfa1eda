// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/ipam"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func minutes(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }

// summary returns a change as text.
func (c change) summary() (out []string) {
	for _, e := range c.links {
		out = append(out, fmt.Sprint("link ", e.ID, " ", e.Blocks))
	}
	for _, e := range c.foreign {
		out = append(out, "foreign "+e.ID)
	}
	for _, p := range c.removeBlocks {
		out = append(out, fmt.Sprint("remove ", p))
	}
	for _, id := range c.removeENIs {
		out = append(out, "remove "+id)
	}
	for _, p := range c.doubt {
		out = append(out, fmt.Sprint("doubt ", p))
	}
	for _, p := range c.trust {
		out = append(out, fmt.Sprint("trust ", p))
	}
	return out
}

func TestReconcile(t *testing.T) {
	p1, p2 := netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.0.0.2/32")
	block := func(p netip.Prefix, since time.Time, used int) ipam.BlockView {
		return ipam.BlockView{Block: ipam.Block{Prefix: p, ENI: "eni-1"}, Since: since, Used: used}
	}
	doubted := block(p1, minutes(-9), 1)
	doubted.Doubted = true
	view := func(removed map[string]time.Time, blocks ...ipam.BlockView) ipam.View {
		return ipam.View{At: noon, Removed: removed, ENIs: []ipam.ENIView{{ENI: ipam.ENI{ID: "eni-1"}, Since: minutes(-9), Blocks: blocks}}}
	}
	seen := func(blocks ...netip.Prefix) []ENI { return []ENI{{ID: "eni-1", Blocks: blocks}} }
	tests := []struct {
		name string
		view ipam.View
		enis []ENI
		lag  time.Duration
		want []string
	}{
		{"agreement", view(nil, block(p1, minutes(-9), 1)), seen(p1), 0, []string{"link eni-1 [10.0.0.1/32]"}},
		{"new block", view(nil), seen(p1), 0, []string{"link eni-1 [10.0.0.1/32]"}},
		{"new ENI", ipam.View{At: noon}, seen(p1), 0, []string{"link eni-1 [10.0.0.1/32]"}},
		{"block removed since", view(map[string]time.Time{p1.String(): minutes(-1)}), seen(p1, p2), 2 * time.Minute, []string{"link eni-1 [10.0.0.2/32]"}},
		{"block removed and back", view(map[string]time.Time{p1.String(): minutes(-3)}), seen(p1), 2 * time.Minute, []string{"link eni-1 [10.0.0.1/32]"}},
		{"ENI removed since", ipam.View{At: noon, Removed: map[string]time.Time{"eni-1": minutes(-1)}}, seen(p1), 2 * time.Minute, nil},
		{"block too new to be seen", view(nil, block(p1, minutes(-1), 0)), seen(), 2 * time.Minute, []string{"link eni-1 [10.0.0.1/32]"}},
		{"idle block is gone", view(nil, block(p1, minutes(-3), 0)), seen(), 2 * time.Minute, []string{"link eni-1 []", "remove 10.0.0.1/32"}},
		{"used block is gone", view(nil, block(p1, minutes(-3), 1)), seen(), 2 * time.Minute, []string{"link eni-1 [10.0.0.1/32]", "doubt 10.0.0.1/32"}},
		{"doubted block is back", view(nil, doubted), seen(p1), 0, []string{"link eni-1 [10.0.0.1/32]", "trust 10.0.0.1/32"}},
		{"doubted block is still gone", view(nil, doubted), seen(), 0, []string{"link eni-1 [10.0.0.1/32]"}},
		{"ENI too new to be seen", view(nil, block(p1, minutes(-9), 1)), nil, 10 * time.Minute, nil},
		{"idle ENI is gone", view(nil, block(p1, minutes(-9), 0)), nil, 0, []string{"remove eni-1"}},
		{"used ENI is gone", view(nil, block(p1, minutes(-9), 1), block(p2, minutes(-9), 0)), nil, 0, []string{"doubt 10.0.0.1/32", "doubt 10.0.0.2/32"}},
		{"not for pods", ipam.View{At: noon}, []ENI{{ID: "eni-9", NoPods: true, Blocks: []netip.Prefix{p1}}}, 0, []string{"foreign eni-9"}},
		{"block on two ENIs", view(nil, block(p1, minutes(-9), 1)), append(seen(p1), ENI{ID: "eni-2", Blocks: []netip.Prefix{p1}}), 0, []string{"link eni-1 [10.0.0.1/32]", "link eni-2 []"}},
	}
	for _, tt := range tests {
		got := reconcile(tt.view, Observation{ENIs: tt.enis, At: noon, Lag: tt.lag, Source: "test"}).summary()
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestReconcileRemovesNothingInUse: whatever is observed, blocks with used or
// cooling addresses and their ENIs are not removed, and stay on their link.
func TestReconcileRemovesNothingInUse(t *testing.T) {
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 4))
		v, o := ipam.View{At: noon, Removed: map[string]time.Time{}}, Observation{At: minutes(-r.IntN(3)), Lag: time.Duration(r.IntN(5)) * time.Minute}
		for n := range 4 {
			id := fmt.Sprint("eni-", n)
			known, seen := ipam.ENIView{ENI: ipam.ENI{ID: id}, Since: minutes(-r.IntN(8))}, ENI{ID: id, NoPods: r.IntN(8) == 0}
			for i := range 4 {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n), byte(i)}), 32)
				if r.IntN(2) == 0 {
					known.Blocks = append(known.Blocks, ipam.BlockView{
						Block: ipam.Block{Prefix: p, ENI: id}, Since: minutes(-r.IntN(8)), Used: r.IntN(2), Cooling: r.IntN(2), Doubted: r.IntN(3) == 0,
					})
				}
				if r.IntN(2) == 0 {
					seen.Blocks = append(seen.Blocks, p)
				}
			}
			if r.IntN(4) > 0 {
				v.ENIs = append(v.ENIs, known)
			}
			if r.IntN(4) > 0 {
				o.ENIs = append(o.ENIs, seen)
			}
		}
		c := reconcile(v, o)
		for _, n := range v.ENIs {
			for _, b := range n.Blocks {
				if b.Used+b.Cooling == 0 {
					continue
				}
				if slices.Contains(c.removeBlocks, b.Prefix) || slices.Contains(c.removeENIs, n.ID) {
					t.Fatalf("seed %d: %v is removed although it is in use", seed, b.Prefix)
				}
				i := slices.IndexFunc(c.links, func(e ENI) bool { return e.ID == n.ID })
				if i >= 0 && !slices.Contains(c.links[i].Blocks, b.Prefix) {
					t.Fatalf("seed %d: %v is missing on its link although it is in use", seed, b.Prefix)
				}
			}
		}
	}
}

func TestImpossibleObservations(t *testing.T) {
	for name, o := range map[string]Observation{
		"nothing":    {},
		"no primary": {ENIs: []ENI{{ID: "eni-1"}}},
		"twice":      {ENIs: []ENI{{ID: "eni-1", Primary: true}, {ID: "eni-1"}}},
		"without ID": {ENIs: []ENI{{Primary: true}}},
	} {
		if err := o.check(); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
