// SPDX-License-Identifier: Apache-2.0

// Package cniplugin is a CNI plugin that gives pods addresses of the VPC, the
// protocol it speaks with the node's agent, and the network configuration list
// that tells a container runtime to use it.
package cniplugin
