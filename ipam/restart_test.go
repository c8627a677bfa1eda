// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/ipam"
)

// durable returns the part of a view that a restart must preserve.
func durable(v ipam.View) ipam.View {
	v.At = time.Time{}
	v.Waiting = nil
	for i := range v.ENIs {
		v.ENIs[i].Ready = false
		for j := range v.ENIs[i].Blocks {
			v.ENIs[i].Blocks[j].Doubted = false
		}
	}
	return v
}

func TestRestartKeepsOwnersAndCooldown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &memory{}
		cfg := ipam.Config{Journal: j, Cooldown: time.Minute}
		p := open(t, cfg)
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32", "10.0.0.2/32", "2001:db8::/80")
		kept := allocate(t, p, request("kept", ipam.IPv4, ipam.IPv6))
		allocate(t, p, request("gone"))
		time.Sleep(time.Second)
		_, err := p.Release(attachment("gone"))
		must(t, err)

		time.Sleep(20 * time.Second)
		q := open(t, cfg)
		if diff := cmp.Diff(durable(p.View()), durable(q.View()), equate); diff != "" {
			t.Errorf("after the restart (-before +after):\n%s", diff)
		}
		if got := allocate(t, q, request("kept", ipam.IPv4, ipam.IPv6)); !cmp.Equal(got, kept, equate) {
			t.Errorf("got %v, want %v as before the restart", got, kept)
		}
		must(t, q.SetReady("eni-0", true))
		start := time.Now()
		allocate(t, q, request("next"))
		if got := time.Since(start); got != 40*time.Second {
			t.Errorf("the cooling address was allocated after %v, want 40s", got)
		}
	})
}

// Times in a journal that are in the future, because the wall clock was set
// back, count as long ago: an address must not cool for years.
func TestTimesInTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ahead := time.Now().Add(1000 * time.Hour).Round(0)
		j := &memory{events: []ipam.Event{
			{Kind: ipam.EventENISet, At: ahead, ENI: "eni-0"},
			{Kind: ipam.EventBlockAdded, At: ahead, ENI: "eni-0", Block: netip.MustParsePrefix("10.0.0.1/32")},
			{Kind: ipam.EventAllocated, At: ahead, Attachment: attachment("a"), Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
			{Kind: ipam.EventReleased, At: ahead, Attachment: attachment("a")},
		}}
		p := open(t, ipam.Config{Journal: j, Cooldown: time.Minute})
		must(t, p.SetReady("eni-0", true))
		start := time.Now()
		allocate(t, p, request("b"))
		if got := time.Since(start); got != 0 {
			t.Errorf("served after %v, want at once", got)
		}
		for a := range p.Allocations() {
			if age := time.Since(a.At); age < 0 {
				t.Errorf("the allocation of %v is %v in the future", a.Addr, -age)
			}
		}
	})
}

// After a reboot no pods run, and the pool cannot know which addresses were in
// use shortly before. All addresses cool from the boot on.
func TestAddressesCoolSinceBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boot := time.Now()
		time.Sleep(20 * time.Second)
		p := open(t, ipam.Config{Cooldown: time.Minute, CoolingSince: boot})
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.0/28", "10.0.1.1/32", "2001:db8::/80")
		for _, b := range p.View().ENIs[0].Blocks {
			if b.Free != 0 {
				t.Errorf("%v has %d free addresses, want none", b.Prefix, b.Free)
			}
		}
		if err := p.DrainBlocks(netip.MustParsePrefix("10.0.1.1/32")); !errors.Is(err, ipam.ErrInUse) {
			t.Errorf("drain a block that is cooling: %v, want ErrInUse", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := p.Allocate(ctx, request("early"))
		var none *ipam.ExhaustedError
		if !errors.As(err, &none) || none.Reason != ipam.ReasonCooling || none.RetryAfter != 30*time.Second {
			t.Errorf("allocate before the cooldown ends: %v, want reason cooling and a retry after 30s", err)
		}
		start := time.Now()
		allocate(t, p, request("a", ipam.IPv4, ipam.IPv6))
		if got := time.Since(start); got != 30*time.Second {
			t.Errorf("served after %v, want 30s", got)
		}
		allocate(t, p, request("b"))
		if got := time.Since(start); got != 30*time.Second {
			t.Errorf("the second request was served after %v, want 30s", got)
		}
	})
}

func TestJournalWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &memory{}
		p := open(t, ipam.Config{Journal: j, Cooldown: time.Minute})
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.0/28", "10.0.0.16/28", "10.0.1.1/32")
		allocate(t, p, request("old"))
		before := durable(p.View())
		broken := errors.New("disk full")
		j.fail = broken
		b := netip.MustParsePrefix("10.0.0.16/28")
		for name, do := range map[string]func() error{
			"allocate":     func() error { _, err := p.Allocate(t.Context(), request("new")); return err },
			"release":      func() error { _, err := p.Release(attachment("old")); return err },
			"set ENI":      func() error { return p.SetENI(ipam.ENI{ID: "eni-1", Device: 1}) },
			"add block":    func() error { return p.AddBlocks(blocks("eni-0", "10.0.9.0/28")...) },
			"drain block":  func() error { return p.DrainBlocks(b) },
			"remove block": func() error { return p.RemoveBlocks(b) },
		} {
			if err := do(); !errors.Is(err, ipam.ErrJournal) || !errors.Is(err, broken) {
				t.Errorf("%s: %v, want ErrJournal", name, err)
			}
			if diff := cmp.Diff(before, durable(p.View()), equate); diff != "" {
				t.Errorf("%s changed the pool although the write failed:\n%s", name, diff)
			}
		}
		j.fail = nil
		allocate(t, p, request("new"))
	})
}

func TestWaitersSurviveFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &memory{}
		p := open(t, ipam.Config{Journal: j})
		must(t, p.SetENI(ipam.ENI{ID: "eni-0"}), p.SetReady("eni-0", true))
		done := make(chan error, 1)
		go func() {
			_, err := p.Allocate(t.Context(), request("a"))
			done <- err
		}()
		synctest.Wait()
		j.fail = errors.New("disk full")
		if err := p.SetENI(ipam.ENI{ID: "eni-1", Device: 1}); !errors.Is(err, ipam.ErrJournal) {
			t.Error(err)
		}
		j.fail = nil
		must(t, p.AddBlocks(blocks("eni-0", "10.0.0.1/32")...))
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestConcurrentAllocationsShareOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &memory{}
		p := open(t, ipam.Config{Journal: j})
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.0/25")
		j.writes = 0
		j.before = func() { time.Sleep(time.Millisecond) }
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 100 {
			wg.Go(func() {
				if _, err := p.Allocate(t.Context(), request(fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if j.writes > 3 {
			t.Errorf("%d writes in %v, want at most 3", j.writes, time.Since(start))
		}
	})
}

// TestCompaction uses a pool until its journal has been compacted several times,
// and compares the pool with the one that its journal restores.
func TestCompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &memory{}
		cfg := ipam.Config{Journal: j, Cooldown: time.Minute}
		p := open(t, cfg)
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.0/28", "10.0.1.1/32", "2001:db8::/80", "10.0.2.0/28")
		supply(t, p, ipam.ENI{ID: "eni-1", Device: 1}, "10.0.3.0/28", "10.0.4.0/28")
		must(t, p.RemoveBlocks(netip.MustParsePrefix("10.0.4.0/28")), p.DrainENI("eni-1"), p.DrainBlocks(netip.MustParsePrefix("10.0.2.0/28")))
		longest, last, compactions := 0, 0, 0
		for i := range 10000 {
			allocate(t, p, request(fmt.Sprint(i), ipam.IPv4, ipam.IPv6))
			if i >= 5 {
				_, err := p.Release(attachment(fmt.Sprint(i - 5)))
				must(t, err)
			}
			time.Sleep(10 * time.Second)
			compacted := len(j.events) < last
			last = len(j.events)
			longest = max(longest, last)
			if compacted {
				compactions++
			}
			if compacted || i%1500 == 0 {
				if diff := cmp.Diff(durable(p.View()), durable(open(t, cfg).View()), equate); diff != "" {
					t.Fatalf("after %d pods (-pool +journal):\n%s", i, diff)
				}
			}
		}
		if longest > 6000 || compactions == 0 || j.replaced != compactions {
			t.Errorf("the journal grew to %d events and was compacted %d times with %d calls of Replace", longest, compactions, j.replaced)
		}
	})
}

func TestContradictoryJournal(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	eni := ipam.Event{Kind: ipam.EventENISet, At: at, ENI: "eni-0"}
	block := ipam.Event{Kind: ipam.EventBlockAdded, At: at, ENI: "eni-0", Block: netip.MustParsePrefix("10.0.0.0/28")}
	take := func(id, addr string) ipam.Event {
		return ipam.Event{Kind: ipam.EventAllocated, At: at, Attachment: attachment(id), Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
	}
	tests := map[string][]ipam.Event{
		"block without ENI":       {block},
		"address without block":   {eni, take("a", "10.0.0.1")},
		"one address, two owners": {eni, block, take("a", "10.0.0.1"), take("b", "10.0.0.1")},
		"one owner, twice":        {eni, block, take("a", "10.0.0.1"), take("a", "10.0.0.2")},
		"used block removed":      {eni, block, take("a", "10.0.0.1"), {Kind: ipam.EventBlockRemoved, At: at, Block: block.Block}},
		"used ENI removed":        {eni, block, take("a", "10.0.0.1"), {Kind: ipam.EventENIRemoved, At: at, ENI: "eni-0"}},
		"released without owner":  {eni, block, {Kind: ipam.EventReleased, At: at, Attachment: attachment("a")}},
		"released and used":       {eni, block, take("a", "10.0.0.1"), {Kind: ipam.EventAddrsReleased, At: at, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
		"released, no block":      {eni, block, {Kind: ipam.EventAddrsReleased, At: at, Addrs: []netip.Addr{netip.MustParseAddr("10.0.1.1")}}},
		"unknown kind":            {eni, {Kind: "later", At: at}},
	}
	for name, events := range tests {
		if _, err := ipam.Open(ipam.Config{Journal: &memory{events: events}}); !errors.Is(err, ipam.ErrJournal) {
			t.Errorf("%s: %v, want ErrJournal", name, err)
		}
	}
	if _, err := ipam.Open(ipam.Config{Journal: &memory{fail: context.Canceled}}); !errors.Is(err, ipam.ErrJournal) {
		t.Errorf("journal that cannot be read: %v, want ErrJournal", err)
	}
}
