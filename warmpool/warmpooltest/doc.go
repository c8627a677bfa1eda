// SPDX-License-Identifier: Apache-2.0

// Package warmpooltest tests implementations of warmpool.Policy, as testing/fstest
// tests file systems. The test of a policy is one line:
//
//	func TestPolicy(t *testing.T) { warmpooltest.Run(t, MyPolicy{}) }
//
// Run applies the policy to 200 pools, from empty to full nodes, with single
// addresses and with prefixes. Some have idle or cooling ENIs, ENIs that are not
// for pods, or ENIs to which EC2 adds no slots at present. It checks these rules:
//
//   - deterministic: the same snapshot gives the same decision, and the
//     snapshot is left as it was;
//   - limits: no ENI gets more slots than it has room for or than EC2 accepts, no
//     card gets more ENIs than its limit, and actions name existing ENIs;
//   - in-use: the policy releases no slot or ENI with an assigned or cooling
//     address, nor the primary ENI or an ENI that is not for pods;
//   - settling: while no pod starts or stops, the pool settles from any state, and
//     then the policy decides on no action;
//   - flapping: under constant demand, a settled pool does not both gain and lose
//     slots within a day;
//   - serving: waiting pods get addresses as long as the card can have more.
//
// The rules limits and in-use apply to the decisions of the policy before
// [warmpool.Plan] cuts them, because a policy that relies on Plan loses the actions
// that Plan cuts.
//
// The package also has [Fuzz], and [Pool], a model of a node's pool in which
// decisions take effect at once.
package warmpooltest
