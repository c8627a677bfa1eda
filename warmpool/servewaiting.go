// SPDX-License-Identifier: Apache-2.0

package warmpool

// ServeWaiting adds one rule to a policy: pods that wait for an address are
// served as far as the card has room, whatever the policy's targets are. A
// policy without spare addresses then works on demand, and one refill serves a
// burst. Free addresses that waiting pods can get are not given back.
//
// It compares what the policy's decision leads to with the pods that wait:
//
//	free addresses + those the policy adds - those it gives back  >=  Demand.Waiting
//
// If this holds, the decision stays as it is. Otherwise the wrapper first
// drops what the policy gives back, then places the growth that the pods need
// anew by the zero [Placement]. It has no memory of its own.
type ServeWaiting struct {
	Policy Policy
}

const ruleWaiting = "%d pods wait, %d addresses are free or on their way"

// Decide implements Policy.
func (w ServeWaiting) Decide(s Snapshot) Decision {
	d := w.Policy.Decide(s)
	if s.Demand.Waiting <= 0 {
		return d
	}
	v := s.Supply()
	if n := missing(d.Actions, v, v.Assigned+s.Demand.Waiting); n > 0 {
		d.Reason = Because(ruleWaiting, s.Demand.Waiting, v.Free())
		raise(&d, &s, n, d.Reason)
	}
	return d
}

// AgentPolicy returns the policy that runs on a node where p is configured.
// Package ipam/agent, package sim and vpcctl all decide by what it returns, so
// what is simulated or planned is what the agent does. Today that is
// [ServeWaiting] around p; both policies of a [Shadow] get it, so that they are
// compared on equal terms.
func AgentPolicy(p Policy) Policy {
	if w, ok := p.(Shadow); ok {
		return Shadow{Policy: AgentPolicy(w.Policy), Other: AgentPolicy(w.Other)}
	}
	return ServeWaiting{Policy: p}
}
