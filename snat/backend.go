// SPDX-License-Identifier: Apache-2.0

package snat

// Backend is the part of the kernel that has the rules of a [Config].
type Backend string

const (
	// Nftables has the [Ruleset] of a Config.
	Nftables Backend = "nftables"
	// Iptables has the [IptablesRuleset] of a Config.
	Iptables Backend = "iptables"
)
