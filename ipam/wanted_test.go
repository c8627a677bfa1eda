// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/ipam"
)

// wanting returns a request for certain addresses.
func wanting(id string, wanted ...string) ipam.Request {
	r := request(id, ipam.IPv4, ipam.IPv6)
	for _, a := range wanted {
		r.Addrs = append(r.Addrs, netip.MustParseAddr(a))
	}
	return r
}

// TestWantedAddress allocates certain addresses. A refusal comes at once, has its
// reason, and leaves the pool as it is.
func TestWantedAddress(t *testing.T) {
	for _, c := range []struct {
		name     string
		before   func(t *testing.T, p *ipam.Pool)
		request  ipam.Request
		reason   ipam.Reason // empty: the request succeeds
		evidence string
		retry    time.Duration
	}{
		{name: "free", request: wanting("c", "10.0.0.21")},
		{name: "free, of IPv6", request: wanting("c", "2001:db8::77")},
		{name: "both families", request: wanting("c", "2001:db8::ffff:ffff:ffff", "10.0.0.31")},
		{name: "on its own ENI", request: wanting("c", "10.0.1.9")},
		{
			name:   "of a pod, which requests it again",
			before: func(t *testing.T, p *ipam.Pool) { allocate(t, p, wanting("c", "10.0.0.21")) }, request: wanting("c", "10.0.0.21"),
		},
		{
			name: "cooled",
			before: func(t *testing.T, p *ipam.Pool) {
				release(t, p, wanting("other", "10.0.0.21"))
				time.Sleep(time.Minute)
			},
			request: wanting("c", "10.0.0.21"),
		},
		{
			name: "in use by a pod",
			before: func(t *testing.T, p *ipam.Pool) {
				r := wanting("other", "10.0.0.21")
				r.Pod = ipam.PodRef{Namespace: "default", Name: "db"}
				allocate(t, p, r)
			},
			request: wanting("c", "10.0.0.21"), reason: ipam.ReasonInUse, evidence: "default/db holds it",
		},
		{
			name: "in use by a container",
			before: func(t *testing.T, p *ipam.Pool) {
				allocate(t, p, wanting(strings.Repeat("4f1c", 16), "10.0.0.21"))
			},
			request: wanting("c", "10.0.0.21"), reason: ipam.ReasonInUse, evidence: "container 4f1c4f1c4f1c holds it",
		},
		{
			name: "in use by another program",
			before: func(t *testing.T, p *ipam.Pool) {
				_, _, err := p.Quarantine(time.Now(), []ipam.Use{{Addr: netip.MustParseAddr("10.0.0.21"), By: "link cni0"}})
				must(t, err)
			},
			request: wanting("c", "10.0.0.21"), reason: ipam.ReasonInUse, evidence: "link cni0 uses it",
		},
		{
			name: "cooling",
			before: func(t *testing.T, p *ipam.Pool) {
				release(t, p, wanting("other", "10.0.0.21"))
				time.Sleep(20 * time.Second)
			},
			request: wanting("c", "10.0.0.21"), reason: ipam.ReasonCooling, evidence: "20s ago", retry: 40 * time.Second,
		},
		{
			name:    "cooling, of the same container",
			before:  func(t *testing.T, p *ipam.Pool) { release(t, p, wanting("c", "10.0.0.21")) },
			request: wanting("c", "10.0.0.21"),
		},
		{
			name:    "another than the one that cools for the container",
			before:  func(t *testing.T, p *ipam.Pool) { release(t, p, wanting("c", "10.0.0.21")) },
			request: wanting("c", "10.0.0.22"),
		},
		{
			name:    "cooling, of IPv6 ahead of others",
			before:  func(t *testing.T, p *ipam.Pool) { release(t, p, wanting("other", "2001:db8::77")) },
			request: wanting("c", "2001:db8::77"), reason: ipam.ReasonCooling, evidence: "0s ago", retry: time.Minute,
		},
		{name: "of no ENI", request: wanting("c", "10.9.9.9"), reason: ipam.ReasonNoSuchAddress, evidence: "no ENI of this node has it"},
		{name: "below a pod's addresses", request: wanting("c", "2001:db8::"), reason: ipam.ReasonNoSuchAddress, evidence: "the lowest address for pods in 2001:db8::/80 is 2001:db8::1"},
		{name: "on another card", request: wanting("c", "10.0.2.9"), reason: ipam.ReasonNoSuchAddress, evidence: "network card 1, not on 0"},
		{
			name: "of another family", request: ipam.Request{Attachment: attachment("c"), Addrs: []netip.Addr{netip.MustParseAddr("2001:db8::77")}},
			reason: ipam.ReasonNoBlocks, evidence: "pods get no IPv6 addresses here, only [IPv4]",
		},
		{
			name: "draining", before: func(t *testing.T, p *ipam.Pool) { must(t, p.DrainBlocks(netip.MustParsePrefix("10.0.0.16/28"))) },
			request: wanting("c", "10.0.0.21"), reason: ipam.ReasonInFlight, evidence: "10.0.0.16/28 on eni-0 is being given back",
		},
		{
			name: "doubted", before: func(t *testing.T, p *ipam.Pool) {
				must(t, p.DoubtBlocks(true, netip.MustParsePrefix("10.0.0.16/28")))
			},
			request: wanting("c", "10.0.0.21"), reason: ipam.ReasonNoSuchAddress, evidence: "EC2 no longer lists 10.0.0.16/28",
		},
		{
			name:    "of one family in use",
			before:  func(t *testing.T, p *ipam.Pool) { allocate(t, p, wanting("other", "2001:db8::77")) },
			request: wanting("c", "10.0.0.21", "2001:db8::77"), reason: ipam.ReasonInUse, evidence: "holds it",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := open(t, ipam.Config{Cooldown: time.Minute})
				supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.16/28", "2001:db8::/80")
				supply(t, p, ipam.ENI{ID: "eni-1", Device: 1}, "10.0.1.9/32", "2001:db8:0:1::/80")
				supply(t, p, ipam.ENI{ID: "eni-2", Card: 1}, "10.0.2.9/32")
				if c.before != nil {
					c.before(t, p)
				}
				start, held := time.Now(), len(p.Lookup(c.request.Attachment))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				got, err := p.Allocate(ctx, c.request)
				if time.Since(start) > 0 {
					t.Errorf("answered after %v, want at once", time.Since(start))
				}
				if c.reason == "" {
					must(t, err)
					for i, f := range c.request.Families {
						if got[i].ENI != got[0].ENI || ipam.FamilyOf(got[i].Addr) != f {
							t.Errorf("got %v and %v, want %v on one ENI", got[0], got[i], c.request.Families)
						}
					}
					for _, want := range c.request.Addrs {
						if have := addrs(got); have[0] != want && have[1] != want {
							t.Errorf("got %v, want %v", have, want)
						}
					}
					return
				}
				e := refused(t, err)
				if e.Reason != c.reason || !strings.Contains(e.Evidence, c.evidence) || e.RetryAfter != c.retry || !strings.Contains(e.Error(), e.Addr.String()) {
					t.Errorf("refused with %v (%+v), want %s with %q, retry after %v", e, e, c.reason, c.evidence, c.retry)
				}
				if len(p.Lookup(c.request.Attachment)) != held {
					t.Errorf("holds %v after the refusal", p.Lookup(c.request.Attachment))
				}
			})
		})
	}
}

