// SPDX-License-Identifier: Apache-2.0

// Ipamd is the node agent: it keeps a pool of VPC addresses on the ENIs of the
// EC2 instance it runs on, and hands them to the CNI plugin vpc-cni.
//
//	ipamd --help
//
// It is thin on purpose; what it does is in the packages that it joins:
//
//	flags.go     settings, from flags and environment
//	provider.go  eni.Manager as the agent's provider of ENIs
//	links.go     datapath and snat as the agent's links
//	kernel.go    the kernel as the witness of what is in use
//	journal.go   the journals of the pool and of ENI operations
//	remember.go  what the next agent of the boot can go on with before EC2 answers
//	vpc.go       prefixes that the VPC gets and loses while the node runs
//	events.go    the latest events, for people
//	backend.go   the agent as the backend of the plugin's protocol
//	status.go    the state of it all, for people
//	start.go     what is tried until the agent can run, and the audit after it
//	main.go      order of start and end
//
// It can be killed at any time. What it must remember is written down before
// it acts, in the state directory, and the pods' traffic does not pass it.
package main
