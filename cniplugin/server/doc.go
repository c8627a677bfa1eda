// SPDX-License-Identifier: Apache-2.0

// Package server is the agent's side of the protocol of package cniplugin: it
// listens on the unix socket, checks who calls, and hands each call to a
// [Backend].
//
// It is a package of its own because it needs net/http, which would add a fifth
// to the start-up time of the plugin and three quarters to its size: a process
// that a runtime starts twice for each pod.
package server
