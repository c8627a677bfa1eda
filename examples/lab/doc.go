// SPDX-License-Identifier: Apache-2.0

// Lab builds a whole VPC on one machine and walks through what happens in it.
//
//	go run ./examples/lab
//
// It needs Linux and Go: no AWS account, no root, no other program. Inside
// namespaces of its own it makes a VPC with two availability zones, some EC2
// instances and a host on the internet, starts one real node agent
// (examples/ipamd) on each instance, and runs pods by having libcni execute the
// real CNI plugin (examples/vpc-cni). Then it sends traffic, shows what each
// node's interfaces, routes and rules look like and what each packet looked
// like on the ENI, and checks that all of it is so. It ends with status 0 only
// if every check held, and leaves nothing behind.
//
// The program runs twice. The first process (launch.go) builds the binaries
// and starts itself again in new namespaces; that second process is the first
// of its PID namespace, so that when it ends, however it ends, the kernel ends
// all that it started.
//
// Every variable of the agent that is set in lab's own environment reaches the
// agents. That is how to try things: with AWS_VPC_K8S_CNI_EXTERNALSNAT=true
// the check snat-to-node-primary must fail.
package main
