// SPDX-License-Identifier: Apache-2.0

// Crash is the kill loop. It runs a node with the real agent (examples/ipamd) and
// the real CNI plugin (examples/vpc-cni), injects faults at random, and checks after
// each batch that no running pod was affected.
//
//	go run ./internal/crash -for 10m -layout flat
//
// The node is an instance in a VPC of namespaces (internal/fabric) with an EC2 API
// and a metadata service (eni/enitest). Workers act as a container runtime: they
// create sandboxes and call libcni for ADD, CHECK and DEL. Meanwhile the loop injects
// one fault after the other, chosen at random from a printed seed. The flag -help
// lists the kinds of faults, and -only and -skip select among them.
//
// A batch is some seconds of faults. After them the agent runs undisturbed, and the
// loop waits until the node has no violation of the invariants any more. The
// invariants are functions of one value, the [observation]: the pods as the runtime,
// the kernel, EC2 and the agent show them. Some invariants must hold at every time,
// and the loop also checks them during the faults: EC2 takes no address from a
// running pod, no two running pods have the same address, a running pod answers, the
// agent does not end by itself, and no ADD fails for lack of addresses that deleted
// pods still hold. In every third batch no pods are added or deleted and faults are
// rare, so that the agent has time for its periodic work.
//
// After the first batch with a violation, the loop prints its seed, its last events,
// the end of the agent's log and the observation, and ends with status 1. With
// -continue it counts the violation and goes on with a new VPC. The printed seed
// repeats a batch, although the timing of the processes is never quite the same.
//
// The program needs Linux and the go command. It runs as root or as an ordinary
// user, in new namespaces, and removes everything that it created.
package main
