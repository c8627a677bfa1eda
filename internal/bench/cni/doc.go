// SPDX-License-Identifier: Apache-2.0

// Cni measures what a pod costs a runtime: ADD and DEL of the built vpc-cni with an
// agent that answers at once, in both layouts, beside upstream ptp with host-local
// and a Go program that does nothing. All run in turn, round by round, each in a node
// namespace of its own; then many ADDs at once, and as many DELs. Times are those of
// the machine; the ratios to ptp travel.
//
//	go run ./internal/bench/cni
//
// It runs in namespaces of its own, as root or as an ordinary user. ptp and
// host-local are built from the module proxy into a temporary directory, or come
// from -plugins.
package main
