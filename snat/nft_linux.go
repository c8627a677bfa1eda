// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// compile translates one part of a rule into the kernel's expressions. Each part
// uses register 1 and leaves nothing in it for the next.
func compile(s stmt, sets map[string]*nftables.Set) []expr.Any {
	switch s := s.(type) {
	case linkName:
		return compileLink(s)
	case ctNew:
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			mask(native(expr.CtStateBitNEW), native(0)),
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(0)},
		}
	case outside:
		return compileOutside(s, sets)
	case addrType:
		op := expr.CmpOpEq
		if s.not {
			op = expr.CmpOpNeq
		}
		return []expr.Any{
			&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagSADDR: s.source, FlagDADDR: !s.source},
			&expr.Cmp{Op: op, Register: 1, Data: native(unix.RTN_LOCAL)},
		}
	case setCtMark:
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
			mask(native(^s.bit), native(s.bit)),
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
		}
	case setMark:
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			mask(native(^s.bit), native(s.bit)),
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
		}
	case ctMarked, ctNumbered, ctReply, setCtNumber, setNumber, jump:
		return compileReturn(s)
	case counter:
		return []expr.Any{&expr.Counter{}}
	case protocol:
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(s)}},
		}
	case translate:
		return compileTranslate(s)
	}
	return nil
}

// compileReturn is compile for what the way of answers takes.
func compileReturn(s stmt) []expr.Any {
	switch s := s.(type) {
	case ctReply:
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{ipCtDirReply}},
		}
	case ctNumbered:
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
			mask(native(s.mask), native(0)),
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(0)},
		}
	case ctMarked:
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
			mask(native(s.mask), native(0)),
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native(s.value)},
		}
	case setCtNumber:
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
			mask(native(^s.mask), native(s.number)),
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
		}
	case setNumber:
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			mask(native(^s.mask), native(s.number)),
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
		}
	case jump:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: s.chain}}
	}
	return nil
}

// ipCtDirReply is IP_CT_DIR_REPLY of the kernel.
const ipCtDirReply = 1

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func mask(and, xor []byte) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(and)), Mask: and, Xor: xor}
}

func compileLink(s linkName) []expr.Any {
	key := expr.MetaKeyIIFNAME
	if s.out {
		key = expr.MetaKeyOIFNAME
	}
	// A shorter comparison looks only at the beginning of the name.
	name, isPrefix := strings.CutSuffix(s.name, "*")
	data := []byte(name)
	if !isPrefix {
		data = append(data, make([]byte, maxLinkName-len(name))...)
	}
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
	}
}

func compileOutside(s outside, sets map[string]*nftables.Set) []expr.Any {
	const destinationOffset = 16
	lookup := &expr.Lookup{SourceRegister: 1, SetName: s.set, Invert: true}
	if set := sets[s.set]; set != nil {
		lookup.SetID = set.ID // the set is made in the same batch
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: destinationOffset, Len: 4},
		lookup,
	}
}

func compileTranslate(s translate) []expr.Any {
	nat := &expr.NAT{
		Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1,
		FullyRandom: s.random == RandomPRNG, Random: s.random == RandomHash,
	}
	all := []expr.Any{&expr.Immediate{Register: 1, Data: s.to.AsSlice()}}
	if s.ports != (Ports{}) {
		nat.RegProtoMin, nat.RegProtoMax, nat.Specified = 2, 3, true
		all = append(all,
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, s.ports.First)},
			&expr.Immediate{Register: 3, Data: binary.BigEndian.AppendUint16(nil, s.ports.Last)})
	}
	return append(all, nat)
}

// decompile finds the parts that compile to the expressions. It guesses what a
// part might be from the values in it and compiles the guess to be sure.
func decompile(exprs []expr.Any) (stmts []stmt) {
	for _, e := range exprs {
		normalize(e)
	}
	for len(exprs) > 0 {
		found := false
		for _, s := range guesses(exprs) {
			want := compile(s, nil)
			for _, e := range want {
				normalize(e)
			}
			if len(want) <= len(exprs) && reflect.DeepEqual(want, exprs[:len(want)]) {
				stmts, exprs, found = append(stmts, s), exprs[len(want):], true
				break
			}
		}
		if !found {
			stmts, exprs = append(stmts, foreign{fmt.Sprintf("%T", exprs[0])}), exprs[1:]
		}
	}
	return stmts
}

