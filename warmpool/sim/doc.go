// SPDX-License-Identifier: Apache-2.0

// Package sim tries warm pool policies on a simulated fleet.
//
// It is a discrete-event simulation: pods come and go by a [Trace], recorded
// or generated; each node's agent shows its pool to the policy after each
// change, and carries the decision out by EC2 calls that take time, share the
// account's token buckets, and draw on one subnet. It decides by
// warmpool.AgentPolicy, as package ipam/agent does: pods that wait are served
// whatever the policy's targets are, and a node gets a first address in any
// case. What comes out is a [Report]: how long pods waited for an address, what
// the EC2 API had to bear, how many addresses lay idle, and how much of the
// subnet was used.
//
// # What is modelled
//
// An agent carries the actions of a decision out one after another, then looks
// anew. An assignment is one EC2 call; a new ENI takes three (create, attach, set
// delete-on-termination), and so does its deletion (detach, describe, delete).
// A call that finds its bucket empty fails and is tried again after an
// exponential back-off with jitter. A call that the subnet refuses is tried
// once more for a single slot; if that fails too, the node takes the subnet for
// exhausted for a while. Each ENI takes one address for itself. Single
// addresses come from anywhere in the subnet and so break up its /28 blocks;
// prefixes need a whole one.
//
// # What is not
//
// The actions of one decision follow one another; package ipam/agent starts
// actions of different kinds side by side, of each kind only the first, and
// decides anew when one has ended. Pods that cannot get an address wait; no
// runtime gives up and comes again.
// Nodes exist from the start with their primary ENI and no other address.
// There is one subnet, one network card, one kind of node.
package sim
