// SPDX-License-Identifier: Apache-2.0

// Package ipam decides which address belongs to which attachment. It knows
// blocks of addresses on ENIs, hands out single addresses of them, and
// remembers both in a journal. It does not know EC2, the kernel or any pool
// policy.
package ipam
