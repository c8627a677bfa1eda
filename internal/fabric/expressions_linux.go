// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// The functions of this file return nftables expressions. Those that compare use
// register 1, which overlaps the registers of a key: a rule compares before it loads the
// key.

func family(f byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f}},
	}
}

func link(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: linkName(name)},
	}
}

func linkName(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}

// ipVersion holds what the expressions of one address family need.
type ipVersion struct {
	family          byte
	source          uint32 // offset of the source address; the destination follows it
	length          uint32 // of an address
	header          uint32 // length of a header without options or extension headers
	protocol        uint32 // offset of the protocol of the payload
	icmp            int    // protocol number of ICMP
	errors          []byte // ICMP types that quote a packet
	firstByte, mask byte   // of a header without options
}

var ipVersions = []ipVersion{
	{
		family: unix.NFPROTO_IPV4, source: 12, length: 4, header: 20, protocol: 9, icmp: vpcrules.ICMP,
		errors: []byte{3, 11, 12}, firstByte: 0x45, mask: 0xff,
	},
	{
		family: unix.NFPROTO_IPV6, source: 8, length: 16, header: 40, protocol: 6, icmp: vpcrules.ICMPv6,
		errors: []byte{1, 2, 3, 4}, firstByte: 0x60, mask: 0xf0,
	},
}

// versionOf returns the version of an address.
func versionOf(a netip.Addr) ipVersion {
	if a.Is4() {
		return ipVersions[0]
	}
	return ipVersions[1]
}

// place is the place of a value in the packet.
type place struct {
	base           expr.PayloadBase
	offset, length uint32
}

func (p place) load(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: p.base, Offset: p.offset, Len: p.length}
}

// is compares the value with data.
func (p place) is(data []byte) []expr.Any {
	return []expr.Any{p.load(1), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}
}

// masked compares the bits of the value that are in mask.
func (p place) masked(mask, data []byte) []expr.Any {
	return []expr.Any{
		p.load(1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: p.length, Mask: mask, Xor: make([]byte, p.length)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
	}
}

// between compares the value, a port, with a range.
func (p place) between(from, to int) []expr.Any {
	if from == to {
		return p.is(portNumber(from))
	}
	return []expr.Any{
		p.load(1),
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: portNumber(from)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: portNumber(to)},
	}
}

// in compares the value, an address, with a prefix.
func (p place) in(prefix netip.Prefix) []expr.Any {
	if prefix.Bits() == 0 {
		return nil
	}
	return p.masked(ipNet(prefix).Mask, prefix.Masked().Addr().AsSlice())
}

// member looks the value up in a set.
func (p place) member(set *nftables.Set, invert bool) []expr.Any {
	return []expr.Any{p.load(1), &expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID, Invert: invert}}
}

func portNumber(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

// address is the place of the source or the destination address.
func (v ipVersion) address(destination bool) place {
	p := place{expr.PayloadBaseNetworkHeader, v.source, v.length}
	if destination {
		p.offset += v.length
	}
	return p
}

// layer4 is a place in the transport header.
func layer4(offset, length uint32) place {
	return place{expr.PayloadBaseTransportHeader, offset, length}
}

// protocolIs compares the transport protocol with all given numbers: with one of them,
// or with none of them if op is CmpOpNeq.
func protocolIs(op expr.CmpOp, protocols ...int) []expr.Any {
	all := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}}
	for _, p := range protocols {
		all = append(all, &expr.Cmp{Op: op, Register: 1, Data: []byte{byte(p)}})
	}
	return all
}

// fragment selects fragments other than the first.
func (v ipVersion) fragment() []expr.Any {
	var load expr.Any = place{expr.PayloadBaseNetworkHeader, 6, 2}.load(1)
	mask := []byte{0x1f, 0xff}
	if v.family == unix.NFPROTO_IPV6 {
		load = &expr.Exthdr{DestRegister: 1, Type: unix.IPPROTO_FRAGMENT, Offset: 2, Len: 2, Op: expr.ExthdrOpIpv6}
		mask = []byte{0xff, 0xf8}
	}
	return append(family(v.family), load,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: mask, Xor: []byte{0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}},
	)
}

// opens selects TCP segments with SYN and without ACK.
func opens() []expr.Any {
	const flags, syn, ack = 13, 0x02, 0x10
	return append(protocolIs(expr.CmpOpEq, vpcrules.TCP), layer4(flags, 1).masked([]byte{syn | ack}, []byte{syn})...)
}

func accept() []expr.Any { return verdict(expr.VerdictAccept, "") }

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func dropCounted(name string) []expr.Any {
	return append(counted(name), verdict(expr.VerdictDrop, "")...)
}

func counted(name string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: name}}
}
