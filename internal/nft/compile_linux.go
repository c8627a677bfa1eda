// SPDX-License-Identifier: Apache-2.0

package nft

import (
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

// ErrForeign means that a rule cannot be written because it has a part that this
// package does not know.
var ErrForeign = errors.New("unknown part of an nftables rule")

// compileRule returns the kernel's expressions for a rule. sets has the numbers of the
// sets that the same transaction makes.
func compileRule(r Rule, sets map[string]uint32) ([]expr.Any, error) {
	var all []expr.Any
	for _, s := range r.Statements {
		exprs := compile(s)
		if len(exprs) == 0 {
			return nil, fmt.Errorf("rule %q: %w: %q", r, ErrForeign, s)
		}
		for _, e := range exprs {
			if lookup, ok := e.(*expr.Lookup); ok {
				lookup.SetID = sets[lookup.SetName]
			}
		}
		all = append(all, exprs...)
	}
	return all, nil
}

// compile returns the expressions of one statement, nil if it cannot be expressed.
// Each statement uses registers from 1 on and leaves nothing in them for the next.
func compile(s Statement) []expr.Any {
	switch s := s.(type) {
	case Link:
		return compileLink(s)
	case LinkIn:
		key := expr.MetaKeyIIFNAME
		if s.Out {
			key = expr.MetaKeyOIFNAME
		}
		return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: s.Set}}
	case NewFlow:
		return compileState(expr.CtStateBitNEW)
	case Established:
		return compileState(expr.CtStateBitESTABLISHED)
	case Related:
		return compileState(expr.CtStateBitRELATED)
	case Reply:
		// The direction is loaded and compared. The field Direction of expr.Ct has
		// another purpose: it selects the direction from which addresses and ports
		// are loaded. The library encodes that field in four bytes, of which the
		// kernel reads the first, so that 1 becomes 0, the original direction.
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
			compare(expr.CmpOpEq, []byte{ipCtDirReply}),
		}
	case CtMark:
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
			bitwise(s.Mask, 0),
			compare(equality(s.Not), native(s.Value)),
		}
	case LocalAddr:
		return []expr.Any{
			&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagSADDR: s.Source, FlagDADDR: !s.Source},
			compare(equality(s.Not), native(unix.RTN_LOCAL)),
		}
	case NoReverseRoute:
		return []expr.Any{
			&expr.Fib{Register: 1, ResultOIF: true, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true},
			compare(expr.CmpOpEq, native(0)),
		}
	case Protocol:
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			compare(expr.CmpOpEq, []byte{byte(s)}),
		}
	case RouterAdvert, Destination, DestinationNotIn, DestinationMap, InBoxes, Self, SourceMap:
		return compileHeader(s)
	}
	return compileAction(s)
}

// compileState matches flows in one of the states of connection tracking.
func compileState(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		bitwise(bit, 0),
		compare(expr.CmpOpNeq, native(0)),
	}
}

// compileHeader is compile for statements that read a packet's headers.
func compileHeader(s Statement) []expr.Any {
	switch s := s.(type) {
	case RouterAdvert:
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			compare(expr.CmpOpEq, []byte{unix.NFPROTO_IPV6}),
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			compare(expr.CmpOpEq, []byte{unix.IPPROTO_ICMPV6}),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
			compare(expr.CmpOpEq, []byte{icmp6RouterAdvert}),
		}
	case Destination:
		return append(loadAddr(FamilyOf(s.Addr), destinationOffsets), compare(expr.CmpOpEq, s.Addr.AsSlice()))
	case DestinationNotIn:
		return append(loadAddr(s.Family, destinationOffsets), &expr.Lookup{SourceRegister: 1, SetName: s.Set, Invert: true})
	case DestinationMap:
		return append(loadAddr(s.Family, destinationOffsets), verdictOf(s.Map))
	case SourceMap:
		return append(loadAddr(s.Family, sourceOffsets), verdictOf(s.Map))
	case InBoxes:
		return compileInBoxes(s)
	case Self:
		next := secondRegister[s.Family]
		daddr := *payloadOf(loadAddr(s.Family, destinationOffsets))
		daddr.DestRegister = next
		return append(loadAddr(s.Family, sourceOffsets), &daddr, &expr.Lookup{SourceRegister: 1, SetName: s.Set})
	}
	return nil
}

