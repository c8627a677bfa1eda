// SPDX-License-Identifier: Apache-2.0

package eni

import "time"

// place is one of EC2's coordinates for an ENI on an instance.
type place struct {
	Card, Device int
}

// cardLimit is how many ENIs a card takes: by the type's limits, less what is
// reserved, and no more than there were when EC2 refused one more lately.
func cardLimit(l Limits, cfg Config, card int, refused map[int]refusal, now time.Time) int {
	n := l.MaxENIs(card)
	if cfg.MaxENIs > 0 {
		n = min(n, cfg.MaxENIs)
	}
	if card == l.DefaultCard {
		n -= cfg.ReserveENIs
	}
	return refused[card].limit(n, now)
}

// freePlace finds a device index for one more ENI on a card: the lowest from 1
// that is not among those taken, which are sorted and each there once. Every
// attached ENI counts, ours or not. It reports false if the card is full.
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

// taken lists the places of an inventory and of the intents under way.
func taken(inv Inventory, intents []Intent) []place {
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
