// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"net/netip"
	"strconv"
	"strings"
)

// ParseRule reads a rule in the form that [Rule.String] writes. If it does not know a
// part, that part and the rest of the text become one [Foreign] statement.
func ParseRule(text string) Rule {
	var r Rule
	text, r.Comment = cutComment(strings.TrimSpace(text))
	for text != "" {
		s := guessText(text)
		length := len(s.String())
		r.Statements = append(r.Statements, s)
		text = strings.TrimSpace(text[min(length, len(text)):])
		if _, foreign := s.(Foreign); foreign {
			break
		}
	}
	return r
}

// cutComment splits the comment off the text of a rule.
func cutComment(text string) (rest, comment string) {
	const keyword = `comment "`
	for i := 0; i < len(text); i++ {
		if !strings.HasPrefix(text[i:], keyword) || i > 0 && text[i-1] != ' ' {
			continue
		}
		comment, err := strconv.Unquote(text[i+len(keyword)-1:])
		if err == nil {
			return strings.TrimSpace(text[:i]), comment
		}
	}
	return text, ""
}

// guessText returns the statement at the head of text. It makes a guess from the words,
// which is right if its text is the head of text.
func guessText(text string) Statement {
	words := strings.Fields(text)
	words = append(words, make([]string, 10)...) // so that every index exists
	if s := guessWords(text, words); s != nil {
		if rest, ok := strings.CutPrefix(text, s.String()); ok && (rest == "" || rest[0] == ' ') {
			return s
		}
	}
	return Foreign{Text: strings.TrimSpace(strings.TrimPrefix(text, "#"))}
}

// guessWords returns the statement that the text may begin with, or nil. w has its words.
func guessWords(text string, w []string) Statement {
	switch w[0] {
	case "iifname", "oifname":
		if set, ok := strings.CutPrefix(w[1], "@"); ok {
			return LinkIn{Out: w[0] == "oifname", Set: set}
		}
		name, _ := strconv.Unquote(w[1])
		return Link{Out: w[0] == "oifname", Name: name}
	case "ct":
		return guessCt(w)
	case "meta":
		switch {
		case w[1] == "l4proto":
			return map[string]Statement{"tcp": TCP, "udp": UDP}[w[2]]
		case w[1] == "mark":
			return SetMark(markOf(w))
		}
	case "ip", "ip6":
		return guessAddr(w)
	case "fib":
		if w[2] == "type" {
			return LocalAddr{Source: w[1] == "saddr", Not: w[3] == "!="}
		}
		return NoReverseRoute{}
	case "icmpv6":
		return RouterAdvert{}
	case "snat":
		return guessSourceNAT(w)
	case "flow":
		return FlowAdd{strings.TrimPrefix(w[2], "@")}
	case "jump":
		return Jump{w[1]}
	case "goto":
		return Goto{w[1]}
	case "limit":
		n, _ := strconv.ParseUint(strings.TrimSuffix(w[2], "/second"), 10, 64)
		return Limit{n}
	case "log":
		return guessLog(text)
	}
	return map[string]Statement{
		"counter": Counter{}, "return": Return{}, "accept": Accept{}, "drop": Drop{}, "reject": Reject{},
	}[w[0]]
}

func guessCt(w []string) Statement {
	switch {
	case w[2] == "related":
		return Related{}
	case w[2] == "established":
		return Established{}
	case w[1] == "state":
		return NewFlow{}
	case w[1] == "direction":
		return Reply{}
	case w[2] == "set":
		return SetCtMark(markOf(w))
	}
	return CtMark{Mask: hex(w[3]), Value: hex(w[5]), Not: w[4] == "!="}
}

func guessAddr(w []string) Statement {
	family := IPv4
	if w[0] == "ip6" {
		family = IPv6
	}
	switch {
	case w[2] == "." && w[3] == "meta":
		return InBoxes{family, w[1] == "daddr", w[7] == "sport", strings.TrimPrefix(w[8], "@")}
	case w[2] == ".":
		return Self{family, strings.TrimPrefix(w[5], "@")}
	case w[1] == "saddr":
		return SourceMap{family, strings.TrimPrefix(w[3], "@")}
	case w[2] == "vmap":
		return DestinationMap{family, strings.TrimPrefix(w[3], "@")}
	case w[2] == "!=":
		return DestinationNotIn{family, strings.TrimPrefix(w[3], "@")}
	}
	a, err := netip.ParseAddr(w[2])
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return nil
	}
	return Destination{a}
}

func guessSourceNAT(w []string) Statement {
	var s SourceNAT
	to, ports, _ := strings.Cut(w[3], ":")
	if w[1] == IPv6.String() {
		to, ports = w[3], ""
		if inside, ok := strings.CutPrefix(to, "["); ok {
			to, ports, _ = strings.Cut(inside, "]:")
		}
	}
	s.To, _ = netip.ParseAddr(to)
	first, last, _ := strings.Cut(ports, "-")
	s.First, s.Last = port(first), port(last)
	if c := PortChoice(w[4]); c == PortHash || c == PortRandom {
		s.Choice = c
	}
	if !s.To.IsValid() || s.To.Zone() != "" || s.To.Is4In6() {
		return nil
	}
	return s
}

// guessLog reads `log prefix "…" group N`.
func guessLog(text string) Statement {
	quoted, err := strconv.QuotedPrefix(strings.TrimPrefix(text, "log prefix "))
	if err != nil {
		return nil
	}
	prefix, _ := strconv.Unquote(quoted)
	_, rest, _ := strings.Cut(text, quoted+" group ")
	group, _, _ := strings.Cut(rest, " ")
	return Log{Prefix: prefix, Group: port(group)}
}

// markOf reads "meta mark set meta mark & 0x… | 0x…", where the part with & may be
// missing, and the same for ct.
func markOf(w []string) (m struct{ Mask, Value uint32 }) {
	and := ^uint32(0)
	if w[5] == "&" {
		and, w = hex(w[6]), w[2:]
	}
	m.Value = hex(w[6])
	m.Mask = ^and | m.Value
	return m
}

func hex(text string) uint32 {
	v, _ := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 32)
	return uint32(v)
}

func port(text string) uint16 {
	v, _ := strconv.ParseUint(text, 10, 16)
	return uint16(v)
}
