// SPDX-License-Identifier: Apache-2.0

// Package nft is what packages that have a table of nftables share: a connection
// that stays open, and reading that is not torn by changes of others.
package nft
