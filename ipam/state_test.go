// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// randomEvent returns events that often apply and sometimes contradict the state.
func randomEvent(r *rand.Rand, at time.Time) Event {
	kinds := []Kind{
		EventENISet, EventENIReady, EventENINotReady, EventENIDraining, EventENIRemoved, EventBlockAdded, EventBlockAdded, EventBlockAdded,
		EventBlockDraining, EventBlockRemoved, EventBlockDoubted, EventBlockTrusted, EventAllocated, EventAllocated, EventAllocated, EventReleased, EventReleased,
	}
	n := r.IntN(3)
	e := Event{Kind: kinds[r.IntN(len(kinds))], At: at}
	switch e.Kind {
	case EventENISet, EventENIReady, EventENINotReady, EventENIDraining, EventENIRemoved:
		e.ENI, e.Device = fmt.Sprint("eni-", n), n
	case EventBlockAdded, EventBlockDraining, EventBlockRemoved, EventBlockDoubted, EventBlockTrusted:
		e.Block = netip.MustParsePrefix([]string{fmt.Sprintf("10.0.%d.0/28", n), fmt.Sprintf("10.0.%d.16/32", n), fmt.Sprintf("2001:db8:0:%d::/80", n)}[r.IntN(3)])
		if e.Kind == EventBlockAdded {
			e.ENI = fmt.Sprint("eni-", n)
		}
	default:
		e.Attachment = Attachment{"net", fmt.Sprint("c", r.IntN(8)), "eth0"}
		if e.Kind == EventAllocated {
			e.Addrs = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", n, r.IntN(17)))}
			if r.IntN(2) == 0 {
				e.Addrs = append(e.Addrs, netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%d::%d", n, r.IntN(9))))
			}
		}
	}
	return e
}

// TestUndo: undoing an event restores the state.
func TestUndo(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	opts := cmp.Options{cmp.AllowUnexported(state{}, eni{}, block{}, grant{}, takenAddr{}, released{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b []released) bool { return fmt.Sprint(a) == fmt.Sprint(b) }),
		cmp.Comparer(func(a, b []*block) bool { return fmt.Sprint(names(a)) == fmt.Sprint(names(b)) }),
	}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		s, twin := newState(time.Minute), newState(time.Minute)
		for range 60 {
			at = at.Add(time.Duration(r.IntN(30)) * time.Second)
			e := randomEvent(r, at)
			undo, err := s.apply(e)
			if _, twinErr := twin.apply(e); (err == nil) != (twinErr == nil) {
				t.Fatalf("seed %d: %+v: errors %v and %v of equal states", seed, e, err, twinErr)
			}
			if err != nil {
				continue
			}
			undo()
			if _, err := s.apply(e); err != nil {
				t.Fatalf("seed %d: %+v cannot be applied after it was undone: %v", seed, e, err)
			}
			if diff := cmp.Diff(twin, s, opts...); diff != "" {
				t.Fatalf("seed %d: %+v applied, undone and applied again (-want +got):\n%s", seed, e, diff)
			}
		}
	}
}

func names(blocks []*block) (out []netip.Prefix) {
	for _, b := range blocks {
		out = append(out, b.Prefix)
	}
	return out
}

func TestLastAddr(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.16/28": "10.0.0.31", "10.0.0.1/32": "10.0.0.1", "2001:db8::/80": "2001:db8::ffff:ffff:ffff", "0.0.0.0/0": "255.255.255.255",
	} {
		if got := lastAddr(netip.MustParsePrefix(in)); got.String() != want {
			t.Errorf("%s: %v, want %s", in, got, want)
		}
	}
}

// TestFirstAddr: a pod that was taken over may hold the first address of an IPv6 prefix, and no
// other pod gets it afterwards.
func TestFirstAddr(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s, prefix := newState(0), netip.MustParsePrefix("2001:db8::/80")
	pod := Attachment{"net", "c", "eth0"}
	for _, e := range []Event{
		{Kind: EventENISet, ENI: "eni-0"}, {Kind: EventENIReady, ENI: "eni-0"}, {Kind: EventBlockAdded, ENI: "eni-0", Block: prefix},
		{Kind: EventAllocated, Attachment: pod, Addrs: []netip.Addr{prefix.Addr()}}, {Kind: EventReleased, Attachment: pod},
	} {
		e.At = at
		if _, err := s.apply(e); err != nil {
			t.Fatalf("%s: %v", e.Kind, err)
		}
	}
	b := s.blocks[prefix]
	if got, ok := b.candidate(s.at(at)); !ok || got.addr != prefix.Addr().Next() || len(b.released) > 0 {
		t.Errorf("the next pod gets %v, and %v are released, want %v and none", got.addr, b.released, prefix.Addr().Next())
	}
}

func TestReasonsAreDistinct(t *testing.T) {
	seen := map[Reason]bool{}
	for _, r := range Reasons() {
		if seen[r] || r == "" || bytes.ContainsAny([]byte(r), " _/") {
			t.Errorf("reason %q is repeated, empty or not a single word", r)
		}
		seen[r] = true
	}
}
