// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// addRequests returns the requests of an ADD in the per-pod layout, without those that
// look for what earlier pods have left.
func addRequests() *Batch {
	var b Batch
	b.CreateVeth(VethPair{Name: testLink, MAC: testMAC, Peer: testPeer, PeerMAC: peerMAC, MTU: 9001, Group: 5}, 7)
	b.FindLink(testLink)
	b.MatchRoute(addr4, 0x80)
	for range 2 { // sandbox and node
		b.SetLink(3, netstate.Link{Up: true})
		b.Neighbor(netstate.OpAdd, 3, netstate.Neighbor{Addr: addr4, MAC: peerMAC.String()})
		b.AddRoute(3, netstate.Route{Dst: netstate.HostPrefix(addr4), Table: 254, Protocol: 4})
		b.FindIndex(3)
	}
	b.Address(netstate.OpAdd, 3, netstate.Address{Prefix: netstate.HostPrefix(addr4)})
	b.AddRoute(3, netstate.Route{Dst: netstate.HostPrefix(addr4), Via: addr4, Table: 254, MTU: 1500})
	b.NoLinkLocal(3)
	b.Rule(netstate.OpAdd, netstate.Rule{Priority: 512, To: netstate.HostPrefix(addr4), Table: 254, Protocol: 4})
	b.Group(3, 0)
	return &b
}

func BenchmarkEncodeADD(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		addRequests().serialize(1)
	}
}

func BenchmarkDecodeLink(b *testing.B) {
	c := connect(b)
	createPair(b, c)
	var q Batch
	q.FindLink(testLink)
	body := do(b, c, &q)[0].body
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeLink(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	c := connect(b)
	b.ReportAllocs()
	for b.Loop() {
		var q Batch
		q.FindIndex(1)
		do(b, c, &q)
	}
}

// BenchmarkObserve observes a namespace with as many links, addresses, neighbours and routes
// as a node with 735 pods has.
func BenchmarkObserve(b *testing.B) {
	c := connect(b)
	const pods = 735
	for i := range pods {
		var q Batch
		q.CreateVirtual(netstate.Link{Name: fmt.Sprintf("pod%d", i), Kind: "bridge"}, 0)
		do(b, c, &q)
		l, err := c.LinkByName(fmt.Sprintf("pod%d", i))
		if err != nil {
			b.Fatal(err)
		}
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		var p Batch
		p.SetLink(l.Index, netstate.Link{Up: true})
		p.Neighbor(netstate.OpAdd, l.Index, netstate.Neighbor{Addr: addr, MAC: peerMAC.String()})
		p.AddRoute(l.Index, netstate.Route{Dst: netstate.HostPrefix(addr), Table: 100, Protocol: 4})
		do(b, c, &p)
	}
	for _, x := range []struct {
		name    string
		observe func() (Observation, error)
	}{{"all", c.Observe}, {"uses", c.ObserveUses}} {
		b.Run(x.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if o, err := x.observe(); err != nil || len(o.Routes) < pods {
					b.Fatal(len(o.Routes), err)
				}
			}
		})
	}
}
