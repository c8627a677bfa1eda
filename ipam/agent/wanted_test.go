// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// want requests a certain address for a pod.
func (p *process) want(pod string, a netip.Addr) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got, err := p.Allocate(ctx, ipam.Request{Attachment: attachment(pod), Netns: "/run/netns/" + pod, Addrs: []netip.Addr{a}})
	if err != nil {
		return err
	}
	if len(got) != 1 || got[0].Addr != a {
		p.t.Errorf("%s got %v, want %v", pod, got, a)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pods[pod] = got
	return nil
}

// TestWantedAddress: pods want certain addresses of a running agent.
func TestWantedAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		defer p.stop()
		if err := p.add("first", time.Minute); err != nil {
			t.Fatal(err)
		}
		held := p.pool.Lookup(attachment("first"))[0].Addr
		refused := func(pod string, a netip.Addr, reason ipam.Reason) {
			t.Helper()
			start := time.Now()
			if e := reasonOf(t, p.want(pod, a)); e.Reason != reason || e.Addr != a || time.Since(start) > 0 {
				t.Errorf("%s wants %v: %v after %v, want %s at once", pod, a, e, time.Since(start), reason)
			}
		}
		if err := p.want("first", held); err != nil {
			t.Error("the pod's own address:", err)
		}
		refused("other", held, ipam.ReasonInUse)
		refused("other", netip.MustParseAddr("192.0.2.1"), ipam.ReasonNoSuchAddress)
		refused("other", netip.MustParseAddr("2001:db8::1"), ipam.ReasonNoBlocks)

		// The sandbox of the holder has ended without a DEL. The agent notices it. The moment is
		// not one at which the agent looks anyway.
		time.Sleep(time.Minute + time.Second)
		w.end("first")
		refused("other", held, ipam.ReasonCooling)
		time.Sleep(31 * time.Second)
		if err := p.want("other", held); err != nil {
			t.Error("after the cooldown:", err)
		}

		var free netip.Addr
		for _, e := range p.pool.View().ENIs {
			for _, b := range e.Blocks {
				if b.Used == 0 {
					free = b.Prefix.Addr()
				}
			}
		}
		errs := make(chan error)
		for _, pod := range []string{"left", "right"} {
			go func() { errs <- p.want(pod, free) }()
		}
		one, two := <-errs, <-errs
		if one == nil {
			one, two = two, one
		}
		if two != nil || reasonOf(t, one).Reason != ipam.ReasonInUse {
			t.Errorf("two pods want %v at once: %v and %v, want one success and %s", free, one, two, ipam.ReasonInUse)
		}
		w.check(p)
	})
}
