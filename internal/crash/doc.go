// SPDX-License-Identifier: Apache-2.0

// Crash is the kill loop: it runs a node with the real agent (examples/ipamd)
// and the real CNI plugin (examples/vpc-cni), breaks whatever can break, and
// checks after each batch that no running pod was harmed.
//
//	go run ./internal/crash -for 10m -layout flat
//
// The node is an instance of a VPC of namespaces (internal/fabric) with a real
// EC2 API and metadata service (eni/enitest). Workers do what a container runtime
// does: they make sandboxes and have libcni execute ADD, CHECK and DEL. Meanwhile
// one trouble after the other is chosen at random from a printed seed; the flag
// -help lists the kinds, and -only and -skip choose among them.
//
// A batch is some seconds of trouble and then quiet: trouble ends, the agent runs,
// and the loop waits until the picture has settled. Then the invariants are
// checked over one value, the [picture]: what the runtime, the kernel, EC2 and
// the agent say of the pods. Some invariants hold at every moment and are checked
// while the trouble lasts: EC2 takes no address from a running pod, no two running
// pods have one address, a running pod answers, the agent does not end by itself, and
// no ADD starves while pods that are gone hold addresses. In every third batch no pod
// comes or goes and trouble is seldom, so that the agent has time for what it does at
// leisure.
//
// The first batch with a violation prints its seed, its last events, the end of
// the agent's log and the picture, and ends the loop with status 1. With -continue
// the loop goes on with a new VPC instead, and counts. A batch is repeated by
// giving the seed that it printed; the processes' timing is never quite the same.
//
// The program needs Linux and the go command. It works for root and for an
// ordinary user, in namespaces of its own, and leaves nothing behind.
package main
