// SPDX-License-Identifier: Apache-2.0

// Package ipam decides which address belongs to which attachment.
//
// A [Pool] knows ENIs, blocks of addresses on them, and the attachments that
// hold single addresses of these blocks. A block is one slot of an ENI: a
// secondary private IP (/32, /128) or a delegated prefix (/28, /80). The pool
// does not know where ENIs come from, nor the kernel, nor how many spare
// addresses are wise; package ipam/agent, or whoever keeps the pool, does.
//
// # The pool as events
//
// The state of a pool is made from events and from nothing else: an ENI was
// set, a block was added, an attachment got its addresses, it gave them back.
// One function applies an event, when it happens as well as when the journal
// is replayed, and refuses what does not fit: a second owner of an address, a
// block that goes while it is used. The pool that comes out of a journal is
// therefore the pool that went in. Around that function stand a queue, a clock
// and the [Journal]:
//
//	caller A ─┐                        ┌─ apply the events of A, B and C
//	caller B ─┼─ queue ─ who leads ────┼─ write them to the journal, once
//	caller C ─┘                        └─ answer, or take all of them back
//
// Whoever finds nobody leading commits everything that is in the queue. What
// arrives while the journal writes is the next batch, so that a hundred
// concurrent allocations cost a few writes. An answer is durable when it is
// given; if the write fails the state is as it was and the caller gets
// [ErrJournal].
//
// # Life of a block
//
//	SetENI, AddBlocks     known, not yet used
//	SetReady(true)        the link is verified: addresses are allocated
//	DrainBlocks           on its way out; nothing is allocated any more
//	                      (the keeper unassigns it in EC2)
//	RemoveBlocks          gone, and remembered as gone for ten minutes
//
// Draining and removing are refused while an address of the block is in use or
// cooling, or the witness shows a use of it. Draining is journalled, so that a keeper that was killed between
// the two steps sees where it was. A keeper that sees an observation contradict
// the pool says so with DoubtBlocks: nothing is allocated from a doubted block,
// and nobody loses anything.
//
// # Life of an address
//
//	                      Allocate                 Release
//	free ───────────────▶ used ──────────────────▶ cooling ──▶ free
//	     the fullest block first                   Config.Cooldown
//	     then the lowest device
//	     then never used, or longest at rest
//
// Filling the fullest block first lets other blocks and ENIs fall empty, so
// that they can be given back. Taking the address that rested longest makes it
// unlikely that somebody still remembers the pod that had it. The cooldown is
// in the journal: a restart does not shorten it.
//
// # The kernel as a witness
//
// A journal can be lost, damaged or old while pods run. The [Witness] of the
// Config says which addresses something uses, whatever the journal says: on a
// node, those that the kernel has a route, a neighbour or an address for. The pool
// asks it about each address before a request gets it, once for all requests that
// are served together, and about each block before it is drained. If the witness
// cannot answer, nothing is given away.
//
// The pool's keeper tells it of every use with Quarantine, when it starts and from
// time to time. A used address that no attachment holds is quarantined: it counts
// as used, so that neither it nor its block is given away. When the use has ended
// the address rests like one that was released.
//
// # Time
//
// While a process lives, ages are measured by the monotonic clock, so that a step
// of the wall clock changes nothing. Times of the journal are the wall clock's;
// one that lies in the future counts as long ago. A reboot ends every pod and says
// nothing of when: with Config.RestSince all addresses rest since then.
//
// # Waiting
//
// Allocate never waits if there is an address. If there is none the request
// joins a queue, and whatever brings addresses serves it in order: new blocks,
// a link that came up, an address that has rested. It ends with the caller's
// context. The error is an [*ExhaustedError] with a [Reason] of a closed set,
// the evidence for it and the time after which it makes sense to ask again.
// The keeper contributes what it knows through SetOutlook; if that says that
// waiting is useless, requests are refused at once.
//
// All or nothing: a request for both families gets two addresses or none, on
// one ENI if it can be.
package ipam
