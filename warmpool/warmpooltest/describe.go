// SPDX-License-Identifier: Apache-2.0

package warmpooltest

import (
	"fmt"
	"strings"

	"github.com/vpcnet/vpcnet/warmpool"
)

// describe returns a pool and a decision as text for failure messages.
func describe(s warmpool.Snapshot, d warmpool.Decision) string {
	return describePool(s) + describeDecision(d)
}

func describePool(s warmpool.Snapshot) string {
	var b strings.Builder
	l := s.Limits
	fmt.Fprintf(&b, "pool: %d ENIs at most, %d slots each, %d addresses a slot, max-pods %d; %d wait, %d bound",
		l.MaxENIs, l.SlotsPerENI, max(1, l.AddressesPerSlot), l.MaxPods, s.Demand.Waiting, s.Demand.Bound)
	if s.Card > 0 {
		fmt.Fprintf(&b, "; card %d", s.Card)
	}
	b.WriteByte('\n')
	for _, e := range s.ENIs {
		fmt.Fprintf(&b, "  %s: %d slots, %d assigned, %d cooling, %s old", e.ID, e.Slots, e.Assigned, e.Cooling, e.Age)
		if l.AddressesPerSlot > 1 && e.Slots > 0 {
			fmt.Fprintf(&b, ", per slot %v", e.AssignedPerSlot)
		}
		if e.Primary {
			b.WriteString(", primary")
		}
		if e.NoPods {
			b.WriteString(", not for pods")
		}
		if e.Full {
			b.WriteString(", full")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func describeDecision(d warmpool.Decision) string {
	var b strings.Builder
	fmt.Fprintf(&b, "decision: short %d, over %d: %s; next in %s\n", d.Short, d.Over, d.Explanation, d.Next)
	for _, a := range d.Actions {
		fmt.Fprintf(&b, "  %s %d on %q: %s\n", a.Op, a.N, a.ENI, a.Explanation)
	}
	return b.String()
}

func findENI(s warmpool.Snapshot, id string) (warmpool.ENI, bool) {
	for _, e := range s.ENIs {
		if e.ID == id {
			return e, true
		}
	}
	return warmpool.ENI{}, false
}

// freeSlots counts the slots of a Pool's ENI that have neither an assigned nor a
// cooling address.
func freeSlots(e warmpool.ENI) int {
	n := 0
	for i := range e.Slots {
		if e.AssignedPerSlot[i]+e.CoolingPerSlot[i] == 0 {
			n++
		}
	}
	return n
}
