// SPDX-License-Identifier: Apache-2.0

package warmpool

// Plan runs the policy and enforces the rules of the frame.
func Plan(p Policy, s Snapshot) Decision { return p.Decide(s) }
