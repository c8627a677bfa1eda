// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// FuzzDecode feeds the decoders of messages with arbitrary bytes: they may fail, but
// must not panic, and their results must print.
func FuzzDecode(f *testing.F) {
	var b Batch
	b.AddRoute(3, netstate.Route{Dst: netip.MustParsePrefix("10.0.0.0/24"), Via: netip.MustParseAddr("10.0.0.1"), Table: 20000, MTU: 1500})
	b.Rule(netstate.OpAdd, netstate.Rule{Priority: 512, To: netip.MustParsePrefix("2001:db8::1/128"), IPv6: true, Table: 2, Mark: 1, Mask: 0x7f, IIF: "lo"})
	b.Address(netstate.OpAdd, 3, netstate.Address{Prefix: netip.MustParsePrefix("10.0.0.1/32")})
	b.Neighbor(netstate.OpAdd, 3, netstate.Neighbor{Addr: netip.MustParseAddr("fe80::1"), MAC: "02:00:00:00:00:01"})
	b.CreateVeth(VethPair{Name: "eni1", Peer: "eth0", MAC: make(net.HardwareAddr, 6), PeerMAC: make(net.HardwareAddr, 6), MTU: 1400}, 3)
	for _, m := range parse(b.serialize(0)) {
		f.Add(m.Data)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		links := LinkNames{3: "eth0"}
		if l, err := decodeLink(body); err == nil {
			_ = l.String()
		}
		if a, err := decodeAddress(body, links); err == nil {
			_ = netstate.Change{Op: netstate.OpAdd, Item: a}.String()
		}
		if n, err := decodeNeighbor(body, links); err == nil {
			_ = netstate.Change{Op: netstate.OpDelete, Item: n.Neighbor}.String()
		}
		if r, err := decodeRoute(body, links); err == nil {
			_ = netstate.Change{Op: netstate.OpAdd, Item: r.Route}.String()
			_ = netstate.State{Routes: []netstate.Route{r.Route, r.Route}}.Lookup(netstate.Query{Dst: netip.MustParseAddr("10.0.0.1")})
		}
		if r, err := decodeRule(body); err == nil {
			_ = netstate.Change{Op: netstate.OpDelete, Item: r}.String()
			_, _ = r.Applies(netstate.Query{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.1")})
		}
		for kind := uint16(unix.RTM_NEWLINK); kind <= unix.RTM_GETNETCONF; kind++ {
			_ = routeEvent(message{Header: syscall.NlMsghdr{Type: kind}, Data: body}, links)
		}
		for _, kind := range []uint16{nftNewGeneration, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE} {
			_ = nftEvent(message{Header: syscall.NlMsghdr{Type: kind}, Data: body})
		}
		for _, kind := range []uint16{unix.NLMSG_ERROR, unix.NLMSG_DONE} {
			_ = messageError(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind, Flags: unix.NLM_F_ACK_TLVS | unix.NLM_F_CAPPED}, Data: body})
		}
	})
}
