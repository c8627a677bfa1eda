// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
)

// portRange is a range of ports. Both ends belong to it.
type portRange [2]uint16

// portsOf returns the union of the ranges of ports of a protocol, in order and apart.
func portsOf(all []Ports, protocol Protocol) []portRange {
	var ranges []portRange
	for _, p := range all {
		if p.Protocol == 0 || p.Protocol == protocol {
			first, last := p.ends()
			ranges = append(ranges, portRange{first, last})
		}
	}
	return joined(ranges)
}

// joined returns the union of ranges, in order and apart. It changes the order of ranges.
func joined(ranges []portRange) (union []portRange) {
	slices.SortFunc(ranges, func(a, b portRange) int { return cmp.Compare(a[0], b[0]) })
	for _, r := range ranges {
		if n := len(union); n > 0 && int(r[0]) <= int(union[n-1][1])+1 {
			union[n-1][1] = max(union[n-1][1], r[1])
			continue
		}
		union = append(union, r)
	}
	return union
}

// common returns what is in both of two lists of ranges that are in order and apart.
func common(a, b []portRange) (both []portRange) {
	for len(a) > 0 && len(b) > 0 {
		if first, last := max(a[0][0], b[0][0]), min(a[0][1], b[0][1]); first <= last {
			both = append(both, portRange{first, last})
		}
		if a[0][1] < b[0][1] {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return both
}

// less returns what is in ranges and not in cut. Both are in order and apart.
func less(ranges, cut []portRange) []portRange {
	rest, next := []portRange(nil), 0 // next is the first port behind the last cut
	for _, c := range cut {
		if int(c[0]) > next {
			rest = append(rest, portRange{uint16(next), c[0] - 1})
		}
		next = int(c[1]) + 1
	}
	if next <= 0xffff {
		rest = append(rest, portRange{uint16(next), 0xffff})
	}
	return common(ranges, rest)
}
