// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

const year = 365 * 24 * time.Hour

// steps are the changes of the wall clock between two processes.
var steps = []time.Duration{-10 * year, -time.Hour, -time.Second, 0, time.Second, time.Hour, 10 * year}

// stepped returns a copy of a journal as a process reads it after the wall clock was
// set back by d: all times are later by d.
func stepped(t *testing.T, from eni.Intents, d time.Duration) *eni.Memory {
	t.Helper()
	all, err := from.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := eni.NewMemory()
	for _, in := range all {
		in.Start, in.Changed = in.Start.UTC().Add(d), in.Changed.UTC().Add(d)
		if !in.NotBefore.IsZero() {
			in.NotBefore = in.NotBefore.UTC().Add(d)
		}
		if err := out.Put(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestClockSteps sets the clock by up to ten years between two processes, right
// after each kind of change, while EC2 and the metadata service still show the
// state before. The inventory must not show a released address as usable, and must
// not lose an assigned one. Five minutes later it must be the same as without the
// step.
func TestClockSteps(t *testing.T) {
	for _, step := range steps {
		t.Run(step.String(), inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			inst := w.run("m5.xlarge")
			intents := eni.NewMemory()
			m := w.manager(inst, eni.Config{Intents: intents})
			kept, gone := w.provision(m, eni.ProvisionInput{Slots: 4}), w.provision(m, eni.ProvisionInput{Slots: 2})
			time.Sleep(10 * time.Minute)
			_, err := m.Discover(t.Context())
			w.check(err)
			w.SetLag(enitest.Lag{Describe: 90 * time.Second, Metadata: 90 * time.Second})
			released := kept.Blocks()[:2]
			w.check(m.Unassign(t.Context(), eni.UnassignInput{ENI: kept.ID, Blocks: released}))
			time.Sleep(time.Second)
			assigned := w.assignTo(m, kept.ID, 2)
			w.check(m.Retire(t.Context(), gone.ID))
			made := w.provision(m, eni.ProvisionInput{Slots: 3})

			journal := stepped(t, intents, step)
			m = w.manager(inst, eni.Config{Intents: journal})
			w.check(m.Resume(t.Context()))
			for range 11 {
				inv, err := m.Discover(t.Context())
				w.check(err)
				e, _ := inv.ENI(kept.ID)
				for _, b := range e.Blocks() {
					if slices.Contains(released, b) && !slices.Contains(assigned, b) {
						t.Errorf("%v is shown as usable, but was released", b)
					}
				}
				known := slices.Concat(e.Blocks(), e.Doubtful)
				for _, b := range assigned {
					if !slices.Contains(known, b) {
						t.Errorf("%v is lost", b)
					}
				}
				if e, _ := inv.ENI(gone.ID); e.ForPods() {
					t.Errorf("the retired ENI is usable: %+v", e)
				}
				if _, ok := inv.ENI(made.ID); !ok {
					t.Error("the new ENI is lost")
				}
				time.Sleep(10 * time.Second)
			}
			w.checkFinal(m, journal)
		}))
	}
}

// assignTo assigns n addresses to an ENI.
func (w *world) assignTo(m *eni.Manager, id string, n int) []netip.Prefix {
	w.t.Helper()
	got, err := m.Assign(w.t.Context(), eni.AssignInput{ENI: id, Slots: n})
	w.check(err)
	return got
}

func sameBlocks(a, b []netip.Prefix) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Prefix.Compare)
	slices.SortFunc(b, netip.Prefix.Compare)
	return slices.Equal(a, b)
}

// checkFinal waits for five minutes and checks that the inventory equals the cloud,
// and that the journal is empty.
func (w *world) checkFinal(m *eni.Manager, journal eni.Intents) {
	w.t.Helper()
	time.Sleep(5 * time.Minute)
	inv, err := m.Discover(w.t.Context())
	w.check(err)
	for _, e := range inv.ENIs {
		have, _ := w.ENI(e.ID)
		if !e.ForPods() || !sameBlocks(e.Blocks(), blocks(have)) || len(e.Doubtful) > 0 {
			w.t.Errorf("later: inventory has %+v, the cloud %v", e, blocks(have))
		}
	}
	if n := len(w.ENIs()); n != len(inv.ENIs) {
		w.t.Errorf("later: %d ENIs in the cloud, %d known", n, len(inv.ENIs))
	}
	if left, err := operations(w.t, journal); err != nil || len(left) > 0 {
		w.t.Errorf("left in the journal: %+v, %v", left, err)
	}
}

