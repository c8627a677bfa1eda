// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"context"
	"path"
	"time"
)

// Fault is something that goes wrong with matching calls. What it says happens
// in this order: the Delay, Hang, Err; without the last two the call is done,
// and Drop loses its answer.
type Fault struct {
	// Action is an EC2 action, or a metadata path such as
	// "meta-data/network/interfaces/macs/". It may be a pattern of path.Match,
	// where "*" stops at a slash.
	Action string
	// Caller limits the fault to one caller, see Call.Caller. For metadata it is
	// the instance ID. Empty means everybody.
	Caller string
	// Skip lets that many matching calls pass first.
	Skip int
	// Times is how many calls the fault hits; 0 means all.
	Times int

	// Delay holds the call up before it is done.
	Delay time.Duration
	// Hang never answers: the client has to give up. Nothing is done.
	Hang bool
	// Err is the answer; nothing is done. For metadata only its Status counts.
	Err *APIError
	// Drop does the call and then breaks the connection.
	Drop bool
}

// fault is a Fault with how often it has matched.
type fault struct {
	Fault
	matched int
}

// AddFault adds a fault and returns a function that removes it.
func (c *Cloud) AddFault(f Fault) (remove func()) {
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

// trouble is what the faults have in store for a call: the sum of all that
// match.
func (c *Cloud) trouble(action, caller string) Fault {
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

// wait holds a request up. It reports false if the client gives up meanwhile.
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
