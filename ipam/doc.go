// SPDX-License-Identifier: Apache-2.0

// Package ipam decides which address belongs to which attachment.
//
// A [Pool] holds ENIs, blocks of addresses on them, and the attachments that
// hold single addresses of these blocks. A block is one slot of an ENI: a
// secondary private IP (/32, /128) or a delegated prefix (/28, /80). The pool
// does not call EC2 or the kernel, and does not decide how many spare addresses
// a node should have. The program that manages the pool does. It is called the
// agent below; package ipam/agent is one.
//
// # Events
//
// Only events change the state of a pool: an ENI was set, a block was added, an
// attachment received addresses or released them. One function applies an
// event, both when it happens and when the journal is replayed. It refuses an
// event that contradicts the state, such as a second owner of an address or the
// removal of a block in use. Replaying a journal therefore restores the pool
// that wrote it. A queue, a clock and the [Journal] surround that function:
//
//	caller A ─┐                        ┌─ apply the events of A, B and C
//	caller B ─┼─ queue ─ leader ───────┼─ write them to the journal, once
//	caller C ─┘                        └─ answer, or undo all of them
//
// If no caller is committing, the next one becomes the leader and commits the
// whole queue. Calls that arrive while the journal writes form the next batch,
// so a hundred concurrent allocations cost only a few writes. A change is
// durable when the call returns. If the write fails, the state is as it was
// before and the caller gets [ErrJournal].
//
// # Life of a block
//
//	SetENI, AddBlocks     known, not yet used
//	SetReady(true)        the link is verified: addresses are allocated
//	DrainBlocks           about to be removed: no more addresses are allocated
//	                      (the agent unassigns it in EC2)
//	RemoveBlocks          removed; the pool remembers that for ten minutes
//
// Draining and removing are refused while an address of the block is in use or
// cooling. Draining is also refused if the witness reports a use of it.
// Draining is written to the journal, so an agent that was killed between the
// two steps can continue. If an observation contradicts the pool, the agent
// calls DoubtBlocks: the pool allocates nothing from a doubted block, and
// attachments keep the addresses that they hold.
//
// # Life of an address
//
//	                      Allocate                 Release
//	free ───────────────▶ used ──────────────────▶ cooling ──▶ free
//	     the fullest block first                   Config.Cooldown
//	     then the lowest device
//	     then never used, or released longest ago
//
// Allocating from the fullest block first lets other blocks and ENIs become
// empty, so that the agent can give them back. The address that was released
// longest ago is the least likely to be cached by a neighbour. The release time
// is in the journal, so a restart does not shorten the cooldown. An attachment
// that requests addresses again while its own are cooling gets these back.
//
// # The witness
//
// A journal can be lost, damaged or outdated while pods run. The [Witness] of
// the Config reports which addresses are in use, independently of the journal:
// on a node, the addresses for which the kernel has a route, a neighbour or an
// address. The pool queries it before it allocates an address, once for all
// requests that are served together, and before it drains a block. If the
// witness fails, the pool allocates and drains nothing.
//
// The agent passes all uses to Quarantine, when it starts and periodically. A
// used address that no attachment holds is quarantined: it counts as used, so
// neither the address nor its block is given away. When the use has ended, the
// address cools like a released one.
//
// # Time
//
// While a process runs, ages are measured with the monotonic clock, so a step
// of the wall clock has no effect. The journal holds wall clock times; a time in
// the future counts as long ago. A reboot ends every pod without a release. For
// that case Config.CoolingSince makes every address count as released at a given
// time.
//
// # Waiting
//
// Allocate never waits if there is an address. Otherwise the request joins a
// queue, which is served in order as addresses become available: by new blocks,
// by a link that comes up, or by the end of a cooldown. The wait ends with the
// caller's context. The error is an [*ExhaustedError] with a [Reason] of a
// closed set, its evidence, and the time after which to try again. The agent
// contributes what it knows through SetOutlook. If the outlook says that waiting
// is useless, requests are refused at once.
//
// A request for both families gets two addresses or none, on one ENI if
// possible.
//
// # Wanted addresses
//
// A request can name addresses. It gets exactly these, or an answer at once:
//
//	free                            allocated, whatever the order of allocation
//	held by the same attachment     the same answer again
//	in use                          in-use, with the name of the pod or program
//	cooling                         cooling, with the time that is left
//	of no ENI of the node           no-such-address
//	of a block that is given back   in-flight
//	of a family that is not served  no-blocks
//
// It waits only if the pool has no block yet, or if the link of the address is not
// verified; meanwhile requests for any address are served.
package ipam
