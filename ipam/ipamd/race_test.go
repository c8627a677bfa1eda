// SPDX-License-Identifier: Apache-2.0

//go:build race

package ipamd

const raceEnabled = true
