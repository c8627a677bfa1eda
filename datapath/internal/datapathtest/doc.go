// SPDX-License-Identifier: Apache-2.0

// Package datapathtest has what the tests of package datapath and of the packages below
// it share: nodes and pods of every mode as plain values, golden files, and a [Lab], a
// node with two ENIs in a VPC of package fabric.
//
// The VPC of a Lab has these addresses; the pods of the tests have addresses of
// the ENIs.
//
//	10.0.0.0/24    2001:db8:0:1::/64   subnet of the node; gateway 10.0.0.1, fe80:ec2::1
//	10.0.0.10      2001:db8:0:1::10    the node: the primary ENI, ens5
//	10.0.0.20      2001:db8:0:1::20    the second ENI, ens6
//	10.0.2.0/24    2001:db8:0:2::/64   subnet of the branch ENI
//	10.0.7.7       2001:db8:0:7::7     an instance in another subnet, after AddVPCHost
//	198.51.100.9   2001:db8:99::9      a host outside the VPC that can reach every address
package datapathtest
