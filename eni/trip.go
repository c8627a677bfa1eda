// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"net/netip"
	"slices"
	"time"
)

// Trip records that one view showed a large part of the inventory gone at
// once. While it stands, the mode is at least ModeNoRelease and what is missing
// counts as doubtful. It is lifted by a view that shows the missing again, or
// by one at least Config.Lag later that still denies it.
type Trip struct {
	At time.Time
	// Missing is how many of the Known slots the view did not show.
	Missing, Known int
}

// tripLeast is how many slots must be missing for a trip: one can go by itself.
const tripLeast = 2

// checkTrip holds a view back that denies too much of what was known.
func (m *merger) checkTrip(inv *Inventory) {
	known, missing := 0, map[string][]netip.Prefix{}
	lost := 0
	for i := range m.Prev.ENIs {
		p := &m.Prev.ENIs[i]
		if m.own[p.ID] != nil && (m.own[p.ID].leaving || m.own[p.ID].gone) {
			continue
		}
		now := find(inv.ENIs, p.ID)
		for _, b := range slices.Concat(p.Blocks(), p.Doubtful) {
			if m.takenHere(p.ID, b) {
				continue
			}
			known++
			if believed(now, b) == no {
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
		if lost < tripLeast || float64(lost) <= m.TripShare*float64(known) {
			return
		}
		inv.Trip = &Trip{At: m.at, Missing: lost, Known: known}
	} else if !m.at.Before(inv.Trip.At.Add(m.Lag)) {
		inv.Trip = nil // denied again after all this time: it is so
		return
	}
	m.restore(inv, missing)
}

func (m *merger) takenHere(id string, b netip.Prefix) bool {
	ev := m.own[id]
	return ev != nil && ev.changes[b].removed
}

// restore puts what a tripped view denies back, in doubt.
func (m *merger) restore(inv *Inventory, missing map[string][]netip.Prefix) {
	for id, blocks := range missing {
		e := find(inv.ENIs, id)
		if e == nil {
			old := find(m.Prev.ENIs, id).clone()
			old.Addrs, old.Prefixes, old.Doubtful = nil, nil, nil
			inv.ENIs = append(inv.ENIs, old)
			e = &inv.ENIs[len(inv.ENIs)-1]
			inv.Gone = slices.DeleteFunc(inv.Gone, func(g string) bool { return g == id })
		}
		e.Doubtful = append(e.Doubtful, blocks...)
		e.sortBlocks()
	}
}
