// SPDX-License-Identifier: Apache-2.0

// Package netstate describes the network of a namespace as plain values: links,
// addresses, neighbours, routes, rules, settings and an nftables table. A [State]
// prints itself as a script of ip, sysctl and nft commands, [Diff] returns the changes
// that lead from one state to another, and [State.Lookup] finds the route of a packet
// as the kernel does. It compiles on every system.
package netstate
