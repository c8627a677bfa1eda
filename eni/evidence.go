// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"net/netip"
	"time"
)

// evidence is what this node's own changes say about one ENI.
type evidence struct {
	// made is the ENI that this node created and attached, at the time attachedAt.
	made       *ENI
	attachedAt time.Time
	// removing says that this node is removing the ENI, removed that it has
	// removed it, at the time removedAt.
	removing, removed bool
	removedAt         time.Time
	// adding says that this node is creating or attaching the ENI.
	adding bool
	// owned says that EC2 has shown that this node manages the ENI.
	owned bool
	// changes holds this node's last change of each slot.
	changes map[netip.Prefix]change
}

// change is the last change of a slot by this node. The call of a pending change
// may or may not have reached EC2.
type change struct {
	removed bool
	pending bool
	at      time.Time
}

// evidenceOf collects the evidence of intents by ENI.
func evidenceOf(intents []Intent) map[string]*evidence {
	out := map[string]*evidence{}
	for _, in := range intents {
		if in.ENI == "" {
			continue
		}
		ev := out[in.ENI]
		if ev == nil {
			ev = &evidence{changes: map[netip.Prefix]change{}}
			out[in.ENI] = ev
		}
		ev.add(in)
	}
	return out
}

func (ev *evidence) add(in Intent) {
	switch in.Op {
	case OpProvision:
		switch {
		case in.Undo && in.Done:
			ev.removed, ev.removedAt = true, in.Changed
		case in.Undo:
			ev.removing = true
		case in.Done:
			ev.made, ev.attachedAt = in.Made, in.Changed
			ev.record(in.Blocks, change{at: in.Changed})
		default:
			ev.adding = true
		}
	case OpOwned:
		ev.owned = true
	case OpRetire:
		ev.removing = !in.Done
		ev.removed, ev.removedAt = in.Done, in.Changed
	case OpAssign:
		if in.Done {
			ev.record(in.Blocks, change{at: in.Changed})
		}
	case OpUnassign:
		ev.record(in.Blocks, change{removed: true, pending: !in.Done, at: in.Changed})
	}
}

// record keeps the latest change of each slot. If two changes have the same time,
// it keeps the removal.
func (ev *evidence) record(blocks []netip.Prefix, c change) {
	for _, b := range blocks {
		old, ok := ev.changes[b]
		newer := c.at.After(old.at) || c.removed && c.at.Equal(old.at)
		if !ok || c.pending || !old.pending && newer {
			ev.changes[b] = c
		}
	}
}
