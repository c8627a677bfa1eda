// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// chaos makes trouble, one after the other, until its context ends.
type chaos struct {
	w     *world
	rng   *rand.Rand
	kinds []kind // those that are not the workers'
	// seldom lets some seconds pass between two troubles.
	seldom bool
	undo   []func()
	// copies are the directories with old states of the agent.
	copies []string
}

func newChaos(w *world, rng *rand.Rand) *chaos {
	c := &chaos{w: w, rng: rng}
	for _, k := range w.o.kinds {
		if k != pluginKill && k != pluginStop && k != noDel {
			c.kinds = append(c.kinds, k)
		}
	}
	return c
}

// wreak makes trouble until ctx ends. Then it ends all of it; the agent may be
// down.
func (c *chaos) wreak(ctx context.Context) {
	for ctx.Err() == nil && len(c.kinds) > 0 {
		k := c.kinds[c.rng.IntN(len(c.kinds))]
		if k.long() && len(c.kinds) > 2 && c.rng.IntN(3) > 0 {
			continue // it would take most of the batch
		}
		what, err := c.make(ctx, k)
		switch {
		case err != nil:
			c.w.events.add("%s: %s: %v", k, what, err)
		case what != "":
			c.w.tally.count(k)
			c.w.events.add("%s: %s", k, what)
		}
		between := time.Duration(100+c.rng.IntN(500)) * time.Millisecond
		if c.seldom {
			between *= 15
		}
		pause(ctx, between)
	}
	for _, f := range c.undo {
		f()
	}
	c.w.cloud.SetLag(enitest.Lag{})
	c.w.cloud.SetThrottle(nil)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// make makes trouble of one kind and returns what it did, empty if the moment was
// not right.
func (c *chaos) make(ctx context.Context, k kind) (string, error) {
	switch k {
	case metadataLag:
		lag := min(time.Duration(c.rng.IntN(121))*time.Second, time.Since(c.w.began)-time.Second)
		c.w.cloud.SetLag(enitest.Lag{Metadata: max(0, lag)})
		return fmt.Sprint(lag.Round(time.Second)), nil
	case throttle:
		c.w.cloud.SetThrottle(&enitest.Throttle{Classes: map[enitest.Class]enitest.Bucket{
			enitest.NonMutating: {Size: 2, Rate: 0.5}, enitest.Unfiltered: {Size: 2, Rate: 0.5}, enitest.Mutating: {Size: 1, Rate: 0.3},
		}})
		pause(ctx, time.Duration(c.rng.IntN(5000))*time.Millisecond)
		c.w.cloud.SetThrottle(nil)
		return "for some seconds", nil
	case lostAnswer:
		n := 1 + c.rng.IntN(3)
		c.undo = append(c.undo, c.w.cloud.AddFault(enitest.Fault{Action: "*", Skip: c.rng.IntN(3), Times: n, Drop: true}))
		return fmt.Sprintf("%d answers", n), nil
	case nftFlush:
		return c.flush(ctx)
	case clockStep:
		return stepClock(c.rng)
	}
	return c.downtime(ctx, k)
}

// downtime kills the agent, does what k means while it is down, and starts it
// again, if it ends before ctx.
func (c *chaos) downtime(ctx context.Context, k kind) (what string, err error) {
	pause(ctx, time.Duration(c.rng.IntN(400))*time.Millisecond)
	c.w.agent.kill()
	c.w.tally.killedAgent()
	pause(ctx, time.Duration(c.rng.ExpFloat64()*float64(300*time.Millisecond)))
	hang := []string(nil)
	switch k {
	case ec2Hang:
		what, hang = "EC2", []string{"*"}
	case metadataHang:
		what, hang = "metadata", metadataPatterns()
	case agentKill:
		what = "down and up again"
		if c.rng.IntN(2) == 0 {
			err = c.keepCopy()
		}
	default:
		what, err = c.attack(k)
	}
	var undo []func()
	for _, pattern := range hang {
		undo = append(undo, c.w.cloud.AddFault(enitest.Fault{Action: pattern, Hang: true}))
	}
	if e := c.w.agent.run(); e != nil && err == nil {
		err = e
	}
	if hang != nil {
		long := time.Duration(c.rng.IntN(6000)) * time.Millisecond
		what += fmt.Sprintf(" hangs for %v at the start", long)
		pause(ctx, long)
	}
	for _, f := range undo {
		f()
	}
	return what, err
}

// metadataPatterns match every path of the metadata service; a star does not match
// a slash.
func metadataPatterns() []string {
	pattern, all := "*/*", []string(nil)
	for range 8 {
		all = append(all, pattern)
		pattern += "/*"
	}
	return all
}

// attack takes the agent's memory.
func (c *chaos) attack(k kind) (string, error) {
	switch k {
	case journalLost:
		lost, err := loseFiles(c.w.stateDir(), c.rng)
		return fmt.Sprintf("removed %v", lost), err
	case journalDamaged:
		done, err := damageFiles(c.w.stateDir(), c.rng)
		return fmt.Sprintf("%v", done), err
	}
	if len(c.copies) == 0 {
		return "", c.keepCopy()
	}
	i := c.rng.IntN(len(c.copies))
	return "put back " + filepath.Base(c.copies[i]), copyFiles(c.copies[i], c.w.stateDir())
}

// keepCopies is how many old states there are to choose from.
const keepCopies = 6

// keepCopy makes a copy of the agent's memory. The agent is down.
func (c *chaos) keepCopy() error {
	dir := filepath.Join(c.w.copiesDir(), fmt.Sprintf("of-%.1fs", time.Since(c.w.began).Seconds()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := copyFiles(c.w.stateDir(), dir); err != nil {
		return err
	}
	c.copies = append(c.copies, dir)
	if len(c.copies) > keepCopies {
		c.copies = slices.Delete(c.copies, 0, 1)
	}
	return nil
}

// mendWithin is how long the agent may take to mend a damage to the node's
// network. It mends in milliseconds; a busy machine needs more.
const mendWithin = 5 * time.Second

// flush removes all rules of nftables on the node and waits for their return. It
// does nothing while the agent does not serve, for no one would mend it.
func (c *chaos) flush(ctx context.Context) (string, error) {
	if c.w.ready(ctx) != nil {
		return "", nil
	}
	c.w.mending.Add(1)
	defer c.w.mending.Add(1)
	if err := c.w.flushRuleset(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mendWithin)
	defer cancel()
	return c.w.mended(ctx), nil
}

// mended waits until nothing is missing and says so. If ctx ends before, that is a
// violation.
func (w *world) mended(ctx context.Context) string {
	why := ""
	for ctx.Err() == nil {
		now := w.unmended(ctx)
		if now == "" {
			return "mended"
		}
		if ctx.Err() == nil {
			why = now
		}
		pause(ctx, 20*time.Millisecond)
	}
	w.breach(violation{notRepaired, "after a flush of the ruleset: " + why})
	return "not mended"
}

// unmended says what of the node's rules is missing, empty if nothing is.
func (w *world) unmended(ctx context.Context) string {
	s, err := w.status(ctx)
	if err != nil {
		return err.Error()
	}
	n, err := s.node()
	if err != nil {
		return err.Error()
	}
	state, err := w.kernel.Observe(ctx)
	if err != nil {
		return err.Error()
	}
	if drift := (datapath.Desired{Node: n}).Drift(state); len(drift) > 0 {
		return drift[0].String()
	}
	rules, err := w.nat.Observe(ctx)
	if err != nil {
		return err.Error()
	}
	if _, ok := rules.Translation(); !ok {
		return "the sources of pods are not translated"
	}
	return ""
}