// TestClockStepsDuringOperations sets the clock while operations are unfinished. Each
// must finish within minutes without leaking an ENI.
func TestClockStepsDuringOperations(t *testing.T) {
	for _, step := range steps {
		for _, fault := range []enitest.Fault{
			{Action: "CreateNetworkInterface", Drop: true},
			{Action: "AttachNetworkInterface", Drop: true},
			{Action: "AttachNetworkInterface", Err: &enitest.APIError{Code: "RequestLimitExceeded", Status: 503}},
			{Action: "AssignPrivateIpAddresses", Drop: true},
			{Action: "UnassignPrivateIpAddresses", Drop: true},
			{Action: "DetachNetworkInterface", Drop: true},
			{Action: "DeleteNetworkInterface", Drop: true},
		} {
			action := fault.Action
			t.Run(fmt.Sprintf("%s/%v/%v", action, fault.Drop, step), inBubble(func(t *testing.T) {
				w := newWorld(t, enitest.Config{Lag: enitest.Lag{Describe: 90 * time.Second, Metadata: 90 * time.Second}})
				inst := w.run("m5.large")
				time.Sleep(5 * time.Minute)
				intents := eni.NewMemory()
				m := w.manager(inst, eni.Config{Intents: intents})
				e := w.provision(m, eni.ProvisionInput{Slots: 3})
				time.Sleep(5 * time.Minute)
				_, err := m.Discover(t.Context())
				w.check(err)
				remove := w.AddFault(fault)
				switch {
				case strings.HasPrefix(action, "Assign"):
					_, err = m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1})
				case strings.HasPrefix(action, "Unassign"):
					err = m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: e.Blocks()[:1]})
				case strings.HasPrefix(action, "De"):
					err = m.Retire(t.Context(), e.ID)
				default:
					_, err = m.Provision(t.Context(), eni.ProvisionInput{Slots: 1})
				}
				t.Logf("interrupted: %v", err)
				remove()
				journal := stepped(t, intents, step)
				m = w.manager(inst, eni.Config{Intents: journal})
				for range 6 {
					if err := m.Resume(t.Context()); err != nil {
						t.Logf("resume: %v", err)
					}
					_, err := m.Discover(t.Context())
					w.check(err)
					time.Sleep(time.Minute)
				}
				w.checkFinal(m, journal)
			}))
		}
	}
}

// TestClockStepsDuringCooldown checks that the cooldown of a branch ENI does not take
// longer after the clock was set.
func TestClockStepsDuringCooldown(t *testing.T) {
	for _, step := range steps {
		t.Run(step.String(), inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			inst := w.run("m5.large")
			intents := eni.NewMemory()
			m := w.manager(inst, eni.Config{Intents: intents})
			trunk := w.provision(m, eni.ProvisionInput{Kind: eni.KindTrunk})
			_, b, err := m.CreateBranch(t.Context(), eni.BranchInput{Trunk: trunk.ID})
			w.check(err)
			w.check(m.RetireBranch(t.Context(), b))
			m = w.manager(inst, eni.Config{Intents: stepped(t, intents, step)})
			_, err = m.Unfinished(t.Context())
			w.check(err)
			time.Sleep(61 * time.Second)
			w.check(m.Resume(t.Context()))
			if _, ok := w.ENI(b.ENI); ok {
				t.Error("the branch still exists after its cooldown")
			}
		}))
	}
}

// TestTimesAreMonotonic checks that every time from which the Manager computes ages has
// a monotonic reading. Only the text of a time shows that.
func TestTimesAreMonotonic(t *testing.T) {
	w := newWorld(t, enitest.Config{})
	intents := eni.NewMemory()
	m := w.manager(w.run("m5.xlarge"), eni.Config{Intents: intents})
	e := w.provision(m, eni.ProvisionInput{Slots: 2})
	w.check(m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: w.assignTo(m, e.ID, 1)}))
	w.check(m.Retire(t.Context(), e.ID))
	trunk := w.provision(m, eni.ProvisionInput{Kind: eni.KindTrunk})
	_, b, err := m.CreateBranch(t.Context(), eni.BranchInput{Trunk: trunk.ID})
	w.check(err)
	w.check(m.RetireBranch(t.Context(), b))
	inv := m.Inventory()
	times := map[string]time.Time{"At": inv.At, "EC2At": inv.EC2At, "MetadataAt": inv.MetadataAt}
	all, err := intents.All(t.Context())
	w.check(err)
	for _, in := range all {
		times[in.ID+" Start"], times[in.ID+" Changed"] = in.Start, in.Changed
		if !in.NotBefore.IsZero() {
			times[in.ID+" NotBefore"] = in.NotBefore
		}
	}
	for name, at := range times {
		if !strings.Contains(at.String(), " m=") {
			t.Errorf("%s is %v, without a monotonic reading", name, at)
		}
	}
}
