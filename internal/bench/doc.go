// SPDX-License-Identifier: Apache-2.0

// Package bench has benchmarks of the packages together, on the VPC of
// internal/fabric. Every benchmark measures its alternatives in turn, round by
// round in one run, and reports times and ratios of times. The times depend on the
// machine; the ratios are comparable between machines.
//
//	go test ./internal/bench -run '^$' -bench . -benchtime 20x
package bench
