// SPDX-License-Identifier: Apache-2.0

package introspect

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// Totals are the numbers of a network card's IPv4 addresses.
type Totals struct {
	card int
	// Prefixes are prefixes of the ENIs, and Addrs their addresses and single ones.
	Addrs, Prefixes int
	// assigned are held by pods, and cooling rest after a pod.
	assigned, cooling int
}

// TotalsOf returns the numbers of each card of a pool, in order.
func TotalsOf(v ipam.View) (all []Totals) {
	for _, e := range v.ENIs {
		if len(all) == 0 || all[len(all)-1].card != e.Card { // the ENIs are in the order of cards
			all = append(all, Totals{card: e.Card})
		}
		t := &all[len(all)-1]
		t.Prefixes += prefixesOf(e)
		for _, b := range e.Blocks {
			if b.Prefix.Addr().Is4() {
				t.Addrs += sizeOf(b.Prefix)
				t.assigned += b.Used
				t.cooling += b.Cooling
			}
		}
	}
	return all
}

// LogPool logs the totals of each card at the level debug when they change, until ctx ends. At
// other levels it reads no status, which costs a look at all links.
// The message is that of amazon-vpc-cni-k8s. changed receives a value after each change, see
// [ipamd.Agent.Subscribe].
func (s *Server) LogPool(ctx context.Context, changed <-chan struct{}, log *slog.Logger) error {
	logged := map[int]string{}
	for {
		if log.Enabled(ctx, slog.LevelDebug) {
			for _, line := range poolLines(TotalsOf(s.Agent.View()), s.Agent.Status().Cards) {
				if logged[line.card] != line.text {
					logged[line.card] = line.text
					log.Debug(line.text)
				}
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

type poolLine struct {
	card int
	text string
}

// poolLines returns a line for each card with known limits.
func poolLines(all []Totals, cards []ipamd.CardStatus) (lines []poolLine) {
	for _, t := range all {
		for _, c := range cards {
			if c.Card == t.card {
				lines = append(lines, poolLine{t.card, fmt.Sprintf("IP pool stats for network card %d: Total IPs/Prefixes = %d/%d, AssignedIPs/CooldownIPs: %d/%d, c.maxIPsPerENI = %d",
					t.card, t.Addrs, t.Prefixes, t.assigned, t.cooling, c.SlotsPerENI*c.AddressesPerSlot)})
			}
		}
	}
	return lines
}
