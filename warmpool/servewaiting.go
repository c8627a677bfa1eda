// SPDX-License-Identifier: Apache-2.0

package warmpool

// ServeWaiting adds one rule to a policy: the pool grows enough to serve all pods
// that wait for an address or are bound to the node without one, as far as the card
// has room, whatever the policy's targets are. A policy without spare addresses then
// works on demand, and one refill serves a burst of pods. Free addresses that these
// pods can use are not given back.
//
// ServeWaiting compares the result of the policy's decision with the number of
// these pods:
//
//	free addresses + those the policy adds - those it gives back  >=  Demand.Pending()
//
// If this holds, the decision stays as it is. Otherwise ServeWaiting first drops
// the policy's releases, and then places the growth for these pods with the
// zero [Placer]. It needs no memory.
type ServeWaiting struct {
	Policy Policy
}

const (
	ruleWaiting = "%d pods wait, %d addresses are free or on their way"
	ruleBound   = "%d pods are bound without an address, %d addresses are free or on their way"
)

// Decide implements Policy.
func (w ServeWaiting) Decide(s Snapshot) Decision {
	d := decide(w.Policy, s)
	need, rule := s.Demand.Pending(), ruleWaiting
	if need > s.Demand.Waiting {
		rule = ruleBound
	}
	if need <= 0 {
		return d
	}
	v := s.Supply()
	if n := missing(d.Actions, v, v.Assigned+need); n > 0 {
		d.Explanation = Because(rule, need, v.Free())
		raise(&d, &s, n, d.Explanation)
	}
	return d
}

// AgentPolicy returns the policy that the agent runs if p is configured. Package
// ipam/agent, package sim and vpcctl all use it, so simulations and plans agree
// with the agent. At present AgentPolicy wraps p in [ServeWaiting]. It wraps both
// policies of a [Shadow], so that their decisions can be compared.
func AgentPolicy(p Policy) Policy {
	if w, ok := p.(Shadow); ok {
		return Shadow{Policy: AgentPolicy(w.Policy), Other: AgentPolicy(w.Other)}
	}
	return ServeWaiting{Policy: p}
}
