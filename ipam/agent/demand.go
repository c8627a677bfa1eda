// SPDX-License-Identifier: Apache-2.0

package agent

import "github.com/vpcnet/vpcnet/warmpool"

// serveWaiting adds one rule to any policy: a pod that waits for an address is
// served if there is room, whatever the warm targets say. A policy that wants
// no spare addresses at all then works on demand, and a burst is served by one
// refill of its size instead of one warm target after the other. Nothing is
// given back while pods wait.
type serveWaiting struct {
	warmpool.Policy
}

const ruleWaiting = "%d pods wait, %d addresses are free or on their way"

// Decide implements warmpool.Policy.
func (p serveWaiting) Decide(s warmpool.Snapshot) warmpool.Decision {
	d := p.Policy.Decide(s)
	sup := s.Supply()
	missing := s.Demand.Waiting - max(0, sup.Free())
	if missing <= 0 {
		return d
	}
	// Counted in slots; a block on the way to an ENI counts in Free already.
	need := (missing + sup.Unit - 1) / sup.Unit
	grown := 0
	for _, a := range d.Actions {
		if a.Op == warmpool.OpAssign || a.Op == warmpool.OpCreate {
			grown += a.N
		}
	}
	if grown >= need {
		return d
	}
	d.Short, d.Over = max(d.Short, need), 0
	d.Reason = warmpool.Because(ruleWaiting, s.Demand.Waiting, max(0, sup.Free()))
	d.Actions = growBy(s, need, d.Reason)
	return d
}

// growBy adds slots where there is room, on ENIs that exist first.
func growBy(s warmpool.Snapshot, need int, because warmpool.Reason) (out []warmpool.Action) {
	for _, e := range s.ENIs {
		room := s.Limits.SlotsPerENI - e.Slots - e.PendingSlots
		if n := min(need, room); n > 0 && !e.NoPods && !e.Full && e.ID != "" {
			out = append(out, warmpool.Action{Op: warmpool.OpAssign, ENI: e.ID, N: n, Reason: because})
			need -= n
		}
	}
	for n := len(s.ENIs); n < s.Limits.MaxENIs && need > 0; n++ {
		slots := min(need, s.Limits.SlotsPerENI)
		out = append(out, warmpool.Action{Op: warmpool.OpCreate, N: slots, Reason: because})
		need -= slots
	}
	return out
}
