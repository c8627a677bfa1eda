// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// Rule asks to add or delete a rule. A rule to delete that has no table selects rules
// of all tables. The kernel answers EEXIST if it has the rule to add.
func (b *Batch) Rule(op netstate.Op, r netstate.Rule) {
	kind, flags := requestOf(op, unix.RTM_NEWRULE, create, unix.RTM_DELRULE)
	// Struct fib_rule_hdr has the layout of struct rtmsg; Type is its action.
	header := nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET, Type: unix.FR_ACT_TO_TBL}}
	if r.IPv6 {
		header.Family = unix.AF_INET6
	}
	if r.To.IsValid() {
		header.Dst_len = uint8(r.To.Bits())
	}
	if r.From.IsValid() {
		header.Src_len = uint8(r.From.Bits())
	}
	b.add(kind, flags, header.Serialize())
	b.attr32(unix.FRA_PRIORITY, uint32(r.Priority))
	if r.To.IsValid() {
		b.attrAddr(unix.FRA_DST, r.To.Addr())
	}
	if r.From.IsValid() {
		b.attrAddr(unix.FRA_SRC, r.From.Addr())
	}
	if r.Mark != 0 || r.Mask != 0 {
		b.attr32(unix.FRA_FWMARK, r.Mark)
		b.attr32(unix.FRA_FWMASK, r.Mask)
	}
	if r.IIF != "" {
		b.attrText(unix.FRA_IIFNAME, r.IIF)
	}
	if r.IPProto != 0 {
		b.attr8(unix.FRA_IP_PROTO, uint8(r.IPProto))
	}
	if r.Table != 0 {
		b.attr32(unix.FRA_TABLE, uint32(r.Table))
	}
	if r.Protocol != 0 {
		b.attr8(unix.FRA_PROTOCOL, uint8(r.Protocol))
	}
}

// decodeRule decodes a rule. Package netlink decodes rules only within its own calls,
// and not their actions and all of their selectors.
func decodeRule(body []byte) (netstate.Rule, error) {
	if len(body) < unix.SizeofRtMsg {
		return netstate.Rule{}, fmt.Errorf("rule message has %d bytes, want at least %d", len(body), unix.SizeofRtMsg)
	}
	header := nl.DeserializeRtMsg(body)
	r := netstate.Rule{IPv6: header.Family == unix.AF_INET6, Table: int(header.Table)}
	var other []string
	if header.Tos != 0 {
		other = append(other, fmt.Sprintf("tos %#x", header.Tos))
	}
	if header.Flags&unix.FIB_RULE_INVERT != 0 {
		other = append(other, "not")
	}
	if header.Type != unix.FR_ACT_TO_TBL {
		other = append(other, fmt.Sprintf("action %d", header.Type))
	}
	for kind, v := range attributes(body[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.FRA_PRIORITY:
			r.Priority = number(v)
		case unix.FRA_SRC:
			r.From = netip.PrefixFrom(addr(v), int(header.Src_len))
		case unix.FRA_DST:
			r.To = netip.PrefixFrom(addr(v), int(header.Dst_len))
		case unix.FRA_FWMARK:
			r.Mark = uint32(number(v))
		case unix.FRA_FWMASK:
			r.Mask = uint32(number(v))
		case unix.FRA_IIFNAME:
			r.IIF = unix.ByteSliceToString(v)
		case unix.FRA_IP_PROTO:
			r.IPProto = number(v)
		case unix.FRA_TABLE:
			r.Table = number(v)
		case unix.FRA_PROTOCOL:
			r.Protocol = number(v)
		default:
			other = append(other, otherSelector(kind, v)...)
		}
	}
	r.Other = strings.Join(other, " ")
	return r, nil
}

// otherSelector returns the text of a selector that no rule of this module has.
func otherSelector(kind uint16, v []byte) []string {
	switch kind {
	case unix.FRA_OIFNAME:
		return []string{"oif " + unix.ByteSliceToString(v)}
	case unix.FRA_GOTO:
		return []string{fmt.Sprintf("goto %d", number(v))}
	case unix.FRA_SPORT_RANGE:
		return []string{"sport " + portRange(v)}
	case unix.FRA_DPORT_RANGE:
		return []string{"dport " + portRange(v)}
	case unix.FRA_SUPPRESS_PREFIXLEN:
		if n := int32(number(v)); n >= 0 {
			return []string{fmt.Sprintf("suppress_prefixlength %d", n)}
		}
	case unix.FRA_UID_RANGE, unix.FRA_TUN_ID, unix.FRA_L3MDEV:
		if number(v) != 0 || len(v) > 4 {
			return []string{fmt.Sprintf("selector %d", kind)}
		}
	}
	return nil
}

// portRange returns the text of a struct fib_rule_port_range.
func portRange(b []byte) string {
	if len(b) < 4 {
		return "?"
	}
	return fmt.Sprintf("%d-%d", binary.NativeEndian.Uint16(b), binary.NativeEndian.Uint16(b[2:]))
}

// EachRule calls each for every rule of a family. There are none if the kernel lacks the
// family.
func (c *Conn) EachRule(f netstate.Family, each func(netstate.Rule)) error {
	var b Batch
	header := nl.RtMsg{RtMsg: unix.RtMsg{Family: familyNumber(f)}}
	b.add(unix.RTM_GETRULE, unix.NLM_F_DUMP, header.Serialize())
	rules, err := list(c, &b, func(body []byte) (netstate.Rule, bool, error) {
		r, err := decodeRule(body)
		return r, true, err
	})
	if err != nil {
		return ofFamily(err)
	}
	for _, r := range rules {
		each(r)
	}
	return nil
}
