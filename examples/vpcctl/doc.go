// SPDX-License-Identifier: Apache-2.0

// Command vpcctl looks at a node's VPC networking and reckons with it.
//
//	vpcctl pool sim    try warm pool policies on a simulated fleet
//	vpcctl pool plan   what a policy would do with a pool, and why
//	vpcctl pool tune   search a policy's settings for an objective
//	vpcctl max-pods    how many pods an instance type can carry
//	vpcctl sweep       delete ENIs that nodes left behind
//	vpcctl preflight   what else on a node configures interfaces, and keep it away
//	vpcctl trace       the way of a packet, step by step, and what is wrong with it
//	vpcctl state       save a node's network state, and compare two
//
// Each command explains its flags with -h.
package main
