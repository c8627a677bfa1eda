// SPDX-License-Identifier: Apache-2.0

// Package server is the agent's side of the protocol of package cniplugin: it
// listens on the unix socket, checks who calls, and hands each call to a
// [Backend].
//
// It is a package of its own because it needs net/http: a plugin process lives
// for a few milliseconds, and the initialisation of net/http alone would double
// its start-up.
package server
