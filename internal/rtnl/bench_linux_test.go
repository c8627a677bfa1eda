// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
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
