// SPDX-License-Identifier: Apache-2.0

// Package warmpool decides how much spare address capacity a node keeps.
//
// A pod needs an address at once, but EC2 takes about a second to assign one and
// several seconds to attach an ENI. A node therefore keeps spare addresses. If
// it keeps too few, pods wait. If it keeps too many, other nodes of the subnet
// run out. If the pool follows each pod, every pod costs an EC2 call, and the
// whole account shares the limits on calls.
//
// A [Policy] decides how many addresses to keep. It is a pure function from a
// [Snapshot] of the pool to a [Decision]: an ordered list of actions, each with
// an explanation. The package has no clock and does no I/O, and it imports only
// the standard library. The caller carries the actions out; in this module that
// is package ipam/agent.
//
// # The corridor
//
// Each policy in this package computes four numbers, a [Corridor] for the usable
// supply in addresses. Below Min the pool grows to GrowTo, above Max it shrinks
// to ShrinkTo, and in between it stays as it is. With A assigned addresses and
// D = A + pods known to need an address:
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
// Where Min equals Max, each pod that starts and stops costs two calls. Where
// GrowTo equals Min, each additional pod costs one call. Band leaves room on both
// sides, and releases a surplus only after it has lasted for some time.
//
// A [Placer] then turns slots into actions. To grow, it fills the existing ENIs
// in device order and then creates more. To shrink, it deletes whole ENIs and
// then takes single slots from the ENI with the fewest pods.
//
// # The frame
//
// [Plan] runs a policy and enforces the rules that apply to all policies: the
// limits of the card, max-pods, the free addresses of the subnet, and that no
// assigned or cooling address is released. Pending addresses count as supply,
// and cooling addresses do not. [Snapshot.Supply] counts in this way, and the
// policies use its numbers.
//
// # Units
//
// Demand is in addresses, but EC2 assigns slots. A slot is a secondary private IP
// or a /28 prefix. Limits.AddressesPerSlot alone says which: it is 1 or 16. All
// formulas are in addresses. [Corridor.Slots] rounds to slots, up when growing
// and down when shrinking. The unit of a number does not depend on a mode.
//
//	want 20 addresses, have 0:    unit 1: 20 slots    unit 16: 2 slots
//	have 64, want 40, 2 free /28: unit 1: 24 over     unit 16: 1 over
//
// # Network cards and address families
//
// A Snapshot describes one network card, because limits, ENIs and slots belong to
// a card. On a node with several cards the policy runs once for each. A Snapshot
// describes one address family, the one with scarce slots. On a node with IPv4
// that is IPv4, with prefixes or single addresses. A /80 prefix holds more IPv6
// addresses than a node runs pods, so one slot is enough and there is nothing to
// decide. On a dual-stack node each pod takes one address of each family, and an
// ENI with IPv4 slots also has a /80.
//
// # Choosing a policy
//
// Package sim runs policies on traces of a fleet, and `vpcctl pool` does the same
// on the command line. docs/warm-pool.md has the figures for common clusters.
// [PolicyByName] makes policies from flags. Wrappers change any policy:
// [HoldDown], [Bounds], [Exhaustion], [Schedule], [Predictive], [Shadow]. Package
// warmpooltest checks policies, including those of other modules.
//
// # The policy on a node
//
// Targets alone do not serve every pod. AWS with a WARM_IP_TARGET, for example,
// fetches as many addresses as the target says, even if more pods wait. The agent
// therefore wraps its configured policy in [ServeWaiting]. [AgentPolicy] returns
// this composition. The agent, the simulator and vpcctl all use it.
package warmpool