// The registers of a concatenation follow one another. Each part begins with a register of
// four bytes; the kernel calls those at a multiple of 16 bytes by a number of their own.
var (
	secondRegister = map[Family]uint32{IPv4: unix.NFT_REG32_01, IPv6: unix.NFT_REG_2}
	thirdRegister  = map[Family]uint32{IPv4: unix.NFT_REG32_02, IPv6: unix.NFT_REG32_05}
)

func compileInBoxes(s InBoxes) []expr.Any {
	offsets, port := sourceOffsets, uint32(2)
	if s.Dst {
		offsets = destinationOffsets
	}
	if s.SourcePort {
		port = 0
	}
	return append(loadAddr(s.Family, offsets),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: secondRegister[s.Family]},
		&expr.Payload{DestRegister: thirdRegister[s.Family], Base: expr.PayloadBaseTransportHeader, Offset: port, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: s.Set})
}

// payloadOf returns the expression that loads the address.
func payloadOf(load []expr.Any) *expr.Payload { return load[len(load)-1].(*expr.Payload) }

// verdictOf looks up the loaded address in a map of verdicts.
func verdictOf(m string) *expr.Lookup {
	return &expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: m}
}

// compileAction is compile for actions.
func compileAction(s Statement) []expr.Any {
	switch s := s.(type) {
	case SetMark:
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			bitwise(^s.Mask, s.Value),
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
		}
	case SetCtMark:
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
			bitwise(^s.Mask, s.Value),
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
		}
	case Counter:
		return []expr.Any{&expr.Counter{}}
	case SourceNAT:
		return compileSourceNAT(s)
	case FlowAdd:
		return []expr.Any{&expr.FlowOffload{Name: s.Flowtable}}
	case Jump:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: s.Chain}}
	case Goto:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: s.Chain}}
	case Limit:
		return []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: s.PerSecond, Unit: expr.LimitTimeSecond, Burst: limitBurst}}
	case Log:
		return []expr.Any{&expr.Log{
			Key:   1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_GROUP,
			Group: s.Group, Data: []byte(s.Prefix),
		}}
	case Return:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
	case Accept:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	case Drop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	case Reject:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}
	}
	return nil
}

const (
	ipCtDirReply      = 1   // the kernel's IP_CT_DIR_REPLY
	icmp6RouterAdvert = 134 // RFC 4861, section 4.2
	linkNameSize      = 16  // the kernel's IFNAMSIZ, with the closing zero
	limitBurst        = 5   // nft's default, which its text leaves out
)

// The offsets of addresses in the headers of both families.
var (
	sourceOffsets      = map[Family]uint32{IPv4: 12, IPv6: 8}
	destinationOffsets = map[Family]uint32{IPv4: 16, IPv6: 24}
)

// loadAddr limits a rule to one family and loads an address of its header.
func loadAddr(f Family, offsets map[Family]uint32) []expr.Any {
	length := uint32(4)
	if f == IPv6 {
		length = 16
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		compare(expr.CmpOpEq, []byte{protocolOf(f)}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offsets[f], Len: length},
	}
}

// protocolOf returns the kernel's number of a family.
func protocolOf(f Family) byte {
	if f == IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func bitwise(and, xor uint32) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(and), Xor: native(xor)}
}

func compare(op expr.CmpOp, data []byte) *expr.Cmp {
	return &expr.Cmp{Op: op, Register: 1, Data: data}
}

func equality(not bool) expr.CmpOp {
	if not {
		return expr.CmpOpNeq
	}
	return expr.CmpOpEq
}

func compileLink(s Link) []expr.Any {
	key := expr.MetaKeyIIFNAME
	if s.Out {
		key = expr.MetaKeyOIFNAME
	}
	// A shorter comparison looks only at the beginning of the name.
	name, isPrefix := strings.CutSuffix(s.Name, "*")
	data := []byte(name)
	if !isPrefix {
		data = append(data, make([]byte, max(linkNameSize-len(name), 1))...)
	}
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, compare(expr.CmpOpEq, data)}
}

