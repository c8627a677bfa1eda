// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// Compiled is a class as sets of disjoint boxes: ranges of addresses, protocols and ports.
// The kernel finds the box of a packet with one lookup, and refuses boxes that overlap.
// The zero Compiled is that of the zero Class. It is immutable.
type Compiled struct {
	ingress, egress side
}

// side is a class in one direction. The boxes of each family are sorted.
type side struct {
	isolated bool
	boxes    map[nft.Family][]nft.Element
}

// Compile returns the boxes of a class. It returns an error that wraps [ErrInvalid] for a
// class that has no meaning. The number of boxes grows with the number of different blocks
// and ranges of ports, not with their product: addresses with the same ports share boxes.
func Compile(c Class) (Compiled, error) {
	if err := c.validate(); err != nil {
		return Compiled{}, err
	}
	return Compiled{ingress: c.Ingress.compile(), egress: c.Egress.compile()}, nil
}

// judge is [Judge] by the boxes. The rule of the verdict is the text of the box in nft's
// notation.
func (c Compiled) judge(p Packet) Verdict {
	s := c.side(p.Direction)
	if !s.isolated {
		return Verdict{Allowed: true}
	}
	boxes := s.boxes[nft.FamilyOf(p.Peer)]
	for _, e := range boxes {
		if e.Box.Contains(p.Peer, byte(p.Protocol), p.Port) {
			return Verdict{Allowed: true, Rule: e.String()}
		}
	}
	return Verdict{}
}

// Isolated reports whether the class limits what a pod can do in a direction.
func (c Compiled) Isolated(d Direction) bool { return c.side(d).isolated }

func (c Compiled) side(d Direction) side {
	if d == Egress {
		return c.egress
	}
	return c.ingress
}

// families are the families of a table, in the order of its text.
var families = [...]nft.Family{nft.IPv4, nft.IPv6}

func (r Rules) compile() side {
	denies := func(x OrderedRule) bool { return x.Action == Deny }
	s := side{isolated: r.Isolated || slices.ContainsFunc(r.Before, denies) || slices.ContainsFunc(r.After, denies)}
	if !s.isolated {
		return s
	}
	for _, f := range families {
		if boxes := boxesOf(r, f); len(boxes) > 0 {
			if s.boxes == nil {
				s.boxes = map[nft.Family][]nft.Element{}
			}
			s.boxes[f] = boxes
		}
	}
	return s
}

// addrRange is a range of addresses of one family. Both ends belong to it.
type addrRange struct{ first, last netip.Addr }

// rect is a range of protocols and a range of ports.
type rect struct {
	protocols [2]byte
	ports     portRange
}

// boxesOf returns disjoint boxes of one family that have what the rules allow.
//
// It cuts the addresses at the ends of all blocks. Between two cuts the same lists of ports
// apply to all addresses; what they allow is cut into disjoint rectangles.
func boxesOf(rules Rules, f nft.Family) []nft.Element {
	lists, edges := edgesOf(rules, f)
	slices.SortFunc(edges, func(a, b edge) int { return a.addr.Compare(b.addr) })
	var (
		open   = make([]int, len(lists)) // how many blocks with each list of ports are open
		unions = newUnions(lists, rules.Isolated)
		pieces []piece
	)
	for i, at := 0, allOf(f).Addr(); at.IsValid(); {
		for ; i < len(edges) && edges[i].addr == at; i++ {
			open[edges[i].list] += edges[i].step
		}
		last := lastOf(f)
		if i < len(edges) {
			last = edges[i].addr.Prev()
		}
		rects := unions.of(open)
		if n := len(pieces); n > 0 && pieces[n-1].rects == rects && pieces[n-1].last.Next() == at {
			pieces[n-1].last = last
		} else if len(unions.rects[rects]) > 0 {
			pieces = append(pieces, piece{addrRange{at, last}, rects})
		}
		at = last.Next()
	}
	var boxes []nft.Element
	for _, p := range pieces {
		for _, r := range unions.rects[p.rects] {
			boxes = append(boxes, nft.Element{Box: nft.Box{
				First: p.first, Last: p.last, FirstProtocol: r.protocols[0], LastProtocol: r.protocols[1], FirstPort: r.ports[0], LastPort: r.ports[1],
			}})
		}
	}
	return boxes
}

// list is a list of ports, with the place of its rule among all rules of a direction. The
// rules of Allow that have the same ports share a list.
type list struct {
	ports  []Ports
	stage  stage
	action Action // of a rule of another stage than allow
}

// stage is a part of Rules, in the order in which they decide.
type stage uint8

const (
	before stage = iota
	allow
	after
)

// edge is an address at which blocks with a list of ports begin, or have ended.
type edge struct {
	addr netip.Addr
	list int
	step int // 1 or -1
}

// piece is a range of addresses with the number of its union of ports.
type piece struct {
	addrRange
	rects int
}

// edgesOf returns the lists of ports of the rules, in the order in which they decide, and the
// edges of their blocks.
func edgesOf(rules Rules, f nft.Family) (lists []list, edges []edge) {
	add := func(r Rule, l list) {
		if len(r.Ports) == 0 || len(r.Peers) == 0 {
			return
		}
		l.ports = r.Ports
		number := -1
		if l.stage == allow {
			number = slices.IndexFunc(lists, func(x list) bool { return x.stage == allow && slices.Equal(x.ports, r.Ports) })
		}
		if number < 0 {
			number, lists = len(lists), append(lists, l)
		}
		for _, b := range r.Peers {
			for _, x := range b.ranges(f) {
				edges = append(edges, edge{x.first, number, 1})
				if end := x.last.Next(); end.IsValid() {
					edges = append(edges, edge{end, number, -1})
				}
			}
		}
	}
	for _, r := range rules.Before {
		add(r.Rule, list{stage: before, action: r.Action})
	}
	for _, r := range rules.Allow {
		add(r, list{stage: allow})
	}
	for _, r := range rules.After {
		add(r.Rule, list{stage: after, action: r.Action})
	}
	return lists, edges
}

