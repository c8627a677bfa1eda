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

// chaos injects faults, one after the other.
type chaos struct {
	w     *world
	rng   *rand.Rand
	kinds []kind // all kinds except those that the workers inject
	// rare makes the pauses between faults some seconds long.
	rare bool
	undo []func()
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

// injectFaults injects faults until ctx ends, and then ends them. Afterwards the
// agent may be down.
func (c *chaos) injectFaults(ctx context.Context) {
	for ctx.Err() == nil && len(c.kinds) > 0 {
		k := c.kinds[c.rng.IntN(len(c.kinds))]
		if k.long() && len(c.kinds) > 2 && c.rng.IntN(3) > 0 {
			continue // because it would take most of the batch
		}
		what, err := c.inject(ctx, k)
		switch {
		case err != nil:
			c.w.events.add("%s: %s: %v", k, what, err)
		case what != "":
			c.w.tally.count(k)
			c.w.events.add("%s: %s", k, what)
		}
		between := time.Duration(100+c.rng.IntN(500)) * time.Millisecond
		if c.rare {
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

// inject injects a fault of one kind and returns its description. The description is
// empty if the fault was not possible at this time.
func (c *chaos) inject(ctx context.Context, k kind) (string, error) {
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

// downtime kills the agent, injects a fault of kind k while it is down, and starts
// it again.
func (c *chaos) downtime(ctx context.Context, k kind) (what string, err error) {
	pause(ctx, time.Duration(c.rng.IntN(400))*time.Millisecond)
	c.w.agent.kill()
	c.w.tally.killedAgent()
	pause(ctx, time.Duration(c.rng.ExpFloat64()*float64(300*time.Millisecond)))
	hang := []string(nil) // patterns of calls that get no answer
	switch k {
	case ec2Hang:
		what, hang = "EC2", []string{"*"}
	case metadataHang:
		what, hang = "metadata", metadataPatterns()
	case agentKill:
		what = "killed and started again"
		if c.rng.IntN(2) == 0 {
			err = c.saveCopy()
		}
	default:
		what, err = c.changeState(k)
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

// metadataPatterns returns patterns that match every path of the metadata service.
// It needs several, because a star does not match a slash.
func metadataPatterns() []string {
	pattern, all := "*/*", []string(nil)
	for range 8 {
		all = append(all, pattern)
		pattern += "/*"
	}
	return all
}

// changeState removes, damages or replaces the agent's state directory.
func (c *chaos) changeState(k kind) (string, error) {
	switch k {
	case journalLost:
		lost, err := loseFiles(c.w.stateDir(), c.rng)
		return fmt.Sprintf("removed %v", lost), err
	case journalDamaged:
		done, err := damageFiles(c.w.stateDir(), c.rng)
		return fmt.Sprintf("%v", done), err
	}
	if len(c.copies) == 0 {
		return "", c.saveCopy()
	}
	i := c.rng.IntN(len(c.copies))
	return "restored " + filepath.Base(c.copies[i]), copyFiles(c.copies[i], c.w.stateDir())
}

// maxCopies is the number of old states to choose from.
const maxCopies = 6

// saveCopy copies the agent's state directory. The agent must be down.
func (c *chaos) saveCopy() error {
	dir := filepath.Join(c.w.copiesDir(), fmt.Sprintf("of-%.1fs", time.Since(c.w.began).Seconds()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := copyFiles(c.w.stateDir(), dir); err != nil {
		return err
	}
	c.copies = append(c.copies, dir)
	if len(c.copies) > maxCopies {
		c.copies = slices.Delete(c.copies, 0, 1)
	}
	return nil
}

// repairWithin is how long the agent may take to repair the node's network. It takes
// milliseconds, and longer on a busy machine.
const repairWithin = 5 * time.Second

// flush removes all rules of nftables on the node and waits until the agent has
// restored them. It does nothing while the agent is not ready, because then it would
// not repair them.
func (c *chaos) flush(ctx context.Context) (string, error) {
	if c.w.ready(ctx) != nil {
		return "", nil
	}
	c.w.repairing.Add(1)
	defer c.w.repairing.Add(1)
	if err := c.w.flushRuleset(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), repairWithin)
	defer cancel()
	return c.w.waitRepaired(ctx), nil
}

// waitRepaired waits until no rule is missing. If ctx ends first, it records a
// violation. It returns the outcome.
func (w *world) waitRepaired(ctx context.Context) string {
	why := ""
	for ctx.Err() == nil {
		now := w.missing(ctx)
		if now == "" {
			return "repaired"
		}
		if ctx.Err() == nil {
			why = now
		}
		pause(ctx, 20*time.Millisecond)
	}
	w.recordViolations(violation{notRepaired, "after a flush of the ruleset: " + why})
	return "not repaired"
}

// missing describes a rule of the node that is missing. It is empty if none is.
func (w *world) missing(ctx context.Context) string {
	s, err := w.status(ctx)
	if err != nil {
		return err.Error()
	}
	n, err := s.Node()
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
