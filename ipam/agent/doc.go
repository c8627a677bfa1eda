// SPDX-License-Identifier: Apache-2.0

// Package agent keeps an ipam.Pool filled. It applies a warmpool.Policy to a
// [Provider] of ENIs and the [Links] of the node. The caller implements both;
// the package itself calls neither EC2 nor the kernel.
//
// # The loop
//
// [Agent.Run] is one loop that sleeps until the pool changes, a call returns, or
// a time comes that the policy or a back-off has set. Each turn checks
// everything once and starts what can be started:
//
//	observe     ask the provider for the ENIs, if their state is uncertain
//	audit       ask the kernel which addresses are in use, every 20 s; every 2 s while pods wait
//	resume      continue to remove blocks and ENIs that are draining
//	links       verify or repair the link of one ENI
//	decide      call warmpool.Plan for each network card, and start its actions
//	outlook     tell the pool why no more addresses are available
//
// Slow work runs in goroutines of Run and returns its outcome to the loop. At most
// one task of each kind is under way on a card, except that waiting pods justify
// several. No lock is held meanwhile, so a slow EC2 does
// not delay pods for which the pool has addresses. When nothing changes, the
// agent makes no calls to the provider.
//
// # Order of growth and of shrinking
//
//	grow      Provider.Assign or CreateENI ▶ Links.Ensure ▶ Pool.AddBlocks
//	shrink    Pool.DrainBlocks ▶ Provider.Unassign ▶ Pool.RemoveBlocks ▶ Links.Ensure
//	          Pool.DrainENI ▶ Links.Remove ▶ Provider.DeleteENI ▶ Pool.RemoveENI
//
// An address is allocated only after the link that carries it was verified. An
// address is drained in the pool, durably, before EC2 is asked to unassign it.
// If the agent is killed between two steps, the next one continues from the
// observation and from what the journal lists as draining.
//
// # Growth for waiting pods
//
// The policy of the Config runs inside warmpool.ServeWaiting, as
// warmpool.AgentPolicy composes it. If there is room, pods that wait are served
// in one refill of the size of the queue, whatever the warm targets are, and no
// address that they can get is given back. A policy without warm addresses
// therefore works on demand. A node without any address always gets one, because
// [Status].Ready means that an address was allocatable: if the policy adds none, the
// agent asks it again as if one pod waited.
//
// The agent waits until a burst of pods is complete, for 20 ms after the latest pod
// and 100 ms at most, before it grows the pool. While pods wait for more addresses
// than are free or on their way, it makes several calls side by side, each for
// another ENI. Otherwise it makes them one after another, so that the demand may
// change in between. Pods get the addresses of an ENI as soon as its link is
// verified. Creates that fail side by side for the same reason count as one failure.
//
// # Observations
//
// The pool's journal has precedence. An [Observation] is complete up to the time
// At-Lag, and may lack later changes.
//
//	observed, not in the pool        added, unless the pool removed it after At-Lag
//	in the pool, not observed        kept, if the pool added it after At-Lag
//	                                 else removed, if no address is used or cooling
//	                                 else kept and doubted: attachments keep their addresses,
//	                                 no more are allocated, and the agent observes again
//
// Removing concerns only the pool and the links: the agent does not unassign or
// delete in EC2 because an observation lacks something. After a call with an
// unknown outcome the agent observes at once, and again after Lag.
//
// # The kernel
//
// With a [Kernel], and with a Witness of the pool that queries the same kernel,
// the agent does not rely on the journal alone. An address that is in use and
// that no attachment holds is quarantined until the use ends. If the sandbox of
// an attachment and its link are both gone, the sandbox ended without a DEL. The
// agent releases the attachment after two audits have found that, or after one
// if a pod would otherwise get no address. Attachments with a request in the
// last 10 s are exempt, because their plugin may still be running.
//
// # Restart without EC2
//
// Config.Known are the ENIs of an earlier process of the same boot. Until the
// provider has answered, the agent maintains their links and serves pods from
// their blocks in the pool's journal. Before the first observation it assigns,
// creates and removes nothing, and adds no block to the pool.
//
// # Failures
//
// Errors of a provider have a reason (see [ReasonOf]), which determines the
// back-off of each kind of action: seconds for throttling, minutes for a full
// subnet or a missing permission. Half of each pause is jitter. If EC2 refuses
// more blocks on an ENI, only that ENI is affected. Waiting pods, [Status] and
// the log get the reason, the text of EC2 and the time of the next try.
//
// # Tests
//
// Package agenttest has a Provider and Links in memory.
package agent
