// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/ipam"
)

// kernel is a witness that reports the uses set by a test.
type kernel struct {
	mu   sync.Mutex
	uses map[string]string // link by address
	err  error
	// queries lists the prefixes of each call.
	queries [][]netip.Prefix
}

func (k *kernel) set(addr, link string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.uses == nil {
		k.uses = map[string]string{}
	}
	if k.uses[addr] = link; link == "" {
		delete(k.uses, addr)
	}
}

func (k *kernel) list(within []netip.Prefix) (out []ipam.Use, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.queries = append(k.queries, within)
	for addr, link := range k.uses {
		a := netip.MustParseAddr(addr)
		if slices.ContainsFunc(within, func(p netip.Prefix) bool { return p.Contains(a) }) {
			out = append(out, ipam.Use{Addr: a, By: link})
		}
	}
	slices.SortFunc(out, func(a, b ipam.Use) int { return a.Addr.Compare(b.Addr) })
	return out, k.err
}

// audit passes the present uses to the pool.
func (k *kernel) audit(t *testing.T, p *ipam.Pool) (added, lifted []ipam.Quarantined) {
	t.Helper()
	at := time.Now()
	uses, err := k.list([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")})
	must(t, err)
	added, lifted, err = p.Quarantine(at, uses)
	must(t, err)
	return added, lifted
}

func texts(qs []ipam.Quarantined) (out []string) {
	for _, q := range qs {
		out = append(out, q.Addr.String()+" "+q.By+" "+q.ENI)
	}
	return out
}

// A pool without a journal learns from the kernel which addresses pods have,
// before and after it has their blocks.
func TestQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kernel{}
		p := open(t, ipam.Config{Cooldown: time.Minute, Witness: k.list})
		k.set("10.0.0.2", "link early")
		k.set("192.0.2.1", "link elsewhere")
		if added, lifted := k.audit(t, p); len(added)+len(lifted) > 0 {
			t.Errorf("before the pool has blocks: added %v, lifted %v, want none", added, lifted)
		}
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.0/30", "10.0.1.1/32", "2001:db8::/80")
		k.set("10.0.1.1", "link late")
		k.set("2001:db8::5", "link late")
		added, _ := k.audit(t, p)
		want := []string{"10.0.0.2 link early eni-0", "10.0.1.1 link late eni-0", "2001:db8::5 link late eni-0"}
		if diff := cmp.Diff(want, texts(added)); diff != "" {
			t.Errorf("added (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, texts(p.View().Quarantined)); diff != "" {
			t.Errorf("quarantined (-want +got):\n%s", diff)
		}
		if added, lifted := k.audit(t, p); len(added)+len(lifted) > 0 {
			t.Errorf("second audit: added %v, lifted %v, want none", added, lifted)
		}
		for _, b := range p.View().ENIs[0].Blocks {
			if b.Quarantined != 1 || b.Used != 1 {
				t.Errorf("%v: %d used, %d quarantined, want 1 and 1", b.Prefix, b.Used, b.Quarantined)
			}
		}
		for _, id := range []string{"a", "b", "c"} {
			if got := allocate(t, p, request(id))[0].String(); got == "10.0.0.2" || got == "10.0.1.1" {
				t.Errorf("%s got %s, which is in use", id, got)
			}
		}
		if err := p.DrainENI("eni-0"); !errors.Is(err, ipam.ErrInUse) {
			t.Errorf("drain the ENI: %v, want ErrInUse", err)
		}
		k.set("10.0.1.1", "")
		if err := p.DrainBlocks(netip.MustParsePrefix("10.0.1.1/32")); !errors.Is(err, ipam.ErrInUse) {
			t.Errorf("drain a quarantined block: %v, want ErrInUse", err)
		}
		_, lifted := k.audit(t, p)
		if diff := cmp.Diff([]string{"10.0.1.1 link late eni-0"}, texts(lifted)); diff != "" {
			t.Errorf("lifted (-want +got):\n%s", diff)
		}
		start := time.Now()
		if got := allocate(t, p, request("d"))[0].String(); got != "10.0.1.1" || time.Since(start) != time.Minute {
			t.Errorf("got %s after %v, want 10.0.1.1 after a minute", got, time.Since(start))
		}
	})
}

