// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/policy"
)

// TestDenials denies connections in both directions, and a reply, and reads how many packets
// were denied and which. Allowed packets are not counted and not logged.
func TestDenials(t *testing.T) {
	w := newWorld(t, datapath.Flat)
	w.record(w.a)
	w.record(w.b)
	ctx, cancel := context.WithCancel(context.Background())
	denials, done := make(chan policy.Denial, 1000), make(chan error)
	go func() { done <- w.h.Denials(ctx, func(d policy.Denial) { denials <- d }) }()
	defer func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Denials: %v, want %v", err, context.Canceled)
		}
	}()
	apply := func(classes map[string]policy.Class) {
		t.Helper()
		s := w.state(classes)
		s.LogLimit = 1000
		w.apply(s)
	}
	dns := policy.Class{Ingress: allow(policy.Rule{Peers: peers(w.a), Ports: []policy.Ports{{Protocol: policy.UDP, First: 53}}})}
	// try sends the packet again until its denial is received: the listener may come later.
	try := func(want policy.Denial, send func()) {
		t.Helper()
		for end := time.Now().Add(patience); time.Now().Before(end); {
			send()
			select {
			case got := <-denials:
				if got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
				time.Sleep(20 * time.Millisecond)
				for len(denials) > 0 {
					<-denials
				}
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
		t.Fatalf("not received: %+v", want)
	}
	for i := range w.a.addrs {
		flow := policy.Flow{Src: w.a.addrs[i], Dst: w.b.addrs[i], Protocol: policy.UDP, Port: 53}
		apply(map[string]policy.Class{"b": dns})
		q := w.send(w.a, w.b, flow)
		w.wait(q)
		apply(map[string]policy.Class{"b": {Ingress: policy.Rules{Isolated: true}}})
		try(policy.Denial{Class: "b", Direction: policy.Ingress, Flow: flow, Reply: true}, func() { w.reply(q) })
		other := policy.Flow{Src: w.a.addrs[i], Dst: w.b.addrs[i], Protocol: policy.TCP, Port: 443}
		try(policy.Denial{Class: "b", Direction: policy.Ingress, Flow: other}, func() { w.send(w.a, w.b, other) })
		apply(map[string]policy.Class{"a": {Egress: policy.Rules{Isolated: true}}, "b": {Ingress: policy.Rules{Isolated: true}}})
		try(policy.Denial{Class: "a", Direction: policy.Egress, Flow: other}, func() { w.send(w.a, w.b, other) })
		third := policy.Flow{Src: w.c.addrs[i], Dst: w.b.addrs[i], Protocol: policy.UDP, Port: 53}
		try(policy.Denial{Class: "b", Direction: policy.Ingress, Flow: third}, func() { w.send(w.c, w.b, third) })
		all, err := w.h.Denied()
		if err != nil || len(all) != 2 || all[0].Class != "a" || all[0].Direction != policy.Egress || all[0].Packets == 0 ||
			all[1].Class != "b" || all[1].Direction != policy.Ingress || all[1].Packets == 0 {
			t.Errorf("denied %+v, %v, want packets of a and of b", all, err)
		}
	}
	w.apply(policy.State{})
	if all, err := w.h.Denied(); err != nil || len(all) > 0 {
		t.Errorf("without classes: %+v, %v", all, err)
	}
}
