// SPDX-License-Identifier: Apache-2.0

// Package warmpooltest checks that a warm pool policy behaves, as
// testing/fstest does for a file system. A policy's own test is one line:
//
//	func TestPolicy(t *testing.T) { warmpooltest.Run(t, MyPolicy{}) }
//
// Run tries the policy on some hundred pools, from bare nodes to full ones, with
// single addresses and with prefixes, with idle, cooling and foreign ENIs and
// with ENIs that EC2 adds no slots to at present. It checks these rules:
//
//   - deterministic: the same snapshot gives the same decision, and the
//     snapshot is left as it was;
//   - limits: no ENI gets more slots than it has room for or than EC2 takes, no
//     card more ENIs than its limit, and actions name ENIs that exist;
//   - in-use: nothing is released that has an assigned or cooling address, and
//     neither is the primary ENI nor one that is not for pods;
//   - rest: without pods coming or going the pool comes to rest, whatever it
//     was, and then planning again gives nothing;
//   - flapping: at rest for a day under constant demand, nothing goes that
//     comes back;
//   - serving: pods that wait get addresses as long as the card can have more.
//
// The rules are checked on what the policy itself says, before the frame of
// [warmpool.Plan] cuts it: a policy that relies on the frame to correct it loses
// what the frame cuts.
//
// Package tests also have [Fuzz], and [Pool], a plain model of a node's pool on
// which decisions take effect at once.
package warmpooltest
