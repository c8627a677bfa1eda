// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/patience"
)

// WatchConfig is the configuration of [Handle.Watch].
type WatchConfig struct {
	// Desired returns the desired network of the node. Watch calls it for each look, on
	// its own goroutine; it should be quick.
	Desired func() Desired
	// Repaired is called after each repair, for example to count it. Optional.
	Repaired func(Repair)
	// Logger receives a line for each repair. Optional.
	Logger *slog.Logger
	// Exclusive calls look, which compares the network of the node with Desired and
	// repairs the difference, while nothing else in the process changes that network or
	// what Desired returns: a look between two steps of EnsureNode would take a network
	// that is half done for damage. It returns the error of look. AddPod and DelPod need
	// not wait for looks. Optional.
	Exclusive func(ctx context.Context, look func() error) error
	// Every is how often Watch looks when the kernel reports nothing, because the kernel
	// does not report changes of every setting. One minute if 0.
	Every time.Duration
}

// errNoDesired is the error of Watch for a WatchConfig without Desired.
var errNoDesired = errors.New("datapath: WatchConfig.Desired is nil, want a function that returns the desired network")

// Repair describes one repair by Watch.
type Repair struct {
	// Changes are the changes that Watch made, or tried to make.
	Changes []netstate.Change
	// Took is the time from the kernel's report to the end of the repair, or from the
	// beginning of the look if there was no report.
	Took time.Duration
	// By names the programs that made the changes which Watch undid, as "name (pid 7)",
	// as far as the kernel reports them.
	By []string
	// Fighting means that another program changed the same object so often that Watch
	// now waits before it repairs that object again.
	Fighting bool
	// Err is the error of those of Changes that Watch could not make. It tries them again.
	Err error
}

// dueChanges returns the changes to make now, and the time until the next of the others
// is due. Fighting means that the next repair of the same object has to wait.
func dueChanges(p *patience.Patience, changes []netstate.Change, now time.Time) (due []netstate.Change, next time.Duration, fighting bool) {
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

// confirmed returns the changes that two looks, one after the other, both found, in the
// order of the second. A single look makes several dumps, and may see only half of what
// another program is doing at that moment.
func confirmed(first, second []netstate.Change) []netstate.Change {
	before := map[string]bool{}
	for _, c := range first {
		before[c.String()] = true
	}
	return slices.DeleteFunc(slices.Clone(second), func(c netstate.Change) bool { return !before[c.String()] })
}

// deletesPodRule reports whether c deletes a rule of a pod. A new pod may have the same
// rule by now, so such a change needs the lock.
func deletesPodRule(c netstate.Change) bool {
	r, ok := c.Item.(netstate.Rule)
	return ok && c.Op == netstate.OpDelete && podRule(r)
}

// without returns d without the pods that have their host link in unsettled.
func (d Desired) without(unsettled map[string]bool) Desired {
	if len(unsettled) > 0 {
		d.Pods = slices.DeleteFunc(slices.Clone(d.Pods), func(p Pod) bool { return unsettled[p.HostLink()] })
	}
	return d
}
