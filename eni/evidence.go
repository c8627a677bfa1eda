// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"net/netip"
	"time"
)

// evidence is what this node's own mutations say about one ENI.
type evidence struct {
	// made is the ENI as created here and attached, at the time attached.
	made     *ENI
	attached time.Time
	// leaving: the ENI is on its way out; gone: it is out, since left.
	leaving, gone bool
	left          time.Time
	// coming: the ENI is on its way in.
	coming bool
	// changes holds the last own mutation of each slot.
	changes map[netip.Prefix]change
}

// change is the last thing that was done to a slot. An open change is one whose
// call may or may not have reached EC2.
type change struct {
	removed bool
	open    bool
	at      time.Time
}

// evidenceOf sorts intents by ENI.
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
			ev.gone, ev.left = true, in.Changed
		case in.Undo:
			ev.leaving = true
		case in.Done:
			ev.made, ev.attached = in.Made, in.Changed
			ev.note(in.Blocks, change{at: in.Changed})
		default:
			ev.coming = true
		}
	case OpRetire:
		ev.leaving = !in.Done
		ev.gone, ev.left = in.Done, in.Changed
	case OpAssign:
		if in.Done {
			ev.note(in.Blocks, change{at: in.Changed})
		}
	case OpUnassign:
		ev.note(in.Blocks, change{removed: true, open: !in.Done, at: in.Changed})
	}
}

// note keeps the latest change of each slot; of two at one time, the removal.
func (ev *evidence) note(blocks []netip.Prefix, c change) {
	for _, b := range blocks {
		old, ok := ev.changes[b]
		newer := c.at.After(old.at) || c.removed && c.at.Equal(old.at)
		if !ok || c.open || !old.open && newer {
			ev.changes[b] = c
		}
	}
}
