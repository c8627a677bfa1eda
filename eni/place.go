// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"time"

	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// place holds the two coordinates of an ENI on an instance: the network card
// index and the device index.
type place struct {
	Card, Device int
}

// configuredLimitLocked returns how many ENIs a card takes by configuration: the limit
// of the instance type, capped by the maximum and reduced by Config.ReserveENIs.
func (m *Manager) configuredLimitLocked(l instancetype.Limits, card int) int {
	n := l.MaxENIs(card)
	if m.placement.maxENIs > 0 {
		n = min(n, m.placement.maxENIs)
	}
	if card == l.DefaultCard {
		n -= m.cfg.ReserveENIs
	}
	return n
}

// cardLimitLocked returns configuredLimitLocked, lowered while a refusal of EC2 counts.
func (m *Manager) cardLimitLocked(l instancetype.Limits, card int, now time.Time) int {
	return m.cardRefusals[card].limit(m.configuredLimitLocked(l, card), now)
}

// freePlace finds a device index for one more ENI on a card: the lowest from 1
// that is not in taken, which must be sorted and without duplicates. All attached
// ENIs count, including those of other programs. It reports false if the card is
// full.
func freePlace(card, limit int, taken []place) (place, bool) {
	n, device := 0, 1
	for _, p := range taken {
		if p.Card != card {
			continue
		}
		n++
		if p.Device == device {
			device++
		}
	}
	if n >= limit {
		return place{}, false
	}
	return place{Card: card, Device: device}, true
}

// takenPlaces lists the places of an inventory and of unfinished intents.
func takenPlaces(inv Inventory, intents []Intent) []place {
	var out []place
	for _, e := range inv.ENIs {
		out = append(out, place{e.Card, e.Device})
	}
	for _, in := range intents {
		if in.Op == OpProvision && !in.Done && in.Device > 0 {
			out = append(out, place{in.Card, in.Device})
		}
	}
	return out
}
