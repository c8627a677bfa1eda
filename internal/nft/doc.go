// SPDX-License-Identifier: Apache-2.0

// Package nft has the parts of nftables that this module uses. [Table], [Set], [Chain] and
// [Rule] are plain values that print themselves in the notation of the nft program and
// compile on every system. On Linux a [Socket] replaces a table by such a value in one
// transaction, changes elements of its sets, and reads it back, and a [Monitor] reports
// changes to it.
//
// Reading verifies itself: the statements of a rule compile to exactly the expressions
// that the kernel lists, or the rule has a [Foreign] statement. So a rule of another
// program never reads as a rule of this module. Reading begins again if other programs
// change the table meanwhile.
//
// A transaction is one netlink message, which must fit into the socket's send buffer.
// That is enough for 180,000 elements of a map with IPv6 keys, and for 400,000 of a set
// with IPv4 keys, with CAP_NET_ADMIN in the initial user namespace. Other processes are
// limited by net.core.wmem_max: to 10,000 elements of such a set at its default of 208
// KiB, and 100,000 at 2 MiB. See [ErrTooLarge].
package nft