func compileSourceNAT(s SourceNAT) []expr.Any {
	nat := &expr.NAT{
		Type: expr.NATTypeSourceNAT, Family: uint32(protocolOf(FamilyOf(s.To))), RegAddrMin: 1,
		FullyRandom: s.Choice == PortRandom, Random: s.Choice == PortHash,
	}
	all := []expr.Any{&expr.Immediate{Register: 1, Data: s.To.AsSlice()}}
	if s.First != 0 || s.Last != 0 {
		nat.RegProtoMin, nat.RegProtoMax, nat.Specified = 2, 3, true
		all = append(all,
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, s.First)},
			&expr.Immediate{Register: 3, Data: binary.BigEndian.AppendUint16(nil, s.Last)})
	}
	return append(all, nat)
}

// expression is an expression as the kernel lists it. expr is nil if the library does
// not know its kind or cannot read it.
type expression struct {
	name string
	expr expr.Any
}

// decompile returns the statements that compile to exactly the expressions. If an
// expression begins no statement, it and the rest become one Foreign statement.
func decompile(exprs []expression) []Statement {
	var all []Statement
	exprs = slices.DeleteFunc(exprs, hasNoEffect)
	for i, e := range exprs {
		normalize(e.expr)
		if i >= 2 {
			normalizeReject(exprs[:i], e.expr)
		}
	}
	for len(exprs) > 0 {
		s, n := decompileHead(exprs)
		if n == 0 {
			return append(all, Foreign{foreignText(exprs)})
		}
		all, exprs = append(all, s), exprs[n:]
	}
	return all
}

// hasNoEffect reports whether an expression changes the byte order of a single byte, which
// the nft program writes for a protocol in a concatenation.
func hasNoEffect(e expression) bool {
	b, ok := e.expr.(*expr.Byteorder)
	return ok && b.Len < b.Size && b.SourceRegister == b.DestRegister
}

// decompileHead returns the first statement and the number of its expressions, 0 if the
// expressions begin no statement. It makes a guess from the values in them, which is
// right if it compiles to them.
func decompileHead(exprs []expression) (s Statement, n int) {
	s = guess(exprs)
	if s == nil {
		return nil, 0
	}
	want := compile(s)
	if len(want) > len(exprs) {
		return nil, 0
	}
	for i, w := range want {
		normalize(w)
		if !reflect.DeepEqual(w, exprs[i].expr) {
			return nil, 0
		}
	}
	return s, len(want)
}

// foreignText names expressions by their kinds, and those that are statements by
// their text.
func foreignText(exprs []expression) string {
	var words []string
	for len(exprs) > 0 {
		s, n := decompileHead(exprs)
		if n == 0 {
			words, exprs = append(words, exprs[0].name), exprs[1:]
			continue
		}
		words, exprs = append(words, s.String()), exprs[n:]
	}
	return strings.Join(words, " ")
}

// normalize removes the values that the kernel fills in and those that the library does
// not read.
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

// normalizeReject gives e the form for both families if e is a reject with the code of
// the family that the expressions before it match. The nft program writes that form for
// the text "reject" after a match of the family.
func normalizeReject(before []expression, e expr.Any) {
	reject, ok := e.(*expr.Reject)
	if !ok || reject.Type != unix.NFT_REJECT_ICMP_UNREACH {
		return
	}
	for i := range len(before) - 1 {
		family := at[expr.Cmp](before, i+1).Data
		if at[expr.Meta](before, i).Key != expr.MetaKeyNFPROTO || len(family) != 1 {
			continue
		}
		if code, ok := portUnreachable[family[0]]; ok && reject.Code == code {
			reject.Type, reject.Code = unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_PORT_UNREACH
			return
		}
	}
}

// portUnreachable are the codes in ICMP and ICMPv6, RFC 792 and RFC 4443.
var portUnreachable = map[byte]uint8{unix.NFPROTO_IPV4: 3, unix.NFPROTO_IPV6: 4}

