// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestOnCall checks that OnCall gets every try with its caller, also the failed ones.
func TestOnCall(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		cfg := fast
		var calls []eni.Call
		cfg.OnCall = func(c eni.Call) { calls = append(calls, c) }
		client := eni.NewClient(w.config(inst.ID, nil), cfg)
		m := w.manager(inst, eni.Config{Client: client})
		throttle := enitest.Fault{Action: "AssignPrivateIpAddresses", Times: 2, Err: &enitest.APIError{Code: "RequestLimitExceeded", Status: 503}}
		w.AddFault(throttle)
		w.AddFault(enitest.Fault{Action: "DescribeNetworkInterfaces", Times: 1, Hang: true})

		_, err := m.Discover(eni.WithCaller(t.Context(), "start"))
		w.check(err)
		ctx := eni.WithPriority(eni.WithCaller(t.Context(), "add"), eni.PriorityPod)
		_, err = m.Assign(ctx, eni.AssignInput{ENI: w.eni(m), Slots: 1})
		w.check(err)
		describe := eni.Call{Action: "DescribeNetworkInterfaces", Caller: "start", Priority: eni.PriorityRefill}
		assign := eni.Call{Action: "AssignPrivateIpAddresses", Caller: "add", Priority: eni.PriorityPod}
		code := func(c eni.Call, code string) eni.Call { c.Code = code; return c }
		want := []eni.Call{
			code(describe, "error"), describe, code(assign, "RequestLimitExceeded"), code(assign, "RequestLimitExceeded"), assign,
		}
		if diff := cmp.Diff(want, calls, cmpopts.IgnoreFields(eni.Call{}, "Waited", "Took")); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		if len(calls) > 0 && calls[0].Took != 10*time.Second {
			t.Errorf("the first call took %v, want the timeout of 10s", calls[0].Took)
		}
	})(t)
}

// TestGivesUp checks that a call ends after ClientConfig.Attempts tries.
func TestGivesUp(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		cfg := fast
		cfg.Attempts = 3
		m := w.manager(inst, eni.Config{Client: eni.NewClient(w.config(inst.ID, nil), cfg)})
		_, err := m.Discover(t.Context())
		w.check(err)
		w.AddFault(enitest.Fault{Action: "AssignPrivateIpAddresses", Err: &enitest.APIError{Code: "RequestLimitExceeded", Status: 503}})
		_, err = m.Assign(t.Context(), eni.AssignInput{ENI: w.eni(m), Slots: 1})
		var op *eni.OpError
		if !errors.Is(err, eni.ErrThrottled) || !errors.As(err, &op) || op.RetryAfter() == 0 || op.Code != "RequestLimitExceeded" {
			t.Errorf("%v, want ErrThrottled with EC2's code and RetryAfter", err)
		}
		if got := w.Calls()["AssignPrivateIpAddresses"]; got != 3 {
			t.Errorf("%d tries, want 3", got)
		}
		if open, err := m.Unfinished(t.Context()); err != nil || len(open) != 0 {
			t.Errorf("left in the journal: %+v, %v", open, err)
		}
	})(t)
}

// TestCoalesce retires ENIs concurrently and checks that one describe call covers
// all of them.
func TestCoalesce(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.xlarge")
		cfg := fast
		cfg.Coalesce = 20 * time.Millisecond
		m := w.manager(inst, eni.Config{Client: eni.NewClient(w.config(inst.ID, nil), cfg)})
		for range 3 {
			w.provision(m, eni.ProvisionInput{Slots: 1})
		}
		w.ResetCalls()
		var all sync.WaitGroup
		for _, e := range m.Inventory().ENIs[1:] {
			all.Go(func() {
				if err := m.Retire(t.Context(), e.ID); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		want := map[string]int{"DescribeNetworkInterfaces": 1, "DetachNetworkInterface": 3, "DeleteNetworkInterface": 3}
		if diff := cmp.Diff(want, w.Calls()); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})(t)
}

// TestErrors checks that an error with a code of EC2 matches the right sentinel and
// no other one.
func TestErrors(t *testing.T) {
	for code, want := range map[string]error{
		"RequestLimitExceeded":               eni.ErrThrottled,
		"UnauthorizedOperation":              eni.ErrUnauthorized,
		"InsufficientFreeAddressesInSubnet":  eni.ErrSubnetFull,
		"InsufficientCidrBlocks":             eni.ErrNoFreePrefix,
		"PrivateIpAddressLimitExceeded":      eni.ErrSlotLimit,
		"InvalidNetworkInterfaceID.NotFound": eni.ErrNotFound,
		"InvalidParameterValue":              eni.ErrInvalid,
	} {
		t.Run(code, inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			m := w.manager(w.run("m5.large"), eni.Config{})
			_, err := m.Discover(t.Context())
			w.check(err)
			w.AddFault(enitest.Fault{Action: "AssignPrivateIpAddresses", Err: &enitest.APIError{Code: code, Message: "because", Status: 400}})
			_, err = m.Assign(t.Context(), eni.AssignInput{ENI: w.eni(m), Slots: 1})
			var op *eni.OpError
			if !errors.Is(err, want) || !errors.As(err, &op) || op.Code != code || op.Op != "AssignPrivateIpAddresses" {
				t.Errorf("%v, want %v with the code %s", err, want, code)
			}
			for _, other := range []error{eni.ErrENILimit, eni.ErrNoMetadata} {
				if errors.Is(err, other) {
					t.Errorf("%v matches %v too", err, other)
				}
			}
		}))
	}
}

// TestThrottlingSlowsDown checks that the rate of calls halves each time EC2
// throttles, down to a sixteenth, and rises by a tenth of its base with each answer.
func TestThrottlingSlowsDown(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		var waited []time.Duration
		c := eni.NewClient(w.config(w.run("m5.large").ID, nil), eni.ClientConfig{
			ReadRate: 1, ReadBurst: 1, Attempts: 1, OnCall: func(c eni.Call) { waited = append(waited, c.Waited.Round(10*time.Millisecond)) },
		})
		w.AddFault(enitest.Fault{Action: "DescribeNetworkInterfaces", Times: 6, Err: &enitest.APIError{Code: "RequestLimitExceeded"}})
		for i := range 9 {
			if _, err := eni.Sweep(t.Context(), c, eni.SweepInput{VPCID: w.vpc.ID}); (i < 6) != errors.Is(err, eni.ErrThrottled) {
				t.Fatalf("call %d: %v", i+1, err)
			}
		}
		s := time.Second
		want := []time.Duration{0, 2 * s, 4 * s, 8 * s, 16 * s, 16 * s, 16 * s, 6150 * time.Millisecond, 3810 * time.Millisecond}
		if !slices.Equal(waited, want) {
			t.Errorf("calls waited %v, want %v", waited, want)
		}
	})(t)
}
