// SPDX-License-Identifier: Apache-2.0

// Package claims lists what package datapath uses of a node's kernel that other
// programs share with it: rule priorities, route tables, marks, link groups and names.
package claims
