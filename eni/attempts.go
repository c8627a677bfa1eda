// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"slices"
	"time"
)

// exhaustedFor is how long a subnet that had no free prefix, or no free address,
// is not asked for one again.
const exhaustedFor = 2 * time.Minute

// exhaustion says until when a subnet is not asked for prefixes, and until when
// it is not asked for anything.
type exhaustion struct {
	prefixes, all time.Time
}

// attempt is one call that requests slots: how many of each sort in which subnet.
type attempt struct {
	Subnet   string
	Prefixes int
	Singles  int
}

// slotRequest is the number of slots to get: prefixes, or single addresses in
// their place. If Prefixes is 0, only single addresses are tried. If Singles is
// 0, only prefixes are tried.
type slotRequest struct {
	Prefixes, Singles int
}

// listAttempts lists the attempts at a request in order: all prefixes in each
// subnet, then one prefix in each subnet, then all single addresses in each
// subnet, then one in each. It omits exhausted subnets until their time is over,
// so that a hopeless call is not repeated. Single addresses come last, because
// they would break a free block that can still serve as a prefix. It is a pure
// function.
func listAttempts(subnets []string, w slotRequest, exhausted map[string]exhaustion, now time.Time) []attempt {
	var out []attempt
	each := func(a attempt, until func(exhaustion) time.Time) {
		for _, s := range subnets {
			if now.Before(exhausted[s].all) || now.Before(until(exhausted[s])) {
				continue
			}
			a.Subnet = s
			out = append(out, a)
		}
	}
	forPrefixes := func(e exhaustion) time.Time { return e.prefixes }
	forAll := func(e exhaustion) time.Time { return e.all }
	if w.Prefixes > 0 {
		each(attempt{Prefixes: w.Prefixes}, forPrefixes)
	}
	if w.Prefixes > 1 {
		each(attempt{Prefixes: 1}, forPrefixes)
	}
	if w.Singles > 0 {
		each(attempt{Singles: w.Singles}, forAll)
	}
	if w.Singles > 1 {
		each(attempt{Singles: 1}, forAll)
	}
	return out
}

// markExhausted records in exhausted that an attempt failed for a reason. Only an
// attempt at a single slot proves that the subnet has none left.
func markExhausted(exhausted map[string]exhaustion, a attempt, reason Reason, now time.Time) {
	e := exhausted[a.Subnet]
	until := now.Add(exhaustedFor)
	switch {
	case a.Prefixes == 1 && (reason == ReasonNoFreePrefix || reason == ReasonSubnetFull):
		e.prefixes = until
	case a.Prefixes == 0 && a.Singles <= 1 && reason == ReasonSubnetFull:
		e.all = until
	}
	exhausted[a.Subnet] = e
}

// preferSubnet moves the subnet that was used last to the front of the list, so
// that a node does not alternate between subnets with about as many free
// addresses.
func preferSubnet(subnets []string, last string) []string {
	i := slices.Index(subnets, last)
	if i <= 0 {
		return subnets
	}
	out := append([]string{last}, subnets[:i]...)
	return append(out, subnets[i+1:]...)
}
