// SPDX-License-Identifier: Apache-2.0

// Package agent keeps an ipam.Pool filled. It drives a warmpool.Policy over a
// [Provider] of ENIs and the [Links] of the node, both of which the caller
// implements; it knows neither EC2 nor the kernel itself.
//
// # The loop
//
// [Agent.Run] is one loop that sleeps until something changes: the pool, the
// outcome of a call, a time that the policy or a back-off has named. Each turn
// looks at everything once and starts what can be started:
//
//	observe     ask the provider what there is, if something is uncertain
//	audit       ask the kernel what is in use, every 20 s; every 2 s while pods wait
//	resume      go on with blocks and ENIs that are on their way out
//	links       verify or repair one ENI's link
//	decide      warmpool.Plan for each network card, and start its actions
//	outlook     tell the pool what pods that wait have to expect
//
// Work that takes time runs in goroutines of Run, at most one of each kind on
// a card, and hands its outcome back to the loop. No lock is held meanwhile:
// pods get what the pool has, however long EC2 takes. When nothing changes no
// call is made.
//
// # Order of growth and of shrinking
//
//	grow      Provider.Assign or CreateENI ▶ Links.Ensure ▶ Pool.AddBlocks
//	shrink    Pool.DrainBlocks ▶ Provider.Unassign ▶ Pool.RemoveBlocks ▶ Links.Ensure
//	          Pool.DrainENI ▶ Links.Remove ▶ Provider.DeleteENI ▶ Pool.RemoveENI
//
// An address can be allocated only when the link that carries it was verified,
// and it is out of the pool, durably, before EC2 is asked to take it. Killed
// between any two steps, the next start finds the way from what is observed
// and from what the journal says is draining.
//
// # One rule beside the policy
//
// The policy of the Config runs inside warmpool.ServeWaiting, as
// warmpool.AgentPolicy composes it: pods that wait are served if there is room,
// in one refill of the size of the queue, whatever the warm targets say, and no
// address that they can get is given back. A policy without any stock works on
// demand. A node without an address gets a first one in any case, because
// [Status].Ready means that an address was seen to work.
//
// # What an observation may do
//
// The pool's journal is the first source. An [Observation] speaks about the
// time At-Lag; what happened later it may not know.
//
//	observed, unknown to the pool    adopted, unless the pool removed it later than At-Lag
//	in the pool, not observed        kept, if the pool got it later than At-Lag
//	                                 else forgotten, if nobody uses it
//	                                 else kept and doubted: pods keep their addresses,
//	                                 nobody gets one anew, and it is looked at again
//
// Forgetting concerns the pool and the links only: nothing is unassigned or
// deleted in EC2 because an observation lacks it. After a call whose outcome is
// unknown the agent observes at once, and again when Lag has passed.
//
// # What the kernel is asked
//
// With a [Kernel], and a Witness of the pool over the same kernel, the journal
// does not decide alone. An address that something uses and no attachment holds is
// quarantined until the use has ended. An attachment whose sandbox and link are
// both gone, because the sandbox ended without a DEL, is released: when two audits
// have found it so, or at once when a pod goes without an address otherwise. What
// was allocated less than 10 s ago is left alone, since its plugin may be at work.
//
// # A restart while EC2 is away
//
// Config.Known are the ENIs of an earlier process of the same boot. Until the
// provider has answered, their links are kept up and verified, and the blocks that
// the pool's journal has on them serve pods. Nothing is assigned, created or given
// back before there is an observation, and no block is added on that word alone.
//
// # Failure
//
// Errors of a provider carry a reason (see [Provider]). Each kind of action
// backs off by itself, by reason: seconds for throttling, minutes for a full
// subnet or a missing permission, half of each pause being jitter. That EC2 takes no
// more blocks on an ENI concerns that ENI alone. The reason,
// EC2's words and the time of the next try are what a pod that waits is told,
// what [Status] shows and what is logged.
package agent
