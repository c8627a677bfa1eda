// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

// TestClock steps the wall clock, as `date -s` does, while an agent has pods. It
// changes the clock of the whole machine, so it runs only in the emulated machine of
// internal/vm.
func TestClock(t *testing.T) {
	isolatetest.Require(t)
	if os.Getenv(vmEnv) == "" {
		t.Log("not run, to leave this machine's clock unchanged; internal/vm runs this test")
		return
	}
	var c *clockTest
	for _, step := range []time.Duration{time.Second, -time.Second, time.Hour, -time.Hour, tenYears, -tenYears} {
		if c == nil {
			c = newClockTest(t)
		}
		if !t.Run(fmt.Sprintf("%+v", step), func(t *testing.T) { c.run(t, step) }) {
			c.close(t) // so that errors of this node do not affect the next test
			c = nil
		}
	}
}

// TestClockLoop steps the clock while plugins are killed and sandboxes end without
// DEL.
func TestClockLoop(t *testing.T) {
	isolatetest.Require(t)
	if os.Getenv(vmEnv) == "" {
		t.Log("not run, to leave this machine's clock unchanged; internal/vm runs this test")
		return
	}
	o := options{
		duration: time.Second, batch: 15 * time.Second, layout: "flat", workers: 2, seed: 1,
		kinds: []kind{pluginKill, noDel, clockStep}, programs: os.Getenv(programsEnv), node: theNode,
	}
	r, err := loop(t.Context(), o, t.Output())
	if adds, _ := r.outcomes("ADD"); err != nil || len(r.Violations) > 0 || adds == 0 || r.Faults[clockStep] == 0 {
		t.Errorf("%v: %+v, want ADDs and clock steps without violations", err, r)
	}
}

const (
	// clockCooldown is much longer than an ADD takes on an emulated machine.
	clockCooldown = 8 * time.Second
	// slack is the additional time that an emulated machine may need for a step.
	slack = 8 * time.Second
	// callsAllowed is far more than an agent needs in this test, and far less than
	// an agent makes that calls EC2 without pauses.
	callsAllowed = 40
)

// clockTest is a node with three addresses. Two of them belong to the pods a and b.
type clockTest struct {
	*faultTest
	step  time.Duration
	third *pod // the pod that has, or last had, the third address
	added int  // number of third pods so far
}

func (c *clockTest) run(t *testing.T, step time.Duration) {
	c.step = step
	c.cooldown(t)
	c.repair(t)
	calls := c.calls()
	c.restart(t)
	if n := c.calls() - calls; n > callsAllowed {
		t.Errorf("EC2 calls: %d after the agent's start, want at most %d: %v", n, callsAllowed, c.w.cloud.Calls())
	}
	if p, found := c.waitClean(t.Context(), grace); len(found) > 0 {
		t.Errorf("at the end: %v\npods: %+v", found, p.Pods)
	}
	if t.Failed() {
		t.Logf("the agent's log:\n%s", c.w.logged(6000))
	}
}

// newClockTest waits until the pods are so old that the agent no longer expects a
// plugin to be wiring them.
func newClockTest(t *testing.T) *clockTest {
	t.Helper()
	c := &clockTest{faultTest: newFaultTest(t, node{
		instanceType: "t3.small", cooldown: clockCooldown, flags: []string{"-max-eni=1"}, // 3 addresses for pods
	})}
	c.third = c.pod(t, "c")
	time.Sleep(wiring)
	return c
}

// wiring is a little longer than the time for which the agent leaves the network of
// a new pod to the plugin.
const wiring = 12 * time.Second

func mustSetClock(t *testing.T, step time.Duration) {
	t.Helper()
	if err := setClock(step); err != nil {
		t.Fatal(err)
	}
}

