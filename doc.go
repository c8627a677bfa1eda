// SPDX-License-Identifier: Apache-2.0

// Package vpcnet is the root of a module for pod networking that is native to
// an AWS VPC.
package vpcnet
