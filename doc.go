// SPDX-License-Identifier: Apache-2.0

// Package vpcnet is the root of a module for pod networking that is native to
// an AWS VPC. A pod gets a real VPC address: a secondary private IP, or an
// address out of a delegated prefix, of an elastic network interface (ENI)
// attached to its node. Packets between pods cross the VPC unchanged, with no
// overlay and no NAT; only traffic that leaves the VPC is translated to the
// node's primary address.
//
// The module consists of packages that can be imported, tested and combined
// independently. This package has no code. The packages are:
//
//   - [github.com/vpcnet/vpcnet/eni]: discovers, attaches and deletes the ENIs of an
//     instance, assigns their addresses, and deletes leaked ENIs; limits of instance
//     types.
//   - [github.com/vpcnet/vpcnet/eni/enitest]: an EC2 API and an instance metadata
//     service in process, over the real wire protocol, for tests.
//   - [github.com/vpcnet/vpcnet/eni/instancetype]: limits of instance types, and how many
//     pods a node can have
//   - [github.com/vpcnet/vpcnet/warmpool]: decides how much spare capacity a node
//     keeps, in pure functions; standard library only.
//   - [github.com/vpcnet/vpcnet/ipam]: allocates addresses to pods, with a journal;
//     [github.com/vpcnet/vpcnet/ipam/agent] applies a warm pool policy to a provider
//     of ENIs.
//   - [github.com/vpcnet/vpcnet/datapath]: links, routes and rules of the node and its
//     pods, as values that are compared with the kernel and applied.
//   - [github.com/vpcnet/vpcnet/datapath/policy]: what pods may receive and
//     send, with a fixed number of lookups for each packet.
//   - [github.com/vpcnet/vpcnet/snat]: source translation and connection marks in a
//     separate nftables table.
//   - [github.com/vpcnet/vpcnet/cniplugin]: a CNI plugin and the protocol between the
//     plugin and the agent of the node.
//
// The commands under examples compose these packages: vpc-cni is a CNI plugin, ipamd
// is a node agent, and lab runs a whole VPC on one machine:
//
//	git clone https://github.com/vpcnet/vpcnet && cd vpcnet && go run ./examples/lab
//
// The examples below show each package in about ten lines. docs/architecture.md
// describes how the packages work together, and the reasons for the design.
package vpcnet
