// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/patience"
)

// WatchConfig says what [Handle.Watch] keeps up.
type WatchConfig struct {
	// Desired returns what shall be. It is called for each look, on Watch's
	// goroutine, and should be quick.
	Desired func() Desired
	// Repaired is called after each repair, for metrics. Optional.
	Repaired func(Repair)
	// Logger gets a line for each repair. Optional.
	Logger *slog.Logger
	// Exclusive runs look, which compares what is with what shall be and repairs the
	// difference, while nothing else in the process changes the network of the node or
	// what Desired returns: a look between two steps of EnsureNode would take the half
	// of it for damage. An error of look goes through it. AddPod and DelPod need not
	// wait for looks. Optional.
	Exclusive func(ctx context.Context, look func() error) error
	// Every is how often to look although the kernel reports nothing: it does not
	// report every setting. One minute if 0.
	Every time.Duration
}

// Repair is what Watch found and did.
type Repair struct {
	Changes []netstate.Change
	// Took is the time from the kernel's report to the end of the repair; from the
	// beginning of the look if there was no report.
	Took time.Duration
	// By names the programs whose changes were undone, as "name (pid 7)", as far as
	// the kernel tells.
	By []string
	// Fighting means that someone changed the same thing so often that Watch now
	// waits before it repairs that thing again.
	Fighting bool
	// Err is what kept some of Changes from being made; they are tried again.
	Err error
}

// grant splits changes into those to make now and the time until the next of the
// others. fighting reports that a repair is the last one before a wait.
func grant(p *patience.Patience, changes []netstate.Change, now time.Time) (due []netstate.Change, next time.Duration, fighting bool) {
	texts := make([]string, len(changes))
	for i, c := range changes {
		texts[i] = c.String()
	}
	granted, next, fighting := p.Grant(texts, now)
	for i, c := range changes {
		if granted[i] {
			due = append(due, c)
		}
	}
	return due, next, fighting
}

// confirmed returns the changes that two looks, one after the other, both found, in
// the order of the second. A single look takes several dumps and may see the half of
// what another program is doing just now.
func confirmed(first, second []netstate.Change) []netstate.Change {
	before := map[string]bool{}
	for _, c := range first {
		before[c.String()] = true
	}
	return slices.DeleteFunc(slices.Clone(second), func(c netstate.Change) bool { return !before[c.String()] })
}

// doubtful reports whether c deletes a rule of a pod, which the lock must protect from
// being that of a new pod by now.
func doubtful(c netstate.Change) bool {
	r, ok := c.Item.(netstate.Rule)
	return ok && c.Op == netstate.OpDelete && podRule(r)
}

// without returns d without the pods whose host link is not settled.
func (d Desired) without(unsettled map[string]bool) Desired {
	if len(unsettled) > 0 {
		d.Pods = slices.DeleteFunc(slices.Clone(d.Pods), func(p Pod) bool { return unsettled[p.HostLink()] })
	}
	return d
}
