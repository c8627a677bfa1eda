// SPDX-License-Identifier: Apache-2.0

// Package rtnl is a route netlink client for the Linux kernel. It translates between
// the kernel's messages and the values of package netstate, sends several requests in
// one system call, and returns the kernel's reasons in words.
//
// Headers of messages are those of package nl of vishvananda/netlink; network namespaces
// are handles of vishvananda/netns. This package adds what these libraries do not have:
// batches of requests with one acknowledgement, extended acknowledgements on sockets that
// do not echo requests, dumps that start again when they are interrupted, reports that are
// lost, and messages that package netlink decodes only for its own calls (addresses,
// routes, rules) or not at all (settings of links, reports of changed settings). It also
// has sockets and attributes of its own, because those of package nl cost an ADD a fifth of
// its time. docs/architecture.md has the list.
//
// No message, header, attribute or flag leaves the package.
package rtnl
