// SPDX-License-Identifier: Apache-2.0

// Cni measures the time of ADD and DEL as a runtime sees it. It compares the vpc-cni
// program with an agent that answers at once, in both layouts, with a Go program that
// makes the same kernel changes and nothing else (the floor), with upstream ptp with
// host-local and with a Go program that does nothing. All run in turn, round by round,
// each in its own node namespace; then it measures many ADDs at once, and as many DELs.
// There is a table for IPv4, for nodes that have pods already, for IPv6, for dual stack,
// and for the real agent, ipamd, on a node of a VPC of namespaces. The times depend on the
// machine; the ratios to the floor are comparable between machines. CPU time, page faults
// and thread switches of a process depend less on other load.
//
//	go run ./internal/bench/cni
//	go run ./internal/bench/cni -slow-disk 3ms -o ratios   # the table of the README
//	go run ./internal/bench/cni -before FILE               # in turn with another build
//	go run ./internal/bench/cni -parts                     # where the time goes, see docs/cni-timing.md
//
// It runs in new namespaces, as root or as an ordinary user. It builds ptp and
// host-local from the module proxy into a temporary directory, or takes them from
// -plugins.
package main
