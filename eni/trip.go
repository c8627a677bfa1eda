// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"net/netip"
	"slices"
	"time"
)

// Trip records that a large part of the inventory was missing from one view. While
// it lasts, the mode is at least ModeNoRelease, and the missing slots are in doubt.
// It ends with a view that shows them again, or with a view at least Config.Lag
// later that still omits them.
type Trip struct {
	At time.Time
	// Missing is the number of slots, out of Known ones, that the view did not
	// show.
	Missing, Known int
}

// minTripSlots is the minimum number of missing slots for a trip. The loss of a
// single slot is not unusual.
const minTripSlots = 2

// checkTrip sets or ends the trip of an inventory, and restores the missing slots
// while there is one.
func (m *merger) checkTrip(inv *Inventory) {
	known, missing := 0, map[string][]netip.Prefix{}
	lost := 0
	for i := range m.Prev.ENIs {
		p := &m.Prev.ENIs[i]
		if m.own[p.ID] != nil && (m.own[p.ID].removing || m.own[p.ID].removed) {
			continue
		}
		now := findENI(inv.ENIs, p.ID)
		for _, b := range slices.Concat(p.Blocks(), p.Doubtful) {
			if m.removedHere(p.ID, b) {
				continue
			}
			known++
			if beliefOf(now, b) == slotAbsent {
				missing[p.ID] = append(missing[p.ID], b)
				lost++
			}
		}
	}
	if lost == 0 {
		inv.Trip = nil
		return
	}
	if inv.Trip == nil {
		if lost < minTripSlots || float64(lost) <= m.TripShare*float64(known) {
			return
		}
		inv.Trip = &Trip{At: m.at, Missing: lost, Known: known}
	} else if !m.at.Before(inv.Trip.At.Add(m.Lag)) {
		inv.Trip = nil // still missing after Config.Lag: the slots are gone
		return
	}
	m.restore(inv, missing)
}

// removedHere reports whether this node's last change of the slot removed it.
func (m *merger) removedHere(id string, b netip.Prefix) bool {
	ev := m.own[id]
	return ev != nil && ev.changes[b].removed
}

// restore adds the missing slots to the inventory again, in doubt.
func (m *merger) restore(inv *Inventory, missing map[string][]netip.Prefix) {
	for id, blocks := range missing {
		e := findENI(inv.ENIs, id)
		if e == nil {
			old := findENI(m.Prev.ENIs, id).clone()
			old.Addrs, old.Prefixes, old.Doubtful = nil, nil, nil
			inv.ENIs = append(inv.ENIs, old)
			e = &inv.ENIs[len(inv.ENIs)-1]
			inv.Gone = slices.DeleteFunc(inv.Gone, func(g string) bool { return g == id })
		}
		e.Doubtful = append(e.Doubtful, blocks...)
		e.sortBlocks()
	}
}
