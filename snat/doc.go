// SPDX-License-Identifier: Apache-2.0

// Package snat translates the source of packets that pods send out of the VPC
// to the node's primary address, and sees to it that such flows, and flows that
// came in through a node port, use the primary ENI in both directions.
package snat
