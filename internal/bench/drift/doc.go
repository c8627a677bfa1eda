// SPDX-License-Identifier: Apache-2.0

// Drift deletes and changes random parts of the network of a node for a given time,
// as a hostile program would. Meanwhile a pod sends a packet a millisecond in both
// families, and Watch of package datapath repairs the damage. The program reports
// the times of the repairs, the packets lost within a bound after each damage and
// the packets lost later, and whether the state of other programs has changed.
//
//	go run ./internal/bench/drift -for 60s
//
// It runs in new namespaces, as root or as an ordinary user. Its exit status is 1 if
// a packet was lost after the bound and the repair, if a damage was not repaired, or
// if the state of other programs has changed.
package main
