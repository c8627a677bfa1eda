// SPDX-License-Identifier: Apache-2.0

// Package policy limits which connections pods have, at a cost for each packet that does
// not depend on the number of policies and pods.
package policy
