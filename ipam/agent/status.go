// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// Status is the agent at one moment.
type Status struct {
	// Ready means that pods can be served: an address of an ENI whose link is
	// verified has been seen since Run began.
	Ready bool
	// Observed means that the provider has answered since Run began.
	Observed bool
	// Reason says why not, or why no more addresses come at present. Empty if
	// there is nothing to say.
	Reason   ipam.Reason
	Evidence string
	// RetryAfter is when the agent tries again. Zero if unknown.
	RetryAfter time.Duration
	// Free is how many addresses of the first family could be allocated at once.
	Free int
	// InFlight lists the actions under way, and Decisions the latest decision
	// of each card, in words.
	InFlight  []string
	Decisions []string
	// Pool is the pool at the same moment.
	Pool ipam.View
}

// Status returns the present state. It does not wait for anything.
func (a *Agent) Status() Status {
	v := a.cfg.Pool.View()
	a.mu.Lock()
	s, retryAt := a.status, a.retryAt
	a.mu.Unlock()
	s.InFlight, s.Decisions = slices.Clone(s.InFlight), slices.Clone(s.Decisions)
	s.Pool, s.Free = v, free(v, a.families[0])
	if retryAt.After(v.At) {
		s.RetryAfter = retryAt.Sub(v.At)
	}
	return s
}

// free counts the addresses of a family that can be allocated now.
func free(v ipam.View, f ipam.Family) int {
	n := 0
	for b := range allocatable(v) {
		if ipam.FamilyOf(b.Prefix.Addr()) == f {
			n += b.Free
		}
	}
	return n
}

// allocatable yields the blocks that addresses may be taken from.
func allocatable(v ipam.View) func(yield func(ipam.BlockView) bool) {
	return func(yield func(ipam.BlockView) bool) {
		for _, e := range v.ENIs {
			for _, b := range e.Blocks {
				if e.Ready && !e.Draining && !b.Draining && !b.Doubted && !yield(b) {
					return
				}
			}
		}
	}
}

// ofFamily selects blocks of a family.
func ofFamily(f ipam.Family) func(netip.Prefix) bool {
	return func(p netip.Prefix) bool { return ipam.FamilyOf(p.Addr()) == f }
}

// publish makes the loop's state visible to Status.
func (l *loop) publish(o ipam.Outlook) {
	s := Status{Ready: l.proved, Observed: l.observed, Reason: o.Reason, Evidence: o.Evidence}
	for k, t := range l.tasks {
		s.InFlight = append(s.InFlight, k.describe(t))
	}
	slices.Sort(s.InFlight)
	for _, card := range slices.Sorted(maps.Keys(l.decided)) {
		d := l.decided[card]
		parts := []string{fmt.Sprintf("card %d: %s", card, d.Reason)}
		for _, a := range d.Actions {
			parts = append(parts, fmt.Sprintf("%s %s %d slots: %s", a.Op, a.ENI, a.N, a.Reason))
		}
		s.Decisions = append(s.Decisions, strings.Join(parts, "; "))
	}
	if !s.Ready && s.Reason == "" {
		s.Reason, s.Evidence = ipam.ReasonNoBlocks, "no ENI has an address for pods yet"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status, l.retryAt = s, o.RetryAt
}
