// SPDX-License-Identifier: Apache-2.0

//go:build race

package ipam_test

const raceEnabled = true