// release allocates and releases addresses.
func release(t *testing.T, p *ipam.Pool, r ipam.Request) {
	t.Helper()
	allocate(t, p, r)
	_, err := p.Release(r.Attachment)
	must(t, err)
}

// TestWantedTwice requests one address for many attachments at once. One gets it.
func TestWantedTwice(t *testing.T) {
	p := open(t, ipam.Config{})
	supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.16/28", "2001:db8::/80")
	var mu sync.Mutex
	won := 0
	var all sync.WaitGroup
	for _, id := range strings.Fields("a b c d e f g h") {
		all.Go(func() {
			_, err := p.Allocate(t.Context(), wanting(id, "10.0.0.20"))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if e := refused(t, err); e.Reason != ipam.ReasonInUse {
				t.Errorf("%s: %v, want %s", id, err, ipam.ReasonInUse)
			}
		})
	}
	all.Wait()
	if won != 1 {
		t.Errorf("%d attachments got the address, want 1", won)
	}
}

// TestWantedWaits: a request for an address waits while the pool is empty or the link of
// the address is not ready. Meanwhile other requests are served.
func TestWantedWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, ipam.Config{})
		answers := make(chan error, 2)
		ask := func(id, addr string) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			r := ipam.Request{Attachment: attachment(id), Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
			got, err := p.Allocate(ctx, r)
			if err == nil && got[0].Addr != r.Addrs[0] {
				t.Errorf("%s got %v, want %s", id, got[0], addr)
			}
			answers <- err
		}
		go ask("early", "10.0.0.2")
		synctest.Wait()
		must(t, p.SetENI(ipam.ENI{ID: "eni-1", Device: 1}), p.AddBlocks(blocks("eni-1", "10.0.0.2/32", "10.0.0.3/32")...))
		go ask("second", "10.0.0.3")
		synctest.Wait()
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32")
		if got := allocate(t, p, request("other"))[0]; got.String() != "10.0.0.1" {
			t.Errorf("another request got %v, want 10.0.0.1 at once", got)
		}
		must(t, p.SetReady("eni-1", true))
		must(t, <-answers, <-answers)
		must(t, p.SetReady("eni-1", false))
		go ask("early", "10.0.0.2") // a repeated request is not affected
		must(t, <-answers)
		_, err := p.Release(attachment("early"))
		must(t, err)
		time.Sleep(time.Minute)
		start := time.Now()
		go ask("late", "10.0.0.2")
		if e := refused(t, <-answers); e.Reason != ipam.ReasonLinkNotReady || time.Since(start) != 10*time.Second || e.Waited != 10*time.Second {
			t.Errorf("refused with %v after %v, want %s after 10s", e, time.Since(start), ipam.ReasonLinkNotReady)
		}
	})
}

