// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// Fault disturbs the calls that match it. Its effects come in this order: Delay,
// then Hang, then Err. If neither Hang nor Err is set the call is done, and then
// Drop loses its answer.
type Fault struct {
	// Action is an EC2 action, or a metadata path such as
	// "meta-data/network/interfaces/macs/". It may be a pattern of path.Match,
	// where "*" stops at a slash.
	Action string
	// Caller limits the fault to one caller, see Call.Caller. For metadata it is
	// the instance ID. Empty means all callers.
	Caller string
	// Skip is the number of matching calls that pass before the first fault.
	Skip int
	// Times is the number of calls that the fault disturbs; 0 means all.
	Times int

	// Delay is the time to wait before the call is done.
	Delay time.Duration
	// Hang means that the call is not done and not answered, so that the client
	// has to give up.
	Hang bool
	// Err is the answer if it is not nil. The call is not done. For metadata only
	// its Status and its Message are used.
	Err *APIError
	// Drop means that the call is done and the connection then closed without an
	// answer.
	Drop bool
}

// fault is a Fault and the number of calls that matched it.
type fault struct {
	Fault
	matched int
}

// Check returns an error if the fault can match nothing: Action must match an
// action of the API, or be a path or a pattern of paths below /latest/.
func (f Fault) Check() error {
	first, _, isPath := strings.Cut(f.Action, "/")
	if isPath || slices.Contains(metadataRoots, first) {
		_, err := path.Match(f.Action, "")
		for _, root := range metadataRoots {
			if ok, _ := path.Match(first, root); ok {
				return err
			}
		}
		return fmt.Errorf("metadata path %q begins with none of %s", f.Action, strings.Join(metadataRoots, ", "))
	}
	return checkActionPattern(f.Action)
}

// metadataRoots are the first elements of the metadata paths below /latest/.
var metadataRoots = []string{"api", "dynamic", "meta-data", "user-data"}

// AddFault adds a fault and returns a function that removes it. It panics if
// Fault.Check returns an error.
func (c *Cloud) AddFault(f Fault) (remove func()) {
	if err := f.Check(); err != nil {
		panic(fmt.Sprintf("enitest: add fault: %v", err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	added := &fault{Fault: f}
	c.faults = append(c.faults, added)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i, have := range c.faults {
			if have == added {
				c.faults = append(c.faults[:i:i], c.faults[i+1:]...)
			}
		}
	}
}

// matchFaults returns the sum of all faults that match a call, and counts the
// match.
func (c *Cloud) matchFaults(action, caller string) Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sum Fault
	for _, f := range c.faults {
		if ok, _ := path.Match(f.Action, action); !ok || f.Caller != "" && f.Caller != caller {
			continue
		}
		f.matched++
		if n := f.matched - f.Skip; n <= 0 || f.Times > 0 && n > f.Times {
			continue
		}
		sum.Delay += f.Delay
		sum.Hang = sum.Hang || f.Hang
		sum.Drop = sum.Drop || f.Drop
		if sum.Err == nil {
			sum.Err = f.Err
		}
	}
	return sum
}

// wait waits for the Delay or the Hang of the fault. It reports false if the
// client gives up meanwhile.
func wait(ctx context.Context, f Fault) bool {
	if f.Hang {
		<-ctx.Done()
		return false
	}
	if f.Delay <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(f.Delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
