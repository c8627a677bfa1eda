// SPDX-License-Identifier: Apache-2.0

// Package datapath makes, verifies and explains the network of a node and its
// pods: links, addresses, neighbours, routes, rules and marks.
package datapath
