// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"time"
)

// Kind is the kind of an Event.
type Kind string

// The events. Those of the second group are not written to the journal: what they
// say was observed, and is observed anew after a start.
const (
	// EventENISet: ENI is at Card and Device.
	EventENISet Kind = "eni-set"
	// EventENIDraining: nothing of ENI is allocated any more; it will go.
	EventENIDraining Kind = "eni-draining"
	// EventENIRemoved: ENI and its blocks are gone.
	EventENIRemoved Kind = "eni-removed"
	// EventBlockAdded: Block is on ENI.
	EventBlockAdded Kind = "block-added"
	// EventBlockDraining: nothing of Block is allocated any more; it will go.
	EventBlockDraining Kind = "block-draining"
	// EventBlockRemoved: Block is gone from its ENI.
	EventBlockRemoved Kind = "block-removed"
	// EventAllocated: Attachment holds Addrs.
	EventAllocated Kind = "allocated"
	// EventMoved: the sandbox of Attachment is at Netns now.
	EventMoved Kind = "moved"
	// EventReleased: Attachment holds nothing any more.
	EventReleased Kind = "released"
	// EventRested: Addrs were released at At and are free. Only in the digest of
	// a journal, where it stands for allocations long gone.
	EventRested Kind = "rested"

	// EventENIReady: link, table and routes of ENI are verified.
	EventENIReady Kind = "eni-ready"
	// EventENINotReady: they are not.
	EventENINotReady Kind = "eni-not-ready"
	// EventBlockDoubted: an observation contradicts the pool about Block.
	EventBlockDoubted Kind = "block-doubted"
	// EventBlockTrusted: the doubt is gone.
	EventBlockTrusted Kind = "block-trusted"
	// EventQuarantined: By uses Addrs, of which the pool knows no owner.
	EventQuarantined Kind = "quarantined"
	// EventUnquarantined: nothing uses Addrs any more.
	EventUnquarantined Kind = "unquarantined"
)

// Event is one change of the pool. Events are what the pool's state is made
// from: the same function applies them when they happen and when the journal
// is replayed. Which fields count depends on Kind; the others are zero.
type Event struct {
	Kind       Kind         `json:"kind"`
	At         time.Time    `json:"at"`
	ENI        string       `json:"eni,omitempty"`
	Card       int          `json:"card,omitempty"`
	Device     int          `json:"device,omitempty"`
	Block      netip.Prefix `json:"block,omitzero"`
	Next       netip.Addr   `json:"next,omitzero"` // first address of Block never given out
	Attachment Attachment   `json:"attachment,omitzero"`
	Addrs      []netip.Addr `json:"addrs,omitempty"`
	Pod        PodRef       `json:"pod,omitzero"`
	Netns      string       `json:"netns,omitempty"`
	Sandbox    uint64       `json:"sandbox,omitempty"`
	By         string       `json:"by,omitempty"`
}

// Journal keeps events over restarts. Implementations need not be safe for
// concurrent use: the pool calls one method at a time.
type Journal interface {
	// Load returns all events in the order in which they were appended.
	Load() ([]Event, error)
	// Append adds events at the end. When it returns nil they are durable; when
	// it returns an error none of them may appear in a later Load.
	Append(events []Event) error
	// Replace puts events in the place of everything there was, in one step.
	Replace(events []Event) error
}
