// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// TestAddressesReturn releases the addresses of a container and allocates again while they
// cool, also after a restart, after the journal was replaced by its digest, and while other
// requests wait. No other attachment gets them.
func TestAddressesReturn(t *testing.T) {
	for _, between := range []string{"nothing", "restart", "digest", "queue", "another allocation"} {
		t.Run(between, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := &memory{}
				cfg := ipam.Config{Journal: j, Cooldown: time.Minute}
				p := open(t, cfg)
				supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32", "2001:db8::/80")
				both := []ipam.Family{ipam.IPv4, ipam.IPv6}
				first := allocate(t, p, request("c", both...))
				time.Sleep(time.Second)
				_, err := p.Release(attachment("c"))
				must(t, err)
				time.Sleep(40 * time.Second)
				switch between {
				case "digest": // thousands of events have the pool replace its journal
					for range 2500 {
						allocate(t, p, request("other"))
						_, err := p.Release(attachment("other"))
						must(t, err)
					}
					if j.replaced == 0 {
						t.Fatal("the journal was not replaced")
					}
					fallthrough
				case "restart":
					p = open(t, cfg)
					must(t, p.SetReady("eni-0", true))
				case "queue":
					allocate(t, p, request("x"))
					allocate(t, p, request("y"))
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					ended := make(chan error)
					go func() {
						_, err := p.Allocate(ctx, request("z"))
						ended <- err
					}()
					defer func() {
						if err := <-ended; err == nil {
							t.Error("a waiting request got the address of another container")
						}
					}()
					synctest.Wait()
				case "another allocation":
					for _, a := range allocate(t, p, request("x", both...)) {
						if a == first[0] || a == first[1] {
							t.Errorf("another container got %v while it cooled", a)
						}
					}
				}
				start := time.Now()
				again := allocate(t, p, request("c", both...))
				if time.Since(start) > 0 || again[0] != first[0] || again[1] != first[1] {
					t.Errorf("got %v and %v after %v, want %v and %v at once", again[0], again[1], time.Since(start), first[0], first[1])
				}
			})
		})
	}
}

// TestAddressesDoNotReturn lists the cases in which a container gets another address.
func TestAddressesDoNotReturn(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(t *testing.T, p *ipam.Pool, first netip.Addr)
		again  ipam.Request
	}{
		{"cooled", func(*testing.T, *ipam.Pool, netip.Addr) { time.Sleep(2 * time.Minute) }, request("c")},
		{"other interface", func(*testing.T, *ipam.Pool, netip.Addr) {}, ipam.Request{Attachment: ipam.Attachment{Network: attachment("c").Network, ContainerID: "c", IfName: "net1"}}},
		{"block draining", func(t *testing.T, p *ipam.Pool, first netip.Addr) {
			time.Sleep(2 * time.Minute)
			must(t, p.DrainBlocks(netip.PrefixFrom(first, 32)))
		}, request("c")},
		{"block doubted", func(t *testing.T, p *ipam.Pool, first netip.Addr) {
			must(t, p.DoubtBlocks(true, netip.PrefixFrom(first, 32)))
		}, request("c")},
		{"in use by another program since", func(t *testing.T, p *ipam.Pool, first netip.Addr) {
			for _, uses := range [][]ipam.Use{{{Addr: first, By: "another program"}}, nil} {
				time.Sleep(time.Second)
				_, _, err := p.Quarantine(time.Now(), uses)
				must(t, err)
			}
		}, request("c")},
		{"used since", func(t *testing.T, p *ipam.Pool, _ netip.Addr) {
			time.Sleep(time.Minute)
			for _, other := range []string{"x", "y", "z"} {
				allocate(t, p, request(other))
			}
			for _, other := range []string{"x", "y", "z"} {
				_, err := p.Release(attachment(other))
				must(t, err)
			}
			supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.9/32")
		}, request("c")},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := open(t, ipam.Config{Cooldown: time.Minute})
				supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32")
				first := allocate(t, p, request("c"))[0]
				time.Sleep(time.Second)
				_, err := p.Release(attachment("c"))
				must(t, err)
				c.before(t, p, first)
				if again := allocate(t, p, c.again)[0]; again == first {
					t.Errorf("got %v again", again)
				}
			})
		})
	}
}
