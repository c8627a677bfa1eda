// SPDX-License-Identifier: Apache-2.0

//go:build linux

package snat_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/snat"
)

// TestFlowsSurviveChanges changes each setting while connections are open: of a pod on the
// second ENI to the peered network, and of the peered network to a node port of that pod. Open
// connections keep their source and their way, also after the change is taken back. New
// connections have the source that the settings ask for.
func TestFlowsSurviveChanges(t *testing.T) {
	with := func(change func(*snat.Config)) snat.Config {
		return base(func(c *snat.Config) {
			c.Returns = []snat.Return{{Link: "ens6", Mark: 1}}
			change(c)
		})
	}
	for _, name := range backends {
		for _, change := range []struct {
			name string
			to   snat.Config
			want netip.Addr // the source of a new connection of the pod
		}{
			{"excluded destination", with(func(c *snat.Config) { c.Excluded = prefixes("192.168.0.0/16") }), podB},
			{"excluded host", with(func(c *snat.Config) { c.Excluded = []netip.Prefix{netip.PrefixFrom(fabric.PeerAddr, 32)} }), podB},
			{"everything excluded", with(func(c *snat.Config) { c.Excluded = prefixes("0.0.0.0/0") }), podB},
			{"further prefix of the VPC", with(func(c *snat.Config) { c.VPC = append(c.VPC, netip.MustParsePrefix("192.168.0.0/16")) }), podB},
			{"node address", with(func(c *snat.Config) { c.NodeAddrs = []netip.Addr{spare} }), spare},
			{"node addresses of both families", with(func(c *snat.Config) { c.NodeAddrs = []netip.Addr{spare, node16} }), spare},
			{"ports", with(func(c *snat.Config) { c.Ports = snat.Ports{First: 50000, Last: 50999} }), node1},
			{"way to choose ports", with(func(c *snat.Config) { c.Random = snat.RandomNone }), node1},
			{"external translation", with(func(c *snat.Config) { c.External = true }), podB},
			{"an ENI leaves", base(nil), node1},
		} {
			t.Run(name+"/"+change.name, func(t *testing.T) {
				w := newWorld(t)
				proxy{daddr: node1, port: 30007, to: podB}.nft(t, w.node)
				b := w.backend(t, name)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				start := with(func(*snat.Config) {})
				if err := b.apply(start); err != nil {
					t.Fatal(err)
				}
				out := w.conversation(ctx, t, fabric.PeerAddr)
				in := w.request(ctx, t, netip.AddrPortFrom(node1, 30007))
				translated, client := out(), in()
				if translated.Addr() != node1 || client.Addr() != fabric.PeerAddr {
					t.Fatalf("the servers see %v and %v, want %v and %v", translated, client, node1, fabric.PeerAddr)
				}
				var between func() netip.AddrPort
				var own netip.AddrPort
				for _, to := range []struct {
					config snat.Config
					want   netip.Addr
				}{{change.to, change.want}, {start, node1}, {change.to, change.want}} {
					if err := b.apply(to.config); err != nil {
						t.Fatal(err)
					}
					if got := out(); got != translated {
						t.Errorf("the source of the open connection is %v, before %v", got, translated)
					}
					if got := in(); got != client {
						t.Errorf("the client of the open node port is %v, before %v", got, client)
					}
					w.asks(t, w.b, podB, echoAt(fabric.PeerAddr), to.want)
					w.asks(t, w.Peer(), fabric.PeerAddr, netip.AddrPortFrom(node1, 30007), fabric.PeerAddr)
					if between == nil {
						between = w.conversation(ctx, t, fabric.PeerAddr)
						own = between()
					} else if got := between(); got != own {
						t.Errorf("the source of a connection from after the change is %v, before %v", got, own)
					}
				}
				w.noSpoofed(t)
			})
		}
	}
}

// request opens a connection of the peered network. It returns a function that exchanges data
// on it and returns the source that the server sees.
func (w *world) request(ctx context.Context, t *testing.T, to netip.AddrPort) func() netip.AddrPort {
	t.Helper()
	conn, err := w.Peer().Dial(ctx, "tcp", netip.AddrPort{}, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return func() netip.AddrPort { return exchange(ctx, t, conn) }
}
