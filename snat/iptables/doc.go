// SPDX-License-Identifier: Apache-2.0

// Package iptables puts the rules of package snat into the tables of iptables, for nodes
// whose rules are audited or changed with iptables. nftables is the better backend: see
// [snat.IptablesRuleset.Limits] for what iptables cannot do, and the documentation of
// package snat for its cost.
//
// A [Handle] runs the programs of the system: `iptables-save` reads the tables, and one
// `iptables-restore --noflush` changes them, once for each family. Each table changes in one
// step, so that no packet meets a part of the rules. All chains are named VPCNET-…, and the
// Handle changes no other chain but for the rules that jump to them.
//
// There are two variants of iptables, with rules that do not see each other: nft puts them
// into nftables, and legacy into the kernel's older tables. The Handle uses the variant in
// which the node has its rules already, and removes what is left in the other one.
//
// The programs of the legacy variant exclude each other by a lock, /run/xtables.lock. A
// call waits for it only for a bounded time, see [Config.Within].
package iptables
