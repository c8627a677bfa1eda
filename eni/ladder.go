// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"slices"
	"time"
)

// ladderRest is how long a subnet that could not give a prefix, or an address,
// is not asked for one again.
const ladderRest = 2 * time.Minute

// rest is until when a subnet is not asked for prefixes, or for anything.
type rest struct {
	prefixes, all time.Time
}

// rung is one attempt at getting slots: how many of which sort, where.
type rung struct {
	Subnet   string
	Prefixes int
	Singles  int
}

// want is what the ladder is to reach. With Prefixes 0 it starts at the single
// addresses; with Singles 0 it ends at the prefixes.
type want struct {
	Prefixes, Singles int
}

// climb lists the attempts in order: prefixes in each subnet, all of them and
// then one, then single addresses in each subnet, all and then one. Subnets at
// rest are left out, so that a hopeless request is not repeated, and come back
// by themselves. Single addresses come out of broken blocks only: they are
// tried where no whole block is free. It is a pure function.
func climb(subnets []string, w want, rests map[string]rest, now time.Time) []rung {
	var out []rung
	each := func(r rung, resting func(rest) time.Time) {
		for _, s := range subnets {
			if now.Before(rests[s].all) || now.Before(resting(rests[s])) {
				continue
			}
			r.Subnet = s
			out = append(out, r)
		}
	}
	forPrefixes := func(r rest) time.Time { return r.prefixes }
	forAll := func(r rest) time.Time { return r.all }
	if w.Prefixes > 0 {
		each(rung{Prefixes: w.Prefixes}, forPrefixes)
	}
	if w.Prefixes > 1 {
		each(rung{Prefixes: 1}, forPrefixes)
	}
	if w.Singles > 0 {
		each(rung{Singles: w.Singles}, forAll)
	}
	if w.Singles > 1 {
		each(rung{Singles: 1}, forAll)
	}
	return out
}

// fell notes that a rung did not hold, for the reason given.
func fell(rests map[string]rest, r rung, why Reason, now time.Time) {
	s := rests[r.Subnet]
	until := now.Add(ladderRest)
	switch {
	case r.Prefixes == 1 && (why == ReasonNoFreePrefix || why == ReasonSubnetFull):
		s.prefixes = until
	case r.Prefixes == 0 && r.Singles <= 1 && why == ReasonSubnetFull:
		s.all = until
	}
	rests[r.Subnet] = s
}

// stick moves the subnet that served last to the front of those that may be
// used, so that a node does not hop between subnets that are about as full.
func stick(subnets []string, last string) []string {
	i := slices.Index(subnets, last)
	if i <= 0 {
		return subnets
	}
	out := append([]string{last}, subnets[:i]...)
	return append(out, subnets[i+1:]...)
}
