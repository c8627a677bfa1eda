// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// failAlways makes the next 1000 calls of an operation fail.
func (w *world) failAlways(op string, err error) {
	for range 1000 {
		w.cloud.faults[op] = append(w.cloud.faults[op], err)
	}
}

// fillUp starts pods until the node has all the addresses that it can have.
func (w *world) fillUp(p *process) {
	for i := range w.cloud.maxENIs * w.cloud.slots {
		if err := p.add(string(rune('a'+i)), time.Minute); err != nil {
			w.t.Fatal(err)
		}
	}
}

// refusals has, for each reason that a pod can be refused for, a function that
// causes it. A reason that EC2 gives is returned by both calls that add
// addresses.
func refusals() map[ipam.Reason]func(w *world) *process {
	byEC2 := func(err error) func(*world) *process {
		return func(w *world) *process {
			w.failAlways("assign", err)
			w.failAlways("create", err)
			return w.boot(0)
		}
	}
	said := func(r ipam.Reason) func(*world) *process {
		return byEC2(refusal{reason: string(r), after: 7 * time.Second})
	}
	return map[ipam.Reason]func(w *world) *process{
		ipam.ReasonAgentStarting: func(w *world) *process {
			w.cloud.latency = time.Hour
			return w.boot(0)
		},
		ipam.ReasonAgentStopping: func(w *world) *process {
			p := w.boot(0)
			p.stop()
			return p
		},
		ipam.ReasonRefilling: func(w *world) *process {
			p := w.boot(0)
			time.Sleep(w.cloud.latency / 2) // the first observation is under way
			w.cloud.mu.Lock()
			w.cloud.latency = time.Hour
			w.cloud.mu.Unlock()
			return p
		},
		ipam.ReasonCooling: func(w *world) *process {
			p := w.boot(0)
			w.fillUp(p)
			if err := p.del("a"); err != nil {
				w.t.Error(err)
			}
			return p
		},
		ipam.ReasonPoolLimit: func(w *world) *process {
			w.cloud.maxENIs = 2
			w.config = func(c *agent.Config) {
				c.Limits = []warmpool.Limits{{MaxENIs: 2, SlotsPerENI: w.cloud.slots, MaxPods: 1}}
			}
			p := w.boot(0)
			if err := p.add("a", time.Minute); err != nil {
				w.t.Error(err)
			}
			return p
		},
		ipam.ReasonENILimit: func(w *world) *process {
			p := w.boot(0)
			w.fillUp(p)
			return p
		},
		ipam.ReasonLinkNotReady: func(w *world) *process {
			w.kernel.failing["eni-0"] = 1000000
			return w.boot(0)
		},
		ipam.ReasonEC2Refused:     byEC2(errors.New("EC2 says InternalError")),
		ipam.ReasonSlotLimit:      said(ipam.ReasonSlotLimit),
		ipam.ReasonQuota:          said(ipam.ReasonQuota),
		ipam.ReasonSubnetFull:     said(ipam.ReasonSubnetFull),
		ipam.ReasonThrottled:      said(ipam.ReasonThrottled),
		ipam.ReasonSafeMode:       said(ipam.ReasonSafeMode),
		ipam.ReasonNoMetadata:     said(ipam.ReasonNoMetadata),
		ipam.ReasonUnauthorized:   said(ipam.ReasonUnauthorized),
		ipam.ReasonNoFreePrefix:   said(ipam.ReasonNoFreePrefix),
		ipam.ReasonInFlight:       said(ipam.ReasonInFlight),
		ipam.ReasonInUse:          said(ipam.ReasonInUse),
		ipam.ReasonNotFound:       said(ipam.ReasonNotFound),
		ipam.ReasonNotManaged:     said(ipam.ReasonNotManaged),
		ipam.ReasonEC2Unreachable: byEC2(context.DeadlineExceeded),
	}
}

