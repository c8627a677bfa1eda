// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// phrase is one statement or match of nft's language: how its text becomes
// expressions, and what text the head of a row of expressions may come from. A
// guess may be wrong: whoever asks compiles it again and compares.
type phrase struct {
	text    string // as [match] takes it
	compile func(args []string) ([]expr.Any, error)
	guess   func(e []expr.Any) string
}

// phrases are all that our rules are made of.
var phrases = []phrase{
	{
		text: `iifname "%s*"`,
		compile: func(args []string) ([]expr.Any, error) {
			return []expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
				equals([]byte(args[1])),
			}, nil
		},
		guess: func(e []expr.Any) string { return fmt.Sprintf(`iifname "%s*"`, compared(e, 1)) },
	},
	{
		text: "fib saddr . iif oif missing",
		compile: func([]string) ([]expr.Any, error) {
			return []expr.Any{
				&expr.Fib{Register: 1, ResultOIF: true, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true},
				equals(make([]byte, 4)),
			}, nil
		},
		guess: func([]expr.Any) string { return "fib saddr . iif oif missing" },
	},
	{
		text: "icmpv6 type nd-router-advert",
		compile: func([]string) ([]expr.Any, error) {
			return []expr.Any{
				&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equals([]byte{unix.NFPROTO_IPV6}),
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equals([]byte{unix.IPPROTO_ICMPV6}),
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}, equals([]byte{134}),
			}, nil
		},
		guess: func([]expr.Any) string { return "icmpv6 type nd-router-advert" },
	},
	{
		text:    "%s daddr %s",
		compile: compileDestination,
		guess: func(e []expr.Any) string {
			a := rtnl.ParseAddr(compared(e, 3))
			return fmt.Sprintf("%s daddr %s", netstate.IpKeyword(a.Is6()), a)
		},
	},
	{
		text:    "%s saddr vmap @%s",
		compile: compileSourceMap,
		guess:   guessSourceMap,
	},
	{
		text: "meta mark set meta mark & 0x%s | 0x%s",
		compile: func(args []string) ([]expr.Any, error) {
			mask, err := strconv.ParseUint(args[1], 16, 32)
			if err != nil {
				return nil, err
			}
			set, err := strconv.ParseUint(args[2], 16, 32)
			if err != nil {
				return nil, err
			}
			return []expr.Any{
				&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
				&expr.Bitwise{
					SourceRegister: 1, DestRegister: 1, Len: 4,
					Mask: binary.NativeEndian.AppendUint32(nil, uint32(mask&^set)),
					Xor:  binary.NativeEndian.AppendUint32(nil, uint32(set)),
				},
				&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
			}, nil
		},
		guess: guessMark,
	},
	{
		text: "jump %s",
		compile: func(args []string) ([]expr.Any, error) {
			return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: args[1]}}, nil
		},
		guess: func(e []expr.Any) string {
			v, _ := e[0].(*expr.Verdict)
			if v == nil {
				return ""
			}
			return "jump " + v.Chain
		},
	},
	{
		text: "accept",
		compile: func([]string) ([]expr.Any, error) {
			return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}, nil
		},
		guess: func([]expr.Any) string { return "accept" },
	},
	{
		text: "drop",
		compile: func([]string) ([]expr.Any, error) {
			return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}, nil
		},
		guess: func([]expr.Any) string { return "drop" },
	},
	{
		text: "reject",
		compile: func([]string) ([]expr.Any, error) {
			return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}, nil
		},
		guess: func([]expr.Any) string { return "reject" },
	},
}

func equals(data []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

// compared returns what the i-th expression compares with, if it does.
func compared(e []expr.Any, i int) []byte {
	if i >= len(e) {
		return nil
	}
	if c, ok := e[i].(*expr.Cmp); ok {
		return c.Data
	}
	return nil
}

// network limits a rule to one family and loads an address of its header.
func network(keyword string, at4, at6 uint32) []expr.Any {
	family, payload := byte(unix.NFPROTO_IPV4), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at4, Len: 4}
	if keyword == "ip6" {
		family, payload.Offset, payload.Len = unix.NFPROTO_IPV6, at6, 16
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equals([]byte{family}), payload}
}

