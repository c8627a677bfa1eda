// SPDX-License-Identifier: Apache-2.0

// Package nft is what packages that have a table of nftables share: a connection
// that stays open, reading that is not torn by changes of others, and reports of
// changes to the table.
package nft
