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

// Status is the state of an agent at one moment.
type Status struct {
	// Ready means that an address on a verified link was allocatable at some time
	// since Run began, so that pods can be served.
	Ready bool
	// Observed means that the provider has answered since Run began.
	Observed bool
	// Reason says why the agent is not ready, or why no more addresses are
	// available at present. Empty means that there is no problem.
	Reason   ipam.Reason
	Evidence string
	// RetryAfter is the time until the agent tries again. Zero means unknown.
	RetryAfter time.Duration
	// Free is how many addresses of the first family can be allocated now.
	Free int
	// InFlight describes the tasks under way, and Decisions the latest decision
	// of each card.
	InFlight  []string
	Decisions []string
	// Pool is the state of the pool at the same moment.
	Pool ipam.View
}

// Status returns the present state. It does not block.
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

// Ready returns a channel that is closed when Status.Ready becomes true. A Status has a copy
// of the pool's state, so a caller that waits should use the channel.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// free counts the addresses of a family that can be allocated now.
func free(v ipam.View, f ipam.Family) int {
	n := 0
	for _, b := range allocatable(v) {
		if ipam.FamilyOf(b.Prefix.Addr()) == f {
			n += b.Free
		}
	}
	return n
}

// allocatable returns the blocks from which the pool may allocate addresses.
func allocatable(v ipam.View) (out []ipam.BlockView) {
	for _, e := range v.ENIs {
		for _, b := range e.Blocks {
			if e.Ready && !e.Draining && !b.Draining && !b.Doubted {
				out = append(out, b)
			}
		}
	}
	return out
}

// serves reports whether there are blocks of each family from which the pool may allocate.
func (a *Agent) serves(v ipam.View) bool {
	blocks := allocatable(v)
	for _, f := range a.families {
		if !slices.ContainsFunc(blocks, func(b ipam.BlockView) bool { return ipam.FamilyOf(b.Prefix.Addr()) == f }) {
			return false
		}
	}
	return true
}

// ofFamily returns a function that reports whether a block is of family f.
func ofFamily(f ipam.Family) func(netip.Prefix) bool {
	return func(p netip.Prefix) bool { return ipam.FamilyOf(p.Addr()) == f }
}

// publish makes the loop's state visible to Status.
func (l *loop) publish(o ipam.Outlook) {
	s := Status{Ready: l.servable, Observed: l.observed, Reason: o.Reason, Evidence: o.Evidence}
	for _, t := range l.tasks {
		s.InFlight = append(s.InFlight, t.String())
	}
	slices.Sort(s.InFlight)
	for _, card := range slices.Sorted(maps.Keys(l.decided)) {
		d := l.decided[card]
		parts := []string{fmt.Sprintf("card %d: %s", card, d.Explanation)}
		for _, a := range d.Actions {
			parts = append(parts, fmt.Sprintf("%s %s %d slots: %s", a.Op, a.ENI, a.N, a.Explanation))
		}
		s.Decisions = append(s.Decisions, strings.Join(parts, "; "))
	}
	if !s.Ready && s.Reason == "" {
		s.Reason, s.Evidence = ipam.ReasonNoBlocks, "no ENI has addresses for pods yet"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.Ready && !l.status.Ready {
		close(l.Agent.ready)
	}
	l.status, l.retryAt = s, o.RetryAt
}
