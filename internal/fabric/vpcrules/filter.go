// SPDX-License-Identifier: Apache-2.0

package vpcrules

import (
	"cmp"
	"net/netip"
	"slices"
)

// Filter is the order in which the VPC compares a packet with rules, outbound and
// inbound. The first Match that selects the packet decides; a packet that no Match
// selects is denied.
type Filter struct{ out, in []Match }

// Direction returns the matches of outbound or of inbound packets.
func (f Filter) Direction(out bool) []Match {
	if out {
		return f.out
	}
	return f.in
}

// Match is one step of a Filter.
type Match struct {
	Traffic
	// Prefix contains the peer: the destination of outbound packets and the source of
	// inbound packets. If it is the zero Prefix, the peer is a member of Group.
	Prefix netip.Prefix
	Group  string
	Allow  bool
	// Answer means that the ports are those of the source: the Match allows the answers
	// in a flow of UDP that is not tracked.
	Answer bool
	// Tracked means that the ENI tracks the flow that the Match allows.
	Tracked bool
}

// selects reports whether the traffic includes the packet.
func (t Traffic) selects(p Packet) bool {
	if t.Protocol == All {
		return true
	}
	if t.Protocol != p.Protocol {
		return false
	}
	switch t.Protocol {
	case TCP, UDP:
		return t.From == All || t.From <= int(p.DstPort) && int(p.DstPort) <= t.To
	case ICMP, ICMPv6:
		return t.From == All || t.From == int(p.Type) && (t.To == All || t.To == int(p.Code))
	}
	return true
}

// lastPort is the largest port.
const lastPort = 1<<16 - 1

// possible reports whether a packet can have the ports or the ICMP type.
func (t Traffic) possible() bool {
	switch t.Protocol {
	case TCP, UDP:
		return t.From == All || t.From >= 0 && t.From <= lastPort && t.From <= t.To
	case ICMP, ICMPv6:
		return t.From >= All && t.From <= 255 && t.To >= All && t.To <= 255
	}
	return t.Protocol >= All && t.Protocol <= 255
}

// GroupFilter returns the filter of an ENI that has the given security groups. It
// returns false if none of them is in the rules, so that the ENI is not filtered.
func (r Rules) GroupFilter(groups []string) (Filter, bool) {
	var rules []Rule
	known := false
	for _, g := range r.Groups {
		if slices.Contains(groups, g.ID) {
			known = true
			rules = append(rules, g.Rules...)
		}
	}
	if !known {
		return Filter{}, false
	}
	return Filter{out: matches(rules, true), in: matches(rules, false)}, true
}

// matches returns the matches of one direction. A flow that any rule allows without
// tracking is not tracked, so these come first. The same is true for the answers of UDP,
// which look like new flows of the other direction.
func matches(rules []Rule, egress bool) []Match {
	var untracked, tracked []Match
	for _, r := range rules {
		if !r.possible() || r.Group == "" && !r.Prefix.IsValid() {
			continue
		}
		if r.Egress != egress {
			if (r.Protocol == UDP || r.Protocol == All) && r.open() && answersOpen(rules, r, UDP) {
				m := Match{Traffic: r.Traffic, Prefix: r.Prefix, Allow: true, Answer: true}
				if r.Protocol == All {
					m.Traffic = Traffic{Protocol: UDP, From: All, To: All}
				}
				untracked = append(untracked, m)
			}
			continue
		}
		for _, protocol := range []int{TCP, UDP} {
			if (r.Protocol == protocol || r.Protocol == All) && r.open() && answersOpen(rules, r, protocol) {
				m := Match{Traffic: r.Traffic, Prefix: r.Prefix, Allow: true}
				if r.Protocol == All {
					m.Traffic = Traffic{Protocol: protocol, From: All, To: All}
				}
				untracked = append(untracked, m)
			}
		}
		tracked = append(tracked, Match{Traffic: r.Traffic, Prefix: r.Prefix, Group: r.Group, Allow: true, Tracked: true})
	}
	return append(untracked, tracked...)
}

// open reports whether the rule allows all peers of its family.
func (r Rule) open() bool { return r.Prefix.IsValid() && r.Prefix.Bits() == 0 }

// answersOpen reports whether a rule of the other direction allows all the answers to
// the packets of the protocol that r allows.
func answersOpen(rules []Rule, r Rule, protocol int) bool {
	return slices.ContainsFunc(rules, func(o Rule) bool {
		if o.Egress == r.Egress || !o.open() || o.Prefix.Addr().Is4() != r.Prefix.Addr().Is4() {
			return false
		}
		return o.Protocol == All || o.Protocol == protocol && (o.From == All || o.From == 0 && o.To >= lastPort)
	})
}

// SubnetFilter returns the filter of the network ACL of a subnet. It returns false if
// the subnet has no ACL, or if its ACL allows everything in the families of the blocks.
func (r Rules) SubnetFilter(subnet string) (Filter, bool) {
	i := slices.IndexFunc(r.ACLs, func(a ACL) bool { return slices.Contains(a.Subnets, subnet) })
	if i < 0 {
		return Filter{}, false
	}
	var f Filter
	entries := slices.Clone(r.ACLs[i].Entries)
	slices.SortStableFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Number, b.Number) })
	for _, e := range entries {
		if !e.possible() || !e.Prefix.IsValid() {
			continue
		}
		m := Match{Traffic: e.Traffic, Prefix: e.Prefix, Allow: e.Allow}
		if e.Egress {
			f.out = append(f.out, m)
		} else {
			f.in = append(f.in, m)
		}
	}
	return f, !r.allowsAll(f.out) || !r.allowsAll(f.in)
}

// allowsAll reports whether the first match of each family allows everything. Without
// blocks it looks at both families.
func (r Rules) allowsAll(all []Match) bool {
	for _, v4 := range []bool{true, false} {
		if len(r.Blocks) > 0 && !slices.ContainsFunc(r.Blocks, func(p netip.Prefix) bool { return p.Addr().Is4() == v4 }) {
			continue
		}
		i := slices.IndexFunc(all, func(m Match) bool { return m.Prefix.Addr().Is4() == v4 })
		if i < 0 || !all[i].Allow || all[i].Protocol != All || all[i].Prefix.Bits() != 0 {
			return false
		}
	}
	return true
}

// Members returns the addresses and delegated prefixes of the ENIs that have the
// security group, sorted and without overlaps.
func (n Network) Members(group string) []netip.Prefix {
	var all []netip.Prefix
	for _, e := range n.ENIs {
		if slices.Contains(e.Groups, group) {
			all = append(all, e.Owned...)
		}
	}
	return Disjoint(all)
}

// Disjoint returns the prefixes sorted by address, without those that another one
// contains.
func Disjoint(prefixes []netip.Prefix) []netip.Prefix {
	all := slices.Clone(prefixes)
	for i, p := range all {
		all[i] = p.Masked()
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range all {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}
