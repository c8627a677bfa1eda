// SPDX-License-Identifier: Apache-2.0

// Package introspect shows the state of a node agent over HTTP: [Server.V1] in the form of
// amazon-vpc-cni-k8s, for the scripts and support tools that read it, and [Server.V2] with
// what this agent has beyond that. Neither contains the IDs of sandboxes, because with one
// of them a process could impersonate the runtime.
package introspect
