// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/internal/isolate"
)

var (
	randomSteps = flag.Int("random-steps", 120, "how many steps TestRandom takes in each layout")
	randomSeed  = flag.Uint64("random-seed", 0, "seed of TestRandom; 0 takes a new one")
)

// world is a node with pods that come, go and die at random.
type world struct {
	t      *testing.T
	h      *Handle
	rnd    *rand.Rand
	layout Layout
	empty  State
	// live are the pods whose last ADD succeeded, remains those that a kill or the
	// end of a sandbox has left something of, both in order of age.
	live, remains []Pod
	count         int
}

// addresses bounds how many pods have different addresses; every pod's key is new.
const addresses = 6

// TestRandom goes through random rows of ADD, DEL, kills in the middle of both,
// and sandboxes that end: whatever came before, ADD works, and when the remains
// have been deleted the node is exactly the pods that live.
func TestRandom(t *testing.T) {
	isolate.Require(t)
	seed := *randomSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	for _, layout := range []Layout{Flat, PerPod} {
		t.Run(string(layout), func(t *testing.T) {
			t.Logf("-random-seed=%d", seed)
			newNetns(t, "/run/netns/random-"+string(layout))
			h, err := Open("/run/netns/random-" + string(layout))
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			w := &world{t: t, h: h, rnd: rand.New(rand.NewPCG(seed, 1)), layout: layout}
			if w.empty, err = h.Observe(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range *randomSteps {
				w.step()
			}
			w.clean()
			w.compare()
		})
	}
}

// step does one thing at random.
func (w *world) step() {
	switch w.rnd.IntN(8) {
	case 0, 1, 2:
		w.add()
	case 3:
		w.del()
	case 4:
		w.killedAdd()
	case 5:
		w.killedDel()
	case 6:
		w.endSandbox()
	case 7:
		w.clean()
		w.compare()
	}
}

// newPod has an address that no live pod has; nil if there is none.
func (w *world) newPod() *Pod {
	n := w.rnd.IntN(addresses)
	a4, a6 := netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + n)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 100+n))
	if slices.ContainsFunc(w.live, func(p Pod) bool { return p.Addrs[0].Addr == a4 }) {
		return nil
	}
	w.count++
	p := &Pod{
		ContainerID: fmt.Sprintf("random-%s-%d", w.layout, w.count), IfName: "eth0", Layout: w.layout, MTU: 1400,
		Addrs: []PodAddr{{Addr: a4, Table: 2 + w.rnd.IntN(2)}, {Addr: a6, Table: 2 + w.rnd.IntN(2)}},
	}
	p.Netns = "/run/netns/" + p.ContainerID
	newNetns(w.t, p.Netns)
	return p
}

func (w *world) add() {
	p := w.newPod()
	if p == nil {
		return
	}
	for range 1 + w.rnd.IntN(2) {
		if _, err := w.h.AddPod(w.t.Context(), *p); err != nil {
			w.t.Fatalf("AddPod %s: %v", p.ContainerID, err)
		}
	}
	if err := w.h.CheckPod(w.t.Context(), *p); err != nil {
		w.t.Fatalf("CheckPod %s: %v", p.ContainerID, err)
	}
	w.live = append(w.live, *p)
}

// take removes a random pod from the live ones.
func (w *world) take() (Pod, bool) {
	if len(w.live) == 0 {
		return Pod{}, false
	}
	i := w.rnd.IntN(len(w.live))
	p := w.live[i]
	w.live = slices.Delete(w.live, i, i+1)
	return p, true
}

func (w *world) del() {
	p, ok := w.take()
	if !ok {
		return
	}
	do := w.h.DelPod
	if w.rnd.IntN(2) == 0 {
		do = w.h.RetirePod
	}
	for range 1 + w.rnd.IntN(2) {
		if err := do(w.t.Context(), p); err != nil {
			w.t.Fatalf("delete %s: %v", p.ContainerID, err)
		}
	}
}

// killedAdd stops after some of ADD's system calls; half of the time ADD is tried
// again.
func (w *world) killedAdd() {
	p := w.newPod()
	if p == nil {
		return
	}
	sandbox, err := os.Open(p.Netns)
	if err != nil {
		w.t.Fatal(err)
	}
	defer sandbox.Close()
	link, err := w.h.createVeth(w.t.Context(), *p, sandbox)
	if err == nil && w.rnd.IntN(2) == 0 {
		err = wireSandbox(w.t.Context(), *p, sandbox, link.peer)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if w.rnd.IntN(2) == 0 {
		w.remains = append(w.remains, *p)
		return
	}
	if _, err := w.h.AddPod(w.t.Context(), *p); err != nil {
		w.t.Fatalf("AddPod %s after a kill: %v", p.ContainerID, err)
	}
	w.live = append(w.live, *p)
}

// killedDel stops before the link is deleted.
func (w *world) killedDel() {
	p, ok := w.take()
	if !ok {
		return
	}
	if _, _, err := w.h.unwire(w.t.Context(), p); err != nil {
		w.t.Fatal(err)
	}
	w.remains = append(w.remains, p)
}

// endSandbox ends a sandbox before any DEL.
func (w *world) endSandbox() {
	p, ok := w.take()
	if !ok {
		return
	}
	dropNetns(p.Netns)
	for end := time.Now().Add(5 * time.Second); ; {
		link, err := w.h.findLink(w.t.Context(), p.HostLink())
		if err != nil {
			w.t.Fatal(err)
		}
		if link.index == 0 {
			break
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s stays", link.Name)
		}
	}
	w.remains = append(w.remains, p)
}

// clean deletes the remains, with or without what DEL may know, and sweeps.
func (w *world) clean() {
	for _, p := range w.remains {
		if w.rnd.IntN(2) == 0 {
			p.Addrs, p.Netns = nil, ""
		}
		if err := w.h.DelPod(w.t.Context(), p); err != nil {
			w.t.Fatalf("DelPod %s: %v", p.ContainerID, err)
		}
	}
	w.remains = nil
	if err := w.h.Sweep(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// compare wants exactly the pods that live.
func (w *world) compare() {
	have, err := w.h.Observe(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	states := []State{w.empty}
	for _, p := range w.live {
		states = append(states, p.HostState())
	}
	want := Join(states...)
	want.Sysctls, have.Sysctls = nil, nil
	for i := range want.Links {
		want.Links[i].Peer = ""
	}
	if diff := cmp.Diff(want.String(), have.String()); diff != "" {
		w.t.Fatalf("(-want +got):\n%s", diff)
	}
}
