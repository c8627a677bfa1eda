// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"time"
)

// Kind is the kind of an Event.
type Kind string

// The kinds of events. Those of the second group are not written to the
// journal: the agent observes their facts again after each start.
const (
	// EventENISet: ENI is at Card and Device.
	EventENISet Kind = "eni-set"
	// EventENIDraining: ENI will be removed; no more of its addresses are allocated.
	EventENIDraining Kind = "eni-draining"
	// EventENIRemoved: ENI and its blocks were removed.
	EventENIRemoved Kind = "eni-removed"
	// EventBlockAdded: Block is on ENI.
	EventBlockAdded Kind = "block-added"
	// EventBlockDraining: Block will be removed; no more of its addresses are allocated.
	EventBlockDraining Kind = "block-draining"
	// EventBlockRemoved: Block was removed from its ENI.
	EventBlockRemoved Kind = "block-removed"
	// EventAllocated: Attachment holds Addrs.
	EventAllocated Kind = "allocated"
	// EventMoved: the sandbox of Attachment is now at Netns.
	EventMoved Kind = "moved"
	// EventReleased: Attachment released its addresses.
	EventReleased Kind = "released"
	// EventAddrsReleased: Addrs were released at At, by Attachment if that is known.
	// It occurs only in the digest of a journal, in the place of earlier allocations
	// and their releases. Its text stays "rested", because journals have it.
	EventAddrsReleased Kind = "rested"

	// EventENIReady: link, route table and routes of ENI are verified.
	EventENIReady Kind = "eni-ready"
	// EventENINotReady: link, route table or routes of ENI are not verified.
	EventENINotReady Kind = "eni-not-ready"
	// EventBlockDoubted: an observation contradicts the pool about Block.
	EventBlockDoubted Kind = "block-doubted"
	// EventBlockTrusted: no observation contradicts the pool about Block any more.
	EventBlockTrusted Kind = "block-trusted"
	// EventQuarantined: By uses Addrs, which no attachment holds.
	EventQuarantined Kind = "quarantined"
	// EventUnquarantined: the use of Addrs by By has ended.
	EventUnquarantined Kind = "unquarantined"
)

// Event is one change of the pool. The state of a pool is the result of its
// events: the same function applies them when they happen and when the journal
// is replayed. Kind determines which fields are set; the others are zero.
type Event struct {
	Kind       Kind         `json:"kind"`
	At         time.Time    `json:"at"`
	ENI        string       `json:"eni,omitempty"`
	Card       int          `json:"card,omitempty"`
	Device     int          `json:"device,omitempty"`
	Block      netip.Prefix `json:"block,omitzero"`
	Next       netip.Addr   `json:"next,omitzero"` // lowest address of Block that was never allocated
	Attachment Attachment   `json:"attachment,omitzero"`
	Addrs      []netip.Addr `json:"addrs,omitempty"`
	Pod        PodRef       `json:"pod,omitzero"`
	Netns      string       `json:"netns,omitempty"`
	Sandbox    uint64       `json:"sandbox,omitempty"`
	MAC        string       `json:"mac,omitempty"`
	By         string       `json:"by,omitempty"`
}

// Journal stores events across restarts. Implementations need not be safe for
// concurrent use: the pool calls one method at a time.
type Journal interface {
	// Load returns all events in the order in which they were appended.
	Load() ([]Event, error)
	// Append adds events at the end. When it returns nil they are durable. When
	// it returns an error, a later Load must return none of them.
	Append(events []Event) error
	// Replace replaces all stored events by the given ones, in one step.
	Replace(events []Event) error
}
