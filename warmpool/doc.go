// SPDX-License-Identifier: Apache-2.0

// Package warmpool decides how much spare address capacity a node keeps.
//
// A pod needs an address at once, and EC2 takes a second to assign one, several
// to attach an ENI. So a node keeps some in stock. Too few and pods wait; too
// many and the subnet runs dry elsewhere; and a stock that follows each pod
// costs an EC2 call a pod, out of limits that the whole account shares. Which
// stock is right is a [Policy]: a pure function from a [Snapshot] of the pool to
// a [Decision], an ordered list of actions each of which says why. There is no
// clock, no I/O and no dependency but the standard library here; who carries
// the actions out is somebody else, in this module package ipam/agent.
//
// # The corridor
//
// Every policy here answers the same question with four numbers, a [Corridor]
// for the usable supply in addresses: below Min grow to GrowTo, above Max shrink
// to ShrinkTo, else do nothing. With A addresses assigned and D = A + pods known
// to need one:
//
//	policy              Min              GrowTo             Max              ShrinkTo
//	AWS, address        max(A+W, M)      = Min              = Min            = Min
//	Cilium              max(A+pre, min)  Min + maw + surge  A + pre + maw    = Max
//	Azure v2            B ceil(f+D/B)    = Min              = Min            = Min
//	Azure v1            A + B req%       next batch         A + B rel% - 1   batch before
//	Terway              D + min idle     = Min              D + max idle     = Max
//	resource controller max(A+W, M)      = Min              = Min            = Min
//	Band                D + Low          next batch         D + High         = GrowTo
//
// Where Min is Max, one pod that comes and goes costs two calls. Where GrowTo is
// Min, each further pod costs one. Band has room on both sides, and looks how
// long a surplus lasts before it gives any of it back.
//
// A [Placement] then turns slots into actions: fill the ENIs that exist in
// device order, then create one; give back whole ENIs, then single slots of
// the emptiest.
//
// # The frame
//
// [Plan] runs a policy and holds it to what none may break: limits of the card,
// max-pods, the subnet's free addresses, and that nothing goes which is in use
// or cools. Pending addresses count as supply, and cooling ones do not;
// [Snapshot.Supply] counts so, and policies start from it.
//
// # Units
//
// Demand is in addresses, EC2 gives slots. A slot is a secondary private IP or a
// /28 prefix, and Limits.AddressesPerSlot is the one place that says which: 1
// or 16. All formulas are in addresses; [Corridor.Slots] rounds to slots, up
// when growing and down when shrinking. No number changes its unit with a mode.
//
//	want 20 addresses, have 0:    unit 1: 20 slots    unit 16: 2 slots
//	have 64, want 40, 2 free /28: unit 1: 24 over     unit 16: 1 over
//
// # Network cards and address families
//
// A Snapshot is one network card, because limits, ENIs and slots belong to a
// card; a node with several asks the policy once for each. It is one address
// family, that whose slots are scarce. On a node with IPv4 that is IPv4, as
// prefixes or as single addresses. With IPv6 a /80 prefix of an ENI holds more
// addresses than pods will ever run, so the first slot is enough and there is
// nothing to decide; on a node with both, each pod takes one of each, and an
// ENI that has IPv4 slots has its /80 beside them.
//
// # Choosing
//
// Package sim tries policies on traces of a fleet, `vpcctl pool` does so at the
// command line, and docs/warm-pool.md has the figures for usual clusters.
// [Named] makes policies from flags. Wrappers change any policy: [HoldDown],
// [Bounds], [Exhaustion], [Schedule], [Predictive], [Shadow]. Package
// warmpooltest checks a policy of your own.
//
// # What runs on a node
//
// Targets alone do not serve every pod: AWS with a WARM_IP_TARGET fetches as many
// addresses as the target says, however many pods wait. So the agent puts one more
// wrapper around the policy of its configuration, [ServeWaiting]. [AgentPolicy] is
// that composition; the agent, the simulator and vpcctl all decide by it.
package warmpool