func compileDestination(args []string) ([]expr.Any, error) {
	a, err := netip.ParseAddr(args[2])
	if err != nil {
		return nil, err
	}
	if args[1] != netstate.IpKeyword(a.Is6()) || a.Zone() != "" || a.Is4In6() {
		return nil, fmt.Errorf("%w: %s address %s", ErrInvalid, args[1], a)
	}
	return append(network(args[1], 16, 24), equals(a.AsSlice())), nil
}

func compileSourceMap(args []string) ([]expr.Any, error) {
	if args[1] != netstate.IpKeyword(false) && args[1] != netstate.IpKeyword(true) {
		return nil, fmt.Errorf("%w: %s is no family", ErrInvalid, args[1])
	}
	return append(network(args[1], 12, 8),
		&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: args[2]}), nil
}

func guessSourceMap(e []expr.Any) string {
	if len(e) < 4 {
		return ""
	}
	lookup, ok := e[3].(*expr.Lookup)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s saddr vmap @%s", netstate.IpKeyword(bytes.Equal(compared(e, 1), []byte{unix.NFPROTO_IPV6})), lookup.SetName)
}

func guessMark(e []expr.Any) string {
	if len(e) < 2 {
		return ""
	}
	b, ok := e[1].(*expr.Bitwise)
	if !ok || len(b.Mask) != 4 || len(b.Xor) != 4 {
		return ""
	}
	mask, set := binary.NativeEndian.Uint32(b.Mask), binary.NativeEndian.Uint32(b.Xor)
	return fmt.Sprintf("meta mark set meta mark & 0x%08x | 0x%08x", mask|set, set)
}

// match returns the head of text that pattern describes, and then what each %s in
// pattern stands for: bytes other than blanks, quotes and asterisks. It is nil if
// text begins otherwise.
func match(pattern, text string) []string {
	args, rest := []string{""}, text
	for {
		literal, further, more := strings.Cut(pattern, "%s")
		after, ok := strings.CutPrefix(rest, literal)
		if !ok {
			return nil
		}
		pattern, rest = further, after
		if !more {
			break
		}
		n := strings.IndexAny(rest, " \t\n\"*")
		if n < 0 {
			n = len(rest)
		}
		if n == 0 {
			return nil
		}
		args, rest = append(args, rest[:n]), rest[n:]
	}
	args[0] = text[:len(text)-len(rest)]
	return args
}

// compilePhrase compiles the phrase at the head of text and returns the rest.
func compilePhrase(text string) (exprs []expr.Any, rest string, err error) {
	for _, p := range phrases {
		args := match(p.text, text)
		if args == nil {
			continue
		}
		exprs, err = p.compile(args)
		return exprs, strings.TrimPrefix(text[len(args[0]):], " "), err
	}
	return nil, "", fmt.Errorf("%w: rule %q is not of ours", ErrInvalid, text)
}

// compileRule turns the text of a rule into expressions.
func compileRule(text string) ([]expr.Any, error) {
	var all []expr.Any
	for text != "" {
		exprs, rest, err := compilePhrase(text)
		if err != nil {
			return nil, err
		}
		all, text = append(all, exprs...), rest
	}
	return all, nil
}

// decompileRule returns the text that compiles to exactly e; what is none of
// ours shows as the kinds of its expressions.
func decompileRule(e []expr.Any) string {
	var words []string
	for len(e) > 0 {
		text, n := decompilePhrase(e)
		words = append(words, text)
		e = e[n:]
	}
	return strings.Join(words, " ")
}

func decompilePhrase(e []expr.Any) (text string, n int) {
	for _, p := range phrases {
		guess := p.guess(e)
		args := match(p.text, guess)
		if args == nil || args[0] != guess {
			continue
		}
		exprs, err := p.compile(args)
		if err == nil && len(exprs) <= len(e) && sameExprs(exprs, e[:len(exprs)]) {
			return guess, len(exprs)
		}
	}
	return strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", e[0]), "*expr.")), 1
}

func sameExprs(a, b []expr.Any) bool {
	for i := range a {
		x, err := expr.Marshal(byte(nftables.TableFamilyINet), a[i])
		if err != nil {
			return false
		}
		y, err := expr.Marshal(byte(nftables.TableFamilyINet), b[i])
		if err != nil || !bytes.Equal(x, y) {
			return false
		}
	}
	return true
}