// TestEveryReasonReachesThePod: the error for a pod has the reason, its evidence
// and, where it is known, the time after which to try again.
func TestEveryReasonReachesThePod(t *testing.T) {
	ways := refusals()
	// final are the reasons for which waiting is useless.
	final := map[ipam.Reason]bool{
		ipam.ReasonPoolLimit: true, ipam.ReasonENILimit: true, ipam.ReasonAgentStopping: true, ipam.ReasonCooling: true,
	}
	// noRetry are the reasons for which the time of the next try is unknown.
	noRetry := map[ipam.Reason]bool{
		ipam.ReasonPoolLimit: true, ipam.ReasonENILimit: true, ipam.ReasonAgentStopping: true,
		ipam.ReasonAgentStarting: true, ipam.ReasonRefilling: true,
	}
	// withoutAgent are the reasons of a pool without an agent, which package ipam tests,
	// and that of a wanted address, see TestWantedAddress.
	withoutAgent := map[ipam.Reason]bool{ipam.ReasonAllInUse: true, ipam.ReasonNoBlocks: true, ipam.ReasonNoSuchAddress: true}
	for _, reason := range ipam.Reasons() {
		way, ok := ways[reason]
		if !ok {
			if !withoutAgent[reason] {
				t.Errorf("reason %s has no row", reason)
			}
			continue
		}
		t.Run(string(reason), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.cloud.maxENIs, w.cloud.slots = 1, 1
				p := way(w)
				defer p.stop()
				start := time.Now()
				e := reasonOf(t, p.add("new", 10*time.Second))
				if e.Reason != reason || e.Evidence == "" {
					t.Errorf("refused with %v, want reason %s with evidence", e, reason)
				}
				if final[reason] != (time.Since(start) < time.Second) {
					t.Errorf("refused with %s after %v, final is %v", e.Reason, time.Since(start), final[reason])
				}
				if (e.RetryAfter > 0) == noRetry[reason] {
					t.Errorf("%s: RetryAfter is %v, want zero: %v", e.Reason, e.RetryAfter, noRetry[reason])
				}
				if len(w.cloud.faults) > 0 && !strings.Contains(e.Evidence, "EC2 says") && reason != ipam.ReasonEC2Unreachable {
					t.Errorf("%s: evidence %q lacks the text of EC2's error", reason, e.Evidence)
				}
				// The pod gets its answer before the loop publishes its status.
				synctest.Wait()
				if s := p.Status(); reason != ipam.ReasonCooling && s.Reason != reason {
					t.Errorf("status has reason %s (%s), want %s", s.Reason, s.Evidence, reason)
				}
			})
		})
	}
}

// TestReasonsAtStart: while the agent cannot observe its ENIs, pods get the reason
// of that failure.
func TestReasonsAtStart(t *testing.T) {
	for _, reason := range []ipam.Reason{ipam.ReasonNoMetadata, ipam.ReasonUnauthorized, ipam.ReasonEC2Unreachable} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.failAlways("observe", refusal{reason: string(reason)})
			p := w.boot(0)
			defer p.stop()
			e := reasonOf(t, p.add("new", 10*time.Second))
			synctest.Wait()
			if s := p.Status(); e.Reason != reason || s.Ready || s.Reason != reason {
				t.Errorf("want %s, pod got %v, status %+v", reason, e, s)
			}
			w.cloud.mu.Lock()
			clear(w.cloud.faults)
			w.cloud.mu.Unlock()
			if err := p.add("new", 10*time.Minute); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBackoffIsBounded: an hour of failures causes few calls, and pods are served
// soon after EC2 has recovered.
func TestBackoffIsBounded(t *testing.T) {
	tests := []struct {
		reason   ipam.Reason
		calls    int           // at most, in an hour of failure
		recovery time.Duration // at most
	}{
		{ipam.ReasonThrottled, 250, 30 * time.Second},
		{ipam.ReasonSubnetFull, 80, 2 * time.Minute},
		{ipam.ReasonUnauthorized, 40, 5 * time.Minute},
		{ipam.ReasonEC2Refused, 80, 2 * time.Minute},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.cloud.maxENIs = 1
			w.failAlways("assign", refusal{reason: string(tt.reason)})
			p := w.boot(0)
			defer p.stop()
			time.Sleep(time.Hour)
			w.cloud.mu.Lock()
			n := w.cloud.calls["assign"]
			clear(w.cloud.faults)
			w.cloud.mu.Unlock()
			start := time.Now()
			if err := p.add("a", time.Hour); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); n > tt.calls || took > tt.recovery+time.Second {
				t.Errorf("%s: %d calls in an hour, recovered in %v, want at most %d and %v", tt.reason, n, took, tt.calls, tt.recovery)
			}
		})
	}
}