// normalize forgets what the kernel fills in and what reading it loses.
func normalize(e expr.Any) {
	switch e := e.(type) {
	case *expr.Ct:
		if e.SourceRegister {
			e.SourceRegister, e.Register = false, 0
		}
	case *expr.NAT:
		if e.RegAddrMax == e.RegAddrMin {
			e.RegAddrMax = 0
		}
	case *expr.Counter:
		*e = expr.Counter{}
	case *expr.Lookup:
		e.SetID = 0
	}
}

// guesses returns what the expressions may begin with.
func guesses(exprs []expr.Any) []stmt {
	all := []stmt{ctNew{}, ctReply{}, counter{}, protocolTCP, protocolUDP, addrType{}, addrType{not: true}, addrType{source: true}, addrType{source: true, not: true}}
	var ports []uint16
	var bits uint32
	for _, e := range exprs[:min(len(exprs), 4)] {
		switch e := e.(type) {
		case *expr.Cmp:
			if len(e.Data) == 4 {
				all = append(all, ctMarked{bits, binary.NativeEndian.Uint32(e.Data)})
			}
			name, _, closed := strings.Cut(string(e.Data), "\x00")
			if !closed {
				name += "*"
			}
			all = append(all, linkName{name: name}, linkName{out: true, name: name})
		case *expr.Bitwise:
			if len(e.Mask) == 4 && len(e.Xor) == 4 {
				and, or := binary.NativeEndian.Uint32(e.Mask), binary.NativeEndian.Uint32(e.Xor)
				bits = and
				all = append(all, ctNumbered{and}, setCtMark{or}, setMark{or}, setCtNumber{^and, or}, setNumber{^and, or})
			}
		case *expr.Lookup:
			all = append(all, outside{e.SetName})
		case *expr.Verdict:
			all = append(all, jump{e.Chain})
		case *expr.Immediate:
			if len(e.Data) == 2 {
				ports = append(ports, binary.BigEndian.Uint16(e.Data))
			}
		}
	}
	if to, ok := exprs[0].(*expr.Immediate); ok && len(to.Data) == 4 {
		var p Ports
		if len(ports) == 2 {
			p = Ports{ports[0], ports[1]}
		}
		a := netip.AddrFrom4([4]byte(to.Data))
		all = append(all, translate{a, p, RandomPRNG}, translate{a, p, RandomHash}, translate{a, p, RandomNone})
	}
	return all
}

// intervals writes prefixes as the kernel keeps them: the first address, and the
// first one behind as an end.
func intervals(prefixes []netip.Prefix) (all []nftables.SetElement) {
	for _, p := range prefixes {
		all = append(all, nftables.SetElement{Key: p.Addr().AsSlice()})
		if end, ok := behind(p); ok {
			all = append(all, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return all
}

// behind is the first address after p; there is none after the last of all.
func behind(p netip.Prefix) (netip.Addr, bool) {
	last := binary.BigEndian.Uint32(p.Addr().AsSlice()) | ^uint32(0)>>p.Bits()
	return addr4(last + 1), last != ^uint32(0)
}

func addr4(v uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v)))
}

// prefixes reads intervals; an interval that is no prefix is an error.
func prefixes(elements []nftables.SetElement) (all []netip.Prefix, err error) {
	type bound struct {
		at  uint64
		end bool
	}
	var bounds []bound
	for _, e := range elements {
		if len(e.Key) != 4 {
			return nil, errors.New("has an element that is no address")
		}
		bounds = append(bounds, bound{uint64(binary.BigEndian.Uint32(e.Key)), e.IntervalEnd})
	}
	slices.SortFunc(bounds, func(a, b bound) int {
		ends := map[bool]int{true: 0, false: 1} // one interval ends where the next begins
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(ends[a.end], ends[b.end]))
	})
	for i, b := range bounds {
		if b.end {
			continue
		}
		end := uint64(1) << 32
		if i+1 < len(bounds) {
			end = bounds[i+1].at
		}
		p, ok := prefixOf(b.at, end)
		if !ok {
			return nil, fmt.Errorf("has a range of %d addresses from %v", end-b.at, addr4(uint32(b.at)))
		}
		all = append(all, p)
	}
	return all, nil
}

// prefixOf is the prefix from start to the address before end, if that is one.
func prefixOf(start, end uint64) (netip.Prefix, bool) {
	for n := range 33 {
		if p := netip.PrefixFrom(addr4(uint32(start)), n); end-start == 1<<(32-n) {
			return p, p == p.Masked()
		}
	}
	return netip.Prefix{}, false
}
