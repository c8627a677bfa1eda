// SPDX-License-Identifier: Apache-2.0

// Package rtnl is a route netlink client for the Linux kernel. It sends several
// requests in one system call, reads the kernel's reasons in words, and translates
// between messages and the values of package netstate.
package rtnl
