// SPDX-License-Identifier: Apache-2.0

// Ipamd is the node agent. It keeps a pool of VPC addresses on the ENIs of the EC2
// instance on which it runs, and gives them to the CNI plugin vpc-cni.
//
//	ipamd --help
//
// A node changes over from amazon-vpc-cni-k8s, and back, without restarting a pod:
//
//	ipamd adopt -from amazon-vpc-cni-k8s -dry-run
//	ipamd adopt -from amazon-vpc-cni-k8s
//	ipamd adopt -to amazon-vpc-cni-k8s
//
// The agent itself is package ipam/ipamd, and its flags and variables are package
// ipam/ipamd/settings. This program adds the log, metrics for Prometheus, and the status
// as JSON. It can be killed at any time: before it acts it writes to the state directory
// everything that the next process needs. It does not forward the traffic of pods.
package main