// TestWantedWitness: the kernel says that a wanted address is in use.
func TestWantedWitness(t *testing.T) {
	wanted := netip.MustParseAddr("10.0.0.20")
	p := open(t, ipam.Config{Witness: func(within []netip.Prefix) (uses []ipam.Use, err error) {
		for _, w := range within {
			if w.Contains(wanted) {
				uses = append(uses, ipam.Use{Addr: wanted, By: "link veth7"})
			}
		}
		return uses, nil
	}})
	supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.16/28", "2001:db8::/80")
	_, err := p.Allocate(t.Context(), wanting("c", wanted.String()))
	if e := refused(t, err); e.Reason != ipam.ReasonInUse || !strings.Contains(e.Evidence, "link veth7 uses it") {
		t.Errorf("refused with %v, want %s by link veth7", e, ipam.ReasonInUse)
	}
}

// TestWantedIsIdempotent: a repeated request gets the same addresses, unless it wants
// others or another MAC, also after a restart and after the journal was replaced by its
// digest.
func TestWantedIsIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &memory{}
		p := open(t, ipam.Config{Journal: j, Cooldown: -1})
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.16/28", "2001:db8::/80")
		r := wanting("c", "10.0.0.21", "2001:db8::ffff:ffff:ffff")
		r.MAC = "02-00-00-00-00-0A"
		first, err := p.Allocate(t.Context(), r)
		must(t, err)
		if first[0].MAC != "02:00:00:00:00:0a" {
			t.Errorf("MAC %q, want it in its usual form", first[0].MAC)
		}
		again := func(when string) {
			t.Helper()
			got, err := p.Allocate(t.Context(), r)
			must(t, err)
			if diff := cmp.Diff(first, got, equate); diff != "" {
				t.Errorf("%s: (-first +later):\n%s", when, diff)
			}
			for _, other := range []ipam.Request{{Addrs: wanting("c", "10.0.0.22").Addrs, MAC: r.MAC}, {Addrs: r.Addrs}, {Addrs: r.Addrs, MAC: "02:00:00:00:00:0b"}} {
				other.Attachment, other.Families = r.Attachment, r.Families
				if _, err := p.Allocate(t.Context(), other); !errors.Is(err, ipam.ErrConflict) {
					t.Errorf("%s: %v: %v, want ErrConflict", when, other, err)
				}
			}
		}
		again("at once")
		restart := func() {
			p = open(t, ipam.Config{Journal: j, Cooldown: -1})
			must(t, p.SetReady("eni-0", true))
		}
		restart()
		again("after a restart")
		for range 2500 {
			release(t, p, request("other", ipam.IPv4, ipam.IPv6))
		}
		if j.replaced == 0 {
			t.Fatal("the journal was not replaced")
		}
		restart()
		again("after the digest")
	})
}

// TestWantedInvalid lists requests that no pool can serve.
func TestWantedInvalid(t *testing.T) {
	p := open(t, ipam.Config{})
	for _, r := range []ipam.Request{
		wanting("c", "10.0.0.1", "10.0.0.2"), wanting("c", "fe80::1%eth0"), wanting("c", "::ffff:10.0.0.1"),
		{Attachment: attachment("c"), Addrs: []netip.Addr{{}}},
		{Attachment: attachment("c"), MAC: "02:00:00:00:00"}, {Attachment: attachment("c"), MAC: "02:00:00:00:00:00:00:01"}, {Attachment: attachment("c"), MAC: "x"},
	} {
		if _, err := p.Allocate(t.Context(), r); !errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("%v: %v, want ErrInvalid", r, err)
		}
	}
}

// TestPrefixOutlastsItsLastAddress: the last address of an IPv6 prefix, wanted by a pod or
// used by another program, leaves the others free, and no address is given twice.
func TestPrefixOutlastsItsLastAddress(t *testing.T) {
	j := &memory{}
	p := open(t, ipam.Config{Journal: j, Cooldown: time.Hour})
	supply(t, p, ipam.ENI{ID: "eni-0"}, "2001:db8::/80")
	seen := map[netip.Addr]bool{}
	give := func(id string, wanted ...string) netip.Addr {
		t.Helper()
		r := ipam.Request{Attachment: attachment(id), Families: []ipam.Family{ipam.IPv6}, Addrs: wanting(id, wanted...).Addrs}
		a := allocate(t, p, r)[0]
		if seen[a] {
			t.Errorf("%v was allocated twice", a)
		}
		seen[a] = true
		return a
	}
	give("last", "2001:db8::ffff:ffff:ffff")
	give("third", "2001:db8::3")
	_, err := p.Release(attachment("third"))
	must(t, err)
	_, _, err = p.Quarantine(time.Now(), []ipam.Use{{Addr: netip.MustParseAddr("2001:db8::ffff:ffff:fffe"), By: "x"}})
	must(t, err)
	give("fourth", "2001:db8::4")
	for i, want := range strings.Fields("2001:db8::1 2001:db8::2 2001:db8::5 2001:db8::6") {
		if i%2 == 1 {
			p = open(t, ipam.Config{Journal: j, Cooldown: time.Hour})
			must(t, p.SetReady("eni-0", true))
		}
		if got := give("pod" + want); got.String() != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
}
