// SPDX-License-Identifier: Apache-2.0

// Command vpcctl inspects the VPC networking of a node and simulates warm pools.
//
//	vpcctl status      show the agent, its pool and what it waits for at a glance
//	vpcctl enis        list the ENIs of this node
//	vpcctl pods        list the pods of this node with their addresses
//	vpcctl explain     say why a pod has its address or waits, what an ENI is for, what EC2 last said
//	vpcctl doctor      check a node: findings with evidence and remedy
//	vpcctl bundle      write one archive for support, without secrets
//	vpcctl events      list what the agent did and found
//	vpcctl pool sim    simulate warm pool policies on a fleet
//	vpcctl pool plan   print what a policy would do with a pool, and why
//	vpcctl pool tune   search the settings of a policy for an objective
//	vpcctl max-pods    print how many pods an instance type can run
//	vpcctl sweep       delete ENIs that nodes left behind
//	vpcctl preflight   find programs that also configure interfaces, and prevent it
//	vpcctl trace       explain the way of a packet and name its faults
//	vpcctl policy      show what a pod may receive and send
//	vpcctl state       save the network state of a node, and compare two
//	vpcctl completion  print a script for bash, zsh or fish
//
// Each command describes its flags with -h.
package main
