// SPDX-License-Identifier: Apache-2.0

// Package agent keeps an ipam.Pool filled: it drives a warmpool.Policy over a
// provider of ENIs and over the links of the node.
package agent
