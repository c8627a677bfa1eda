// SPDX-License-Identifier: Apache-2.0

// Package agenttest has a node in memory for tests of an [agent.Agent] and of the
// warmpool policy that it runs: [Node] is its [agent.Provider] and its [agent.Links].
//
// It keeps the limits of an instance, counts calls, and takes Latency for each call.
// It works in a testing/synctest bubble, so that a test of a whole day takes
// milliseconds. It has none of the faults of EC2: package eni/enitest has these, for a
// provider over eni.Manager.
package agenttest