// An audit that began before an address was released does not quarantine it, and
// one that began before an address was quarantined does not lift the quarantine.
func TestQuarantineByOldAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kernel{}
		p := open(t, ipam.Config{Cooldown: time.Minute, Witness: k.list})
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32", "10.0.0.2/32")
		got := allocate(t, p, request("a"))[0]
		began := time.Now()
		time.Sleep(time.Second)
		_, err := p.Release(attachment("a"))
		must(t, err)
		added, _, err := p.Quarantine(began, []ipam.Use{{Addr: got, By: "link of a"}})
		if err != nil || len(added) > 0 {
			t.Errorf("old audit: quarantined %v, error %v, want neither", added, err)
		}
		k.set("10.0.0.1", "link x")
		k.set("10.0.0.2", "link x")
		time.Sleep(time.Minute)
		before := time.Now()
		time.Sleep(time.Second)
		k.audit(t, p)
		if _, lifted, err := p.Quarantine(before, nil); err != nil || len(lifted) > 0 {
			t.Errorf("old audit: lifted %v, error %v, want neither", lifted, err)
		}
	})
}

// The pool queries the witness about each address before it allocates it.
func TestAllocateQueriesWitness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, j := &kernel{}, &memory{}
		p := open(t, ipam.Config{Journal: j, Cooldown: time.Minute, Witness: k.list})
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.0/29", "2001:db8::/80")
		k.set("10.0.0.0", "link x")
		k.set("10.0.0.1", "link y")
		k.set("2001:db8::1", "link z")
		got := allocate(t, p, request("a", ipam.IPv4, ipam.IPv6))
		if got[0].String() != "10.0.0.2" || got[1].String() != "2001:db8::2" {
			t.Errorf("got %v, want 10.0.0.2 and 2001:db8::2", got)
		}
		if n := len(p.View().Quarantined); n != 3 {
			t.Errorf("%d addresses quarantined, want 3", n)
		}
		queries := len(k.queries)
		if again := allocate(t, p, request("a", ipam.IPv4, ipam.IPv6)); !cmp.Equal(again, got, equate) || len(k.queries) != queries {
			t.Errorf("repeated request: got %v with %d queries, want %v without a query", again, len(k.queries)-queries, got)
		}
		k.err = errors.New("no netlink")
		events := len(j.events)
		if _, err := p.Allocate(t.Context(), request("b")); !errors.Is(err, ipam.ErrWitness) || len(j.events) != events {
			t.Errorf("witness fails: error %v and %d events, want ErrWitness and none", err, len(j.events)-events)
		}
		if p.Lookup(attachment("b")) != nil {
			t.Error("b holds an address although the witness failed")
		}
		b := netip.MustParsePrefix("2001:db8::/80")
		if err := p.DrainBlocks(b); !errors.Is(err, ipam.ErrWitness) {
			t.Errorf("drain while the witness fails: %v, want ErrWitness", err)
		}
		k.err = nil
		allocate(t, p, request("b"))
		for a := range p.Allocations() {
			if k.uses[a.Addr.String()] != "" {
				t.Errorf("%v got %v, which is in use", a.Attachment, a.Addr)
			}
		}
	})
}

// If the witness rejects an address, the requests in the queue keep their order.
func TestWitnessKeepsQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kernel{}
		p := open(t, ipam.Config{Witness: k.list})
		k.set("10.0.0.1", "link x")
		got := map[string]string{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, id := range []string{"1", "2", "3"} {
			wg.Go(func() {
				a := allocate(t, p, request(id))
				mu.Lock()
				defer mu.Unlock()
				got[id] = a[0].String()
			})
			synctest.Wait()
		}
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32")
		synctest.Wait()
		mu.Lock()
		if got["1"] != "10.0.0.2" || got["2"] != "10.0.0.3" || got["3"] != "" {
			t.Errorf("served %v, want 1 and 2 in their order", got)
		}
		mu.Unlock()
		must(t, p.AddBlocks(blocks("eni-0", "10.0.0.4/32")...))
		wg.Wait()
		if got["3"] != "10.0.0.4" {
			t.Errorf("served %v, want 10.0.0.4 for 3", got)
		}
	})
}

// A block is not drained while one of its addresses is in use, even if the pool
// does not know about the use.
func TestDrainQueriesWitness(t *testing.T) {
	k := &kernel{}
	p := open(t, ipam.Config{Witness: k.list})
	supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.16/28")
	supply(t, p, ipam.ENI{ID: "eni-1", Device: 1}, "10.0.1.16/28")
	k.set("10.0.0.20", "link x")
	if err := p.DrainBlocks(netip.MustParsePrefix("10.0.0.16/28")); !errors.Is(err, ipam.ErrInUse) {
		t.Errorf("drain the block: %v, want ErrInUse", err)
	}
	if err := p.DrainENI("eni-0"); !errors.Is(err, ipam.ErrInUse) {
		t.Errorf("drain the ENI: %v, want ErrInUse", err)
	}
	must(t, p.DrainENI("eni-1"))
}
