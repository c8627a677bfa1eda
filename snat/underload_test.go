// SPDX-License-Identifier: Apache-2.0

//go:build linux

package snat_test

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/snat"
)

// TestChangeUnderLoad changes the translation again and again while a pod opens flows to
// the internet and inside the VPC. Those to the internet must be translated and the others
// not, whichever rules their first packets meet.
func TestChangeUnderLoad(t *testing.T) {
	for name, change := range map[string]func(*snat.Config){
		"a prefix is excluded": func(c *snat.Config) { c.Excluded = append(c.Excluded, netip.MustParsePrefix("192.168.0.0/16")) },
		"an ENI joins":         func(c *snat.Config) { c.Returns = []snat.Return{{Link: "ens6", Mark: 1}} },
		"other ports":          func(c *snat.Config) { c.Random = snat.RandomHash },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			apply(t, w.snat, base(nil), true)
			w.asks(t, w.a, podA, echoAt(fabric.InternetAddr), node1)
			inside := capture(t, w.other, "ens5")
			stop := w.openFlows(t, fabric.InternetAddr, node2)
			for range 100 {
				apply(t, w.snat, base(change), true)
				apply(t, w.snat, base(nil), true)
			}
			stop()
			translated := 0
			for _, f := range inside() {
				if f.Src.Addr() == node1 {
					translated++
				}
			}
			if translated > 0 {
				t.Errorf("%d packets came to a node of the VPC with another address than the pod's", translated)
			}
			drops, err := w.Drops()
			if err != nil {
				t.Fatal(err)
			}
			if drops.InternetGateway > 0 {
				t.Errorf("%d packets reached the internet gateway with the address of the pod", drops.InternetGateway)
			}
		})
	}
}

// openFlows sends from the first pod, each packet to another port, until the caller calls
// stop.
func (w *world) openFlows(t *testing.T, to ...netip.Addr) (stop func()) {
	t.Helper()
	// The kernel's table of connections must not overflow.
	if err := w.node.Sysctl("netfilter/nf_conntrack_udp_timeout", "1"); err != nil {
		t.Fatal(err)
	}
	const burst = 30 // with a pause after it
	var (
		running sync.WaitGroup
		ended   atomic.Bool
	)
	for _, a := range to {
		c, err := w.a.ListenPacket(t.Context(), netip.AddrPortFrom(podA, 0))
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			defer c.Close()
			for port := 1; !ended.Load(); port = port%65535 + 1 {
				if _, err := c.WriteTo([]byte("x"), &net.UDPAddr{IP: a.AsSlice(), Port: port}); err != nil {
					t.Error(err)
					return
				}
				if port%burst == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	return func() {
		ended.Store(true)
		running.Wait()
	}
}

// capture records the flows of the packets on a link until the caller calls flows.
func capture(t *testing.T, ns *fabric.Netns, link string) (flows func() []fabric.Flow) {
	t.Helper()
	c, err := ns.Capture(link)
	if err != nil {
		t.Fatal(err)
	}
	return func() (all []fabric.Flow) {
		defer c.Close()
		packets, err := c.Packets()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packets {
			if f, ok := p.Flow(); ok {
				all = append(all, f)
			}
		}
		return all
	}
}
