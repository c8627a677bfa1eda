// SPDX-License-Identifier: Apache-2.0

// Drift has a hostile program delete and change random pieces of a node's network
// for as long as it is told, while a pod sends a packet a millisecond in both
// families and datapath's Watch repairs. It reports how long repairs took, what was
// lost within a bound after each damage and after it, and whether anything that
// belongs to others changed.
//
//	go run ./internal/bench/drift -for 60s
//
// It runs in namespaces of its own, as root or as an ordinary user, and ends with
// status 1 if a packet was lost after the bound and the repair, a piece stayed damaged or something
// foreign changed.
package main
