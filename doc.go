// SPDX-License-Identifier: Apache-2.0

// Package vpcnet is the root of a module for pod networking that is native to
// an AWS VPC. A pod gets a real VPC address: a secondary private IP, or an
// address out of a delegated prefix, of an elastic network interface (ENI)
// attached to its node. Packets between pods cross the VPC unchanged, with no
// overlay and no NAT; only traffic that leaves the VPC is translated to the
// node's primary address.
//
// The module is made of packages that are imported, tested and recombined one
// by one. This package holds no code; import what you need:
//
//   - [github.com/vpcnet/vpcnet/eni]: ENIs of this instance: discover, attach,
//     assign addresses, give back, sweep what leaked; limits of instance types.
//   - [github.com/vpcnet/vpcnet/eni/enitest]: an EC2 API and an instance metadata
//     service in process, over the real wire protocol, for anyone's tests.
//   - [github.com/vpcnet/vpcnet/warmpool]: how much spare capacity a node keeps,
//     as pure functions; the standard library only.
//   - [github.com/vpcnet/vpcnet/ipam]: which address belongs to whom, journalled;
//     [github.com/vpcnet/vpcnet/ipam/agent] drives a policy over a provider.
//   - [github.com/vpcnet/vpcnet/datapath]: links, routes and rules of node and
//     pods, as values that are compared with the kernel and applied.
//   - [github.com/vpcnet/vpcnet/snat]: source translation and connection marks
//     in an nftables table of its own.
//   - [github.com/vpcnet/vpcnet/cniplugin]: a CNI plugin and the protocol between
//     it and the node's agent.
//
// The commands under examples are thin uses of them: vpc-cni and ipamd are a
// whole CNI plugin and node agent, and lab is a whole VPC on one machine:
//
//	git clone https://github.com/vpcnet/vpcnet && cd vpcnet && go run ./examples/lab
//
// The examples below show each package in about ten lines. How the parts fit
// together, and why they are cut as they are, is written in docs/architecture.md.
package vpcnet
