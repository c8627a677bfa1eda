// SPDX-License-Identifier: Apache-2.0

// Package sim simulates warm pool policies on a fleet of nodes.
//
// It is a discrete-event simulation. Pods start and stop as in a [Trace], which is
// recorded or generated. The agent of each node runs the policy after each change
// of its pool, and carries the decision out by EC2 calls. The calls take time,
// share the token buckets of the account, and take addresses from one subnet. The
// agents decide by warmpool.AgentPolicy, as package ipam/agent does: they serve
// waiting pods whatever the policy's targets are, and each node always gets a
// first address. The result is a [Report]: how long pods waited for an address, how
// many EC2 calls there were, how many addresses were idle, and how much of the
// subnet was used.
//
// # Model
//
// An agent carries out the actions of a decision one after another, and then
// decides again. An assignment is one EC2 call. A new ENI takes three calls
// (create, attach, set delete-on-termination), and so does its deletion (detach,
// describe, delete). If the bucket of a call is empty, the call fails, and the
// agent repeats it after an exponential back-off with jitter. If the subnet has too
// few addresses for a call, the agent repeats it for a single slot. If that fails
// too, the node treats the subnet as exhausted for some time. Each ENI takes one
// address for itself. Single addresses come from anywhere in the subnet and
// fragment its /28 blocks; a prefix needs a whole block.
//
// # Limits of the model
//
// The simulated agent decides once for all events of one moment, and carries out the
// actions of a decision one after another. Package ipam/agent instead decides 20 ms
// after the latest pod has come, starts actions of different kinds in parallel, and
// decides again when one has ended. Of each kind it starts only the first, unless
// pods wait for more addresses than are free or on their way. Simulated pods
// wait until they get an address; real runtimes give up and retry. All nodes exist
// from the start, with a primary ENI and no addresses for pods. There is one
// subnet, one network card for each node, and one kind of node.
package sim
