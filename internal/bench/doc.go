// SPDX-License-Identifier: Apache-2.0

// Package bench measures what the packages cost together, on the VPC of
// internal/fabric. Every benchmark runs what it compares side by side, round by
// round in one run, and reports ratios beside times: the times are those of the
// machine, the ratios travel.
//
//	go test ./internal/bench -run '^$' -bench . -benchtime 20x
package bench
