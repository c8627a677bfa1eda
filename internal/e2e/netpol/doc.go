// SPDX-License-Identifier: Apache-2.0

// Package netpol compares the package of the same name in examples/k8s with other evaluators of
// NetworkPolicies. It has tests only.
package netpol
