// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// The router has two pairs of sets with flows as keys, one set for each family: the
// tracked flows of the security groups, and the counters of the flow log. The router
// adds the elements itself while it forwards packets. A key has these fields, each in
// registers of four bytes:
//
//	link index, mark, protocol, first port, second port, first address, second address
//
// The mark is 0 for tracked flows and tells apart the four kinds of entries of the flow
// log. Of tracked flows the first port and address are those of the ENI, of the flow log
// those of the source.

// keyRegister is the first register of a key.
const keyRegister = unix.NFT_REG32_00

const (
	trackedSet  = "tracked"
	flowSet     = "flows"
	maxTracked  = 1 << 20
	maxFlows    = 1 << 18
	flowTimeout = 2 * time.Minute // longer than the time between two readings
)

// keyLength returns the length of a key.
func (v ipVersion) keyLength() uint32 { return 5*4 + 2*v.length }

func (v ipVersion) flows(name string, size uint32) *nftables.Set {
	return &nftables.Set{
		Table: table(), Name: name + map[byte]string{unix.NFPROTO_IPV4: "-4", unix.NFPROTO_IPV6: "-6"}[v.family],
		Dynamic: true, HasTimeout: true, Timeout: flowTimeout, Size: size,
		KeyType: nftables.SetDatatype{Name: "flow", Bytes: v.keyLength()},
	}
}

// endpoint is one end of a flow: a place for the address, and a place or a fixed value
// of 0 for the port.
type endpoint struct {
	addr place
	port *place
}

// flowClass selects the packets of a protocol and knows where their ports are.
type flowClass struct {
	match    []expr.Any
	protocol int    // -1 means the protocol in the packet
	at       *place // of the protocol, if it is not that of the packet itself
	src, dst endpoint
	request  bool // not a reply to an ICMP request
}

// header is where the fields of a packet are: of the packet itself, or of the packet
// that an ICMP error quotes.
type header struct {
	version  ipVersion
	src, dst place
	protocol *place // nil means that of the packet itself
	payload  uint32 // offset of the transport header, from that of the packet itself
}

func (v ipVersion) outer() header {
	return header{version: v, src: v.address(false), dst: v.address(true)}
}

// quoted is the header of the packet that an ICMP error quotes, which follows eight bytes
// of the error.
func (v ipVersion) quoted() header {
	const quote = 8
	at := layer4(quote+v.protocol, 1)
	return header{
		version: v, src: layer4(quote+v.source, v.length), dst: layer4(quote+v.source+v.length, v.length),
		protocol: &at, payload: quote + v.header,
	}
}

func (h header) is(op expr.CmpOp, protocols ...int) []expr.Any {
	if h.protocol == nil {
		return protocolIs(op, protocols...)
	}
	all := []expr.Any{h.protocol.load(1)}
	for _, p := range protocols {
		all = append(all, &expr.Cmp{Op: op, Register: 1, Data: []byte{byte(p)}})
	}
	return all
}

// classes returns the kinds of packets that belong to a flow, as vpcrules.Judge has
// them: TCP, UDP, requests and replies of ICMP, and other protocols, which have no ports.
func (h header) classes() []flowClass {
	first, second, id := layer4(h.payload, 2), layer4(h.payload+2, 2), layer4(h.payload+4, 2)
	var all []flowClass
	add := func(c flowClass) {
		c.src.addr, c.dst.addr, c.at = h.src, h.dst, h.protocol
		all = append(all, c)
	}
	for _, protocol := range []int{vpcrules.TCP, vpcrules.UDP} {
		add(flowClass{
			match: h.is(expr.CmpOpEq, protocol), protocol: protocol, request: true,
			src: endpoint{port: &first}, dst: endpoint{port: &second},
		})
	}
	requests, replies := vpcrules.EchoTypes(h.version.icmp)
	isICMP := h.is(expr.CmpOpEq, h.version.icmp)
	for _, t := range requests {
		add(flowClass{
			match: slices.Concat(isICMP, layer4(h.payload, 1).is([]byte{t})), protocol: h.version.icmp, request: true,
			src: endpoint{port: &id},
		})
	}
	for _, t := range replies {
		add(flowClass{
			match: slices.Concat(isICMP, layer4(h.payload, 1).is([]byte{t})), protocol: h.version.icmp,
			dst: endpoint{port: &id},
		})
	}
	add(flowClass{
		match: h.is(expr.CmpOpNeq, vpcrules.TCP, vpcrules.UDP, vpcrules.ICMP, vpcrules.ICMPv6), protocol: -1, request: true,
	})
	return all
}

// tracked loads the key of a tracked flow, of a packet that an ENI sends or receives.
func (c flowClass) tracked(out bool) []expr.Any {
	local, remote := c.src, c.dst
	if !out {
		local, remote = remote, local
	}
	return c.key(out, 0, local, remote)
}

// quotedKey loads the key of a tracked flow, of the packet that an ICMP error quotes. An
// ENI that receives the error has sent the quoted packet.
func (c flowClass) quotedKey(out bool) []expr.Any {
	local, remote := c.src, c.dst
	if out {
		local, remote = remote, local
	}
	return c.key(out, 0, local, remote)
}

// logged loads the key of a flow in the flow log.
func (c flowClass) logged(out bool, mark uint32) []expr.Any { return c.key(out, mark, c.src, c.dst) }

func (c flowClass) key(out bool, mark uint32, first, second endpoint) []expr.Any {
	index := expr.MetaKeyOIF
	if out {
		index = expr.MetaKeyIIF
	}
	r := uint32(keyRegister)
	all := []expr.Any{
		&expr.Meta{Key: index, Register: r},
		&expr.Immediate{Register: r + 1, Data: binary.BigEndian.AppendUint32(nil, mark)},
	}
	if c.at != nil {
		all = append(all, c.at.load(r+2))
	} else {
		all = append(all, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r + 2})
	}
	for i, e := range []endpoint{first, second} {
		if e.port != nil {
			all = append(all, e.port.load(r+3+uint32(i)))
		} else {
			all = append(all, &expr.Immediate{Register: r + 3 + uint32(i), Data: make([]byte, 4)})
		}
	}
	return append(all, first.addr.load(r+5), second.addr.load(r+5+first.addr.length/4))
}

// timeout returns the timeout of a tracked flow.
func (c flowClass) timeout() time.Duration { return vpcrules.Timeout(c.protocol) }

func contains(set *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: keyRegister, SetName: set.Name, SetID: set.ID}}
}

// update adds the key to the set or renews its timeout.
func update(set *nftables.Set, timeout time.Duration, with ...expr.Any) []expr.Any {
	return []expr.Any{&expr.Dynset{
		SrcRegKey: keyRegister, SetName: set.Name, SetID: set.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: timeout, Exprs: with,
	}}
}

// flowKey is a key of the flow log.
type flowKey struct {
	index            int
	mark             uint32
	protocol         uint8
	srcPort, dstPort uint16
	src, dst         netip.Addr
}

// parseKey parses a key. It returns false if the length is wrong.
func (v ipVersion) parseKey(b []byte) (k flowKey, ok bool) {
	if len(b) != int(v.keyLength()) {
		return k, false
	}
	k.index, k.mark = int(binary.NativeEndian.Uint32(b)), binary.BigEndian.Uint32(b[4:])
	k.protocol, k.srcPort, k.dstPort = b[8], binary.BigEndian.Uint16(b[12:]), binary.BigEndian.Uint16(b[16:])
	k.src, _ = netip.AddrFromSlice(b[20 : 20+v.length])
	k.dst, _ = netip.AddrFromSlice(b[20+v.length:])
	return k, true
}
