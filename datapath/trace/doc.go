// SPDX-License-Identifier: Apache-2.0

// Package trace explains the way of a packet through a node and names what is wrong
// with it. [Trace] is a pure function: it goes through the rules, routes and filters of
// a [View] as the kernel does. [Observe] reads the View of a live node, and [Confirm]
// asks its kernel whether it decides the same.
package trace