// cooldown releases the third address and steps the clock. The next pod must get the
// address after the cooldown by the monotonic clock, not earlier and not much later.
// An error before that must have the right retry time.
func (c *clockTest) cooldown(t *testing.T) {
	before := c.calls()
	addr, begun := c.third.addr, time.Now()
	if err := c.third.del(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	released := time.Now()
	mustSetClock(t, c.step)
	retry, err := c.refused(t)
	if err != nil {
		t.Errorf("retry time: %v", err)
	}
	took, err := c.addThird(t, released)
	sinceDel := time.Since(begun)
	switch {
	case err != nil:
		t.Errorf("cooldown: no address %v after the release, want one after %v: %v", took, clockCooldown, err)
	case c.third.addr != addr:
		t.Errorf("cooldown: the next pod got %v, want the released address %v", c.third.addr, addr)
	case sinceDel < clockCooldown || took > clockCooldown+slack:
		t.Errorf("cooldown: the address was allocated %v after its release and %v after the start of DEL, want %v", took, sinceDel, clockCooldown)
	}
	if left := clockCooldown - retry.at.Sub(released); retry.after > 0 && (retry.after > left+slack || retry.after < left-slack) {
		t.Errorf("retry time: %q %v before the end of the cooldown", retry.text, left)
	}
	if n := c.calls() - before; n > callsAllowed {
		t.Errorf("EC2 calls: %d during the cooldown, want at most %d: %v", n, callsAllowed, c.w.cloud.Calls())
	}
}

// refusal is an error of ADD with a retry time.
type refusal struct {
	text  string
	after time.Duration // the retry time
	at    time.Time     // the time of the answer
}

// refused runs an ADD with a short deadline, for which no address is free.
func (c *clockTest) refused(t *testing.T) (refusal, error) {
	t.Helper()
	at := cniplugin.Attachment{Network: "vpcnet", ContainerID: strings.Repeat("f", 64), IfName: ifName}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	got, err := cniplugin.Client{Socket: c.w.socket()}.Add(ctx, cniplugin.AddRequest{Attachment: at, Netns: c.a.ns.Path()})
	answered := time.Now()
	if err == nil {
		_, delErr := cniplugin.Client{Socket: c.w.socket()}.Del(t.Context(), cniplugin.DelRequest{Attachment: at})
		return refusal{}, errors.Join(fmt.Errorf("%v was allocated during the cooldown", got.Addresses), delErr)
	}
	var why *cniplugin.AgentError
	if !errors.As(err, &why) || why.RetryAfter <= 0 {
		return refusal{}, fmt.Errorf("want an error with a retry time: %w", err)
	}
	return refusal{why.Message + "; retry after " + why.RetryAfter.String(), why.RetryAfter, answered}, nil
}

// addThird runs ADD until it succeeds, and returns the time from since to its end.
func (c *clockTest) addThird(t *testing.T, since time.Time) (time.Duration, error) {
	t.Helper()
	c.added++
	if err := c.third.remove(); err != nil {
		t.Fatal(err)
	}
	p, err := c.w.newPod(fmt.Sprintf("third-%d", c.added), rand.New(rand.NewPCG(uint64(c.added), 7)))
	if err != nil {
		t.Fatal(err)
	}
	c.third = p
	for {
		err := p.add(t.Context(), nil)
		took := time.Since(since)
		if err == nil || took > clockCooldown+2*slack {
			return took, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// repair deletes the route of an old pod. The agent must restore it.
func (c *clockTest) repair(t *testing.T) {
	route := c.route(t)
	start := time.Now()
	if err := c.w.kernel.Apply(t.Context(), netstate.Diff(netstate.State{Routes: []netstate.Route{route}}, netstate.State{})); err != nil {
		t.Fatal(err)
	}
	for {
		state, err := c.w.kernel.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(state.Routes, route) {
			return
		}
		if time.Since(start) > slack {
			t.Errorf("repair: the route of a pod is still missing after %v", time.Since(start))
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// restart kills the agent while an address is cooling, steps the clock back and
// starts the agent again. The agent must serve pods, and must not change the pods
// that exist.
func (c *clockTest) restart(t *testing.T) {
	if err := c.third.del(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	released := time.Now()
	c.w.agent.kill()
	mustSetClock(t, -c.step)
	if err := c.w.agent.run(); err != nil {
		t.Fatal(err)
	}
	if problem := c.waitReady(t.Context(), slack); problem != "" {
		t.Errorf("restart: the agent is not ready after %v: %s", slack, problem)
	}
	if took, err := c.addThird(t, released); err != nil || took > clockCooldown+slack {
		t.Errorf("restart: no address %v after the release, want one after at most %v: %v", took, clockCooldown, err)
	}
	p, err := c.w.observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if found := slices.Concat(p.released(), p.forgotten()); len(found) > 0 {
		t.Errorf("restart: %v", found)
	}
}

func (c *clockTest) calls() (n int) {
	for _, k := range c.w.cloud.Calls() {
		n += k
	}
	return n
}
