// SPDX-License-Identifier: Apache-2.0

// Ipamd is the node agent. It keeps a pool of VPC addresses on the ENIs of the EC2
// instance on which it runs, and gives them to the CNI plugin vpc-cni.
//
//	ipamd --help
//
// It contains little code of its own. Its files combine the packages of the module:
//
//	flags.go       settings, from flags and environment
//	provider.go    eni.Manager as the agent's provider of ENIs
//	links.go       datapath and snat as the agent's links
//	kernel.go      the kernel as a witness of the addresses in use
//	journal.go     the journals of the pool and of ENI operations
//	noderecord.go  a record of the node, for a restart while EC2 does not answer
//	vpc.go         changes of the VPC's prefixes
//	events.go      the latest events
//	backend.go     the agent as the backend of the plugin's protocol
//	status.go      the state of the agent as JSON
//	start.go       attempts to start, and the audit
//	main.go        the order of start and end
//
// It can be killed at any time: before it acts it writes to the state directory
// everything that the next process needs. It does not forward the traffic of pods.
package main
