// SPDX-License-Identifier: Apache-2.0

// Package adopt changes a running node over from amazon-vpc-cni-k8s to package ipamd, and
// back, without restarting a pod or closing a connection.
//
// Neither agent may run meanwhile. From the files of the other agent, EC2, the kernel and
// our own journal, [From] and [To] compute a plan, a value that prints itself as the commands
// that an operator would type. They print it before they carry it out, or carry nothing out
// with Options.DryRun. Each plan begins with what is there: a run that was killed at any step
// is completed by the next one, and a further run finds nothing to do. Our agent refuses to
// start before a run has ended, with [ipamd.ErrChangeOver]: the rules of the other agent and
// our network are both there in between.
//
// # From amazon-vpc-cni-k8s
//
//  1. Its ENIs, which have its tag with the ID of this instance, get our owner tag.
//  2. The allocations of its checkpoints go into our journal.
//  3. Links of pods keep their names and MACs; their aliases record which pods they belong to.
//  4. A copy of our plugin takes the name of its plugin, for runtimes send DEL with the
//     configuration that ADD had.
//  5. Our routes, rules, nftables and translation are made beside its own.
//  6. Its chains of iptables, its nftables table, and its rules are removed, and then the
//     routes that its rules lead to.
//  7. Our CNI configuration is written, and its own is renamed.
//
// A pod is taken over only if three sources agree: the checkpoint has its address, EC2 has
// the address on an ENI of this node, and the kernel has the way to it: a route by the link
// of the pod's name, and the other end of that link, with the address, in a sandbox. The
// plan names every pod, link and address for which they do not. Nothing of such a pod
// changes: its rules stay, and its address is not given to another pod while the kernel uses
// it.
//
// The checkpoints have no pods on branch ENIs (security groups for pods). Such a pod is taken
// over if the result that the runtime has cached, EC2's association with the trunk ENI, and the
// kernel's VLAN link, host link and sandbox tell the same, and our agent is configured for the
// same enforcing mode. Otherwise the whole node is refused with [ErrBranchPod], which says what
// is missing, before anything changes: without its table and rules such a pod would lose its
// way.
//
// # To amazon-vpc-cni-k8s
//
// To takes the opposite way: first its routes, rules and chains, then its checkpoints,
// then all that is ours is removed, and at last the ENIs get an owner tag with its name. The
// links of pods that our agent added get the names that it would have given them. It can then start.
// It learns at its next start of pods that our agent added and that ended while it ran.
//
// Rules, routes and chains of amazon-vpc-cni-k8s are the only things of another program that
// this module ever changes, and only here.
package adopt
