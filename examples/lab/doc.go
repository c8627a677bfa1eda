// SPDX-License-Identifier: Apache-2.0

// Lab builds a whole VPC on one machine, explains it step by step, and checks it.
//
//	go run ./examples/lab
//
// It needs Linux and Go, but no AWS account, no root and no other program. In new
// namespaces it creates a VPC with two availability zones, some EC2 instances and a
// host on the internet. It starts a real node agent (examples/ipamd) on each
// instance, and adds pods with libcni, which executes the real CNI plugin
// (examples/vpc-cni). Then it sends traffic, shows the interfaces, routes and rules
// of each node and the packets on each ENI, and checks them. It ends with status 0
// only if every check succeeded, and removes everything that it created.
//
// The program runs twice. The first process (launch.go) builds the binaries and
// starts itself again in new namespaces. The second process is the first of its PID
// namespace, so that the kernel ends everything that it started when it ends,
// however it ends.
//
// The agents get every variable of the agent in lab's own environment, which is
// useful for experiments: with AWS_VPC_K8S_CNI_EXTERNALSNAT=true, for example, the
// check snat-to-node-primary must fail.
package main
