// SPDX-License-Identifier: Apache-2.0

// Ipamd is the node agent. It keeps a pool of VPC addresses on the ENIs of the EC2
// instance on which it runs, and gives them to the CNI plugin vpc-cni.
//
//	ipamd --help
//	ipamd install     copy the plugins to the directory of the runtime, set up the kernel
//	ipamd [flags]     run the agent
//	ipamd uninstall   restore what was there before
//	ipamd probe live  does the agent answer? The exit status is 0 if it does
//	ipamd probe ready is it ready for pods? If not, the output names what it waits for
//
// A node changes over from amazon-vpc-cni-k8s, and back, without restarting a pod:
//
//	ipamd adopt -from amazon-vpc-cni-k8s -dry-run
//	ipamd adopt -from amazon-vpc-cni-k8s
//	ipamd adopt -to amazon-vpc-cni-k8s
//
// The agent itself is package ipam/ipamd, its flags and variables are package
// ipam/ipamd/settings, and the commands are packages ipam/ipamd/install and adopt. This program adds
// the log, metrics for Prometheus at port 61678, the pool in the form of amazon-vpc-cni-k8s
// at 127.0.0.1:61679, and the whole state on a Unix socket; see package
// ipam/ipamd/introspect. It can be killed at any time: before it acts it writes to the state directory
// everything that the next process needs. It does not forward the traffic of pods.
package main