// guess returns the statement that the expressions may begin with, or nil.
func guess(e []expression) Statement {
	switch head := e[0].expr.(type) {
	case *expr.Meta:
		return guessMeta(head.Key, e)
	case *expr.Ct:
		switch head.Key {
		case expr.CtKeySTATE:
			switch and, _, _ := masks(e); and {
			case expr.CtStateBitRELATED:
				return Related{}
			case expr.CtStateBitESTABLISHED:
				return Established{}
			}
			return NewFlow{}
		case expr.CtKeyDIRECTION:
			return Reply{}
		case expr.CtKeyMARK:
			if c := at[expr.Cmp](e, 2); len(c.Data) == 4 {
				and, _, _ := masks(e)
				return CtMark{Mask: and, Value: binary.NativeEndian.Uint32(c.Data), Not: c.Op == expr.CmpOpNeq}
			}
			if and, value, ok := masks(e); ok {
				return SetCtMark{Mask: ^and, Value: value}
			}
		}
	case *expr.Fib:
		if head.ResultADDRTYPE {
			return LocalAddr{Source: head.FlagSADDR, Not: at[expr.Cmp](e, 1).Op == expr.CmpOpNeq}
		}
		return NoReverseRoute{}
	case *expr.Counter:
		return Counter{}
	case *expr.Immediate:
		return guessSourceNATOf(e)
	case *expr.Verdict:
		switch head.Kind {
		case expr.VerdictJump:
			return Jump{head.Chain}
		case expr.VerdictGoto:
			return Goto{head.Chain}
		case expr.VerdictReturn:
			return Return{}
		case expr.VerdictAccept:
			return Accept{}
		case expr.VerdictDrop:
			return Drop{}
		}
	case *expr.FlowOffload:
		return FlowAdd{head.Name}
	case *expr.Reject:
		return Reject{}
	case *expr.Limit:
		return Limit{head.Rate}
	case *expr.Log:
		return Log{Prefix: string(head.Data), Group: head.Group}
	}
	return nil
}

func guessMeta(key expr.MetaKey, e []expression) Statement {
	compared := at[expr.Cmp](e, 1).Data
	switch key {
	case expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME:
		if set := at[expr.Lookup](e, 1).SetName; set != "" {
			return LinkIn{Out: key == expr.MetaKeyOIFNAME, Set: set}
		}
		name, _, whole := strings.Cut(string(compared), "\x00")
		if !whole {
			name += "*"
		}
		return Link{Out: key == expr.MetaKeyOIFNAME, Name: name}
	case expr.MetaKeyL4PROTO:
		if len(compared) == 1 && (compared[0] == byte(TCP) || compared[0] == byte(UDP)) {
			return Protocol(compared[0])
		}
	case expr.MetaKeyMARK:
		if and, value, ok := masks(e); ok {
			return SetMark{Mask: ^and, Value: value}
		}
	case expr.MetaKeyNFPROTO:
		family := IPv4
		if len(compared) == 1 && compared[0] == unix.NFPROTO_IPV6 {
			family = IPv6
		}
		if at[expr.Meta](e, 2).Key == expr.MetaKeyL4PROTO {
			return RouterAdvert{}
		}
		if a, ok := netip.AddrFromSlice(at[expr.Cmp](e, 3).Data); ok {
			return Destination{a}
		}
		if s := guessConcatenation(family, e); s != nil {
			return s
		}
		lookup := at[expr.Lookup](e, 3)
		switch {
		case lookup.Invert:
			return DestinationNotIn{family, lookup.SetName}
		case lookup.SetName == "":
		case at[expr.Payload](e, 2).Offset == destinationOffsets[family]:
			return DestinationMap{family, lookup.SetName}
		default:
			return SourceMap{family, lookup.SetName}
		}
	}
	return nil
}

// guessConcatenation returns the statement of an address that other parts follow, or nil.
func guessConcatenation(f Family, e []expression) Statement {
	if set := at[expr.Lookup](e, 4).SetName; set != "" {
		return Self{f, set}
	}
	if set := at[expr.Lookup](e, 5).SetName; set != "" {
		return InBoxes{
			Family: f, Set: set,
			Dst:        at[expr.Payload](e, 2).Offset == destinationOffsets[f],
			SourcePort: at[expr.Payload](e, 4).Offset == 0,
		}
	}
	return nil
}