// ranges returns the addresses of a block that are of a family.
func (b Block) ranges(f nft.Family) []addrRange {
	whole := allOf(f)
	if b.Prefix.IsValid() {
		whole = b.Prefix
	}
	if nft.FamilyOf(whole.Addr()) != f {
		return nil
	}
	rest := []addrRange{rangeOf(whole)}
	for _, e := range b.Except {
		if nft.FamilyOf(e.Addr()) == f {
			rest = without(rest, rangeOf(e))
		}
	}
	return rest
}

// without returns what remains of disjoint ranges without another range.
func without(ranges []addrRange, cut addrRange) (rest []addrRange) {
	for _, r := range ranges {
		if cut.last.Less(r.first) || r.last.Less(cut.first) {
			rest = append(rest, r)
			continue
		}
		if r.first.Less(cut.first) {
			rest = append(rest, addrRange{r.first, cut.first.Prev()})
		}
		if cut.last.Less(r.last) {
			rest = append(rest, addrRange{cut.last.Next(), r.last})
		}
	}
	return rest
}

func rangeOf(p netip.Prefix) addrRange {
	return addrRange{p.Masked().Addr(), nft.LastAddr(p)}
}

// allOf returns the prefix of all addresses of a family.
func allOf(f nft.Family) netip.Prefix {
	if f == nft.IPv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func lastOf(f nft.Family) netip.Addr { return nft.LastAddr(allOf(f)) }

// unions computes what lists of ports allow together, each combination once.
type unions struct {
	lists    []list
	isolated bool
	byOpen   map[string]int // numbers of unions by the lists that they join
	byText   map[string]int // and by their rectangles
	rects    [][]rect       // by number; 0 is the empty union
}

func newUnions(lists []list, isolated bool) *unions {
	return &unions{lists: lists, isolated: isolated, byOpen: map[string]int{}, byText: map[string]int{"": 0}, rects: [][]rect{nil}}
}

// of returns the number of what the lists that are open allow.
func (u *unions) of(open []int) int {
	key := make([]byte, len(open))
	for i, n := range open {
		key[i] = byte(min(n, 1))
	}
	number, known := u.byOpen[string(key)]
	if known {
		return number
	}
	var all []list
	for i, n := range open {
		if n > 0 {
			all = append(all, u.lists[i])
		}
	}
	rects := u.rectsOf(all)
	text := textOf(rects)
	if number, known = u.byText[text]; !known {
		number = len(u.rects)
		u.byText[text], u.rects = number, append(u.rects, rects)
	}
	u.byOpen[string(key)] = number
	return number
}

func textOf(rects []rect) string {
	var b strings.Builder
	for _, r := range rects {
		b.Write([]byte{
			r.protocols[0], r.protocols[1],
			byte(r.ports[0] >> 8), byte(r.ports[0]), byte(r.ports[1] >> 8), byte(r.ports[1]),
		})
	}
	return b.String()
}

// rectsOf returns disjoint rectangles with what lists of ports allow, in order. Protocols
// with the same ports share rectangles if they follow one another.
func (u *unions) rectsOf(all []list) (rects []rect) {
	cuts := []int{0}
	for _, l := range all {
		for _, p := range l.ports {
			if p.Protocol != 0 {
				cuts = append(cuts, int(p.Protocol), int(p.Protocol)+1)
			}
		}
	}
	slices.Sort(cuts)
	cuts = append(slices.Compact(cuts), 256)
	var slab []rect // the last one
	for i, first := range cuts[:len(cuts)-1] {
		last := cuts[i+1] - 1
		if first > last {
			continue // behind the last protocol
		}
		ports := u.allowed(all, Protocol(first))
		same := slices.EqualFunc(slab, ports, func(r rect, p portRange) bool { return r.ports == p }) &&
			len(slab) > 0 && int(slab[0].protocols[1]) == first-1
		if same {
			for j := range slab {
				slab[j].protocols[1] = byte(last)
			}
			continue
		}
		rects, slab = append(rects, slab...), nil
		for _, p := range ports {
			slab = append(slab, rect{[2]byte{byte(first), byte(last)}, p})
		}
	}
	return append(rects, slab...)
}

// allowed returns the ports of a protocol that lists of ports allow, in order and apart.
func (u *unions) allowed(all []list, protocol Protocol) []portRange {
	var accepted, passed []portRange
	rest := []portRange{{0, 0xffff}} // undecided
	decide := func(s stage) {
		for _, l := range all {
			if l.stage != s {
				continue
			}
			ports := portsOf(l.ports, protocol)
			switch l.action {
			case Accept:
				accepted = append(accepted, common(rest, ports)...)
			case Pass:
				passed = append(passed, common(rest, ports)...)
			}
			rest = less(rest, ports)
		}
		rest, passed = joined(append(rest, passed...)), nil
	}
	decide(before)
	if !u.isolated {
		decide(after)
		return joined(append(accepted, rest...))
	}
	for _, l := range all {
		if l.stage == allow {
			accepted = append(accepted, common(rest, portsOf(l.ports, protocol))...)
		}
	}
	return joined(accepted)
}
