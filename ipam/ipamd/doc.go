// SPDX-License-Identifier: Apache-2.0

// Package ipamd is the node agent of vpcnet as a library. An [Agent] keeps a pool of VPC
// addresses on the ENIs of the EC2 instance on which it runs, and gives them to the CNI
// plugin vpc-cni. It composes the packages eni, ipam, ipam/agent, warmpool, datapath, snat
// and cniplugin/server:
//
//	a, err := ipamd.New(ipamd.Config{Conflist: "/etc/cni/net.d/10-vpcnet.conflist"})
//	if err != nil {
//		return err
//	}
//	return a.Run(ctx)
//
// [Config] has what a node agent can be told, and [Hooks] the places at which a program
// takes part. A program that needs other parts composes its agent from the adapters:
//
//	Provider  eni.Manager as the agent's provider of ENIs
//	Links     datapath and snat as the agent's links, and the kernel as a witness of the
//	          addresses in use
//	Backend   pool and agent as the backend of the plugin's protocol
//
// The agent can be killed at any time: before it acts it writes to the state directory
// everything that the next process needs. It does not forward the traffic of pods.
//
// Library packages must not import this one, because it imports them all. Package
// settings, below it, has the flags and environment variables of the example program
// ipamd.
package ipamd