// masks returns the operands of the second expression, a bitwise one. It is not ok if
// the expression toggles a bit: statements clear each bit before they set it.
func masks(e []expression) (and, value uint32, ok bool) {
	b := at[expr.Bitwise](e, 1)
	if len(b.Mask) != 4 || len(b.Xor) != 4 {
		return 0, 0, false
	}
	and, value = binary.NativeEndian.Uint32(b.Mask), binary.NativeEndian.Uint32(b.Xor)
	return and, value, and&value == 0
}

func guessSourceNATOf(e []expression) Statement {
	to, ok := netip.AddrFromSlice(at[expr.Immediate](e, 0).Data)
	if !ok {
		return nil
	}
	s, nat := SourceNAT{To: to}, at[expr.NAT](e, 1)
	if first, last := at[expr.Immediate](e, 1).Data, at[expr.Immediate](e, 2).Data; len(first) == 2 && len(last) == 2 {
		s.First, s.Last = binary.BigEndian.Uint16(first), binary.BigEndian.Uint16(last)
		nat = at[expr.NAT](e, 3)
	}
	switch {
	case nat.FullyRandom:
		s.Choice = PortRandom
	case nat.Random:
		s.Choice = PortHash
	}
	return s
}

// at returns the i-th expression if it is a T, else a zero T.
func at[T any](e []expression, i int) T {
	if i < len(e) {
		if x, ok := any(e[i].expr).(*T); ok {
			return *x
		}
	}
	var zero T
	return zero
}

// newExpressions makes an expression of each kind that rules of this package have.
var newExpressions = map[string]func() expr.Any{
	"meta":    func() expr.Any { return &expr.Meta{} },
	"cmp":     func() expr.Any { return &expr.Cmp{} },
	"ct":      func() expr.Any { return &expr.Ct{} },
	"fib":     func() expr.Any { return &expr.Fib{} },
	"bitwise": func() expr.Any { return &expr.Bitwise{} },
	"payload": func() expr.Any { return &expr.Payload{} },
	"lookup":  func() expr.Any { return &expr.Lookup{} },
	"counter": func() expr.Any { return &expr.Counter{} },
	"nat":     func() expr.Any { return &expr.NAT{} },
	"reject":  func() expr.Any { return &expr.Reject{} },
	"limit":   func() expr.Any { return &expr.Limit{} },
	"log":     func() expr.Any { return &expr.Log{} },

	"flow_offload": func() expr.Any { return &expr.FlowOffload{} },
}

// decodeExpression reads one expression. The library's function for whole rules is not
// enough: it leaves out expressions that it does not know, so that another program's
// rule could look like one of this module, and it fails for a match of an original
// direction's address.
func decodeExpression(name string, data []byte) expression {
	const family = byte(nftables.TableFamilyINet)
	if name == "immediate" {
		immediate := &expr.Immediate{}
		if err := expr.Unmarshal(family, data, immediate); err != nil {
			return expression{name: name}
		}
		if immediate.Register != unix.NFT_REG_VERDICT {
			return expression{name, immediate}
		}
		verdict := &expr.Verdict{}
		if err := expr.Unmarshal(family, data, verdict); err != nil {
			return expression{name: "verdict"}
		}
		return expression{"verdict", verdict}
	}
	if name == "byteorder" { // which the library does not read
		parts, err := attributesOf(data)
		if err != nil {
			return expression{name: name}
		}
		return expression{name, &expr.Byteorder{
			SourceRegister: number(parts[unix.NFTA_BYTEORDER_SREG]), DestRegister: number(parts[unix.NFTA_BYTEORDER_DREG]),
			Len: number(parts[unix.NFTA_BYTEORDER_LEN]), Size: number(parts[unix.NFTA_BYTEORDER_SIZE]),
		}}
	}
	create := newExpressions[name]
	if create == nil {
		return expression{name: name}
	}
	e := create()
	if err := expr.Unmarshal(family, data, e); err != nil {
		return expression{name: name}
	}
	return expression{name, e}
}
