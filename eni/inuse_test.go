// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestUnassignRefuses checks that Unassign makes no call if one block of the request
// is the ENI's own address, is in doubt, or is in use.
func TestUnassignRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{Lag: enitest.Lag{Metadata: 9 * time.Minute}})
		inst := w.run("m5.large")
		var used netip.Prefix
		m := w.manager(inst, eni.Config{InUse: inUse(func(_ string, b netip.Prefix) bool { return b == used })})
		time.Sleep(10 * time.Minute)
		_, err := m.Discover(t.Context())
		w.check(err)
		got := w.assign(m, eni.AssignInput{Slots: 4})
		time.Sleep(20 * time.Minute)
		used = got[0]
		doubtful := got[1]
		w.check(w.manager(inst, eni.Config{}).Unassign(t.Context(), eni.UnassignInput{ENI: w.eni(m), Blocks: []netip.Prefix{doubtful}}))
		_, err = m.Discover(t.Context())
		w.check(err)
		e, _ := m.Inventory().ENI(w.eni(m))
		if !slices.Contains(e.Doubtful, doubtful) {
			t.Fatalf("%v is not in doubt: %+v", doubtful, e)
		}
		w.ResetCalls()
		for _, c := range []struct {
			what  string
			block netip.Prefix
			want  error
		}{
			{"own", netip.PrefixFrom(e.Addr, 32), eni.ErrInvalid},
			{"in doubt", doubtful, eni.ErrInUse},
			{"in use", used, eni.ErrInUse},
		} {
			err := m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: []netip.Prefix{got[2], c.block}})
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.what, err, c.want)
			}
		}
		if calls := w.Calls(); len(calls) > 0 {
			t.Errorf("calls %v", calls)
		}
	})
}

// TestResumeKeepsUsedBlocks checks that Resume does not unassign an address that a pod
// has got since an earlier process began to unassign it.
func TestResumeKeepsUsedBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		first := w.manager(inst, eni.Config{})
		_, err := first.Discover(t.Context())
		w.check(err)
		got := w.assign(first, eni.AssignInput{Slots: 3})
		intents := eni.NewMemory()
		w.check(intents.Put(t.Context(), eni.Intent{
			ID: "unassign-1", Op: eni.OpUnassign, Start: time.Now(), Changed: time.Now(), ENI: w.eni(first), Blocks: got[:2],
		}))
		m := w.manager(inst, eni.Config{Intents: intents, InUse: inUse(func(_ string, b netip.Prefix) bool { return b == got[0] })})
		w.check(m.Resume(t.Context()))
		if left := blocks(w.primary(inst)); !slices.Equal(left, []netip.Prefix{got[0], got[2]}) {
			t.Errorf("EC2 has %v, want the used %v and %v", left, got[0], got[2])
		}
	})
}

// TestResumeCancelsRetirement checks that an ENI that an earlier process began to
// retire, and that pods use by now, stays attached and is usable again.
func TestResumeCancelsRetirement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		e := w.provision(w.manager(inst, eni.Config{}), eni.ProvisionInput{Slots: 2})
		intents := eni.NewMemory()
		w.check(intents.Put(t.Context(), eni.Intent{
			ID: "retire-1", Op: eni.OpRetire, Start: time.Now(), Changed: time.Now(), ENI: e.ID, Kind: eni.KindInterface,
			Device: e.Device, Attached: true, Attachment: e.Attachment,
		}))
		m := w.manager(inst, eni.Config{Intents: intents, InUse: inUse(func(_ string, b netip.Prefix) bool { return b == e.Blocks()[1] })})
		w.check(m.Resume(t.Context()))
		if now, ok := w.ENI(e.ID); !ok || now.Attachment == nil {
			t.Error("the ENI is detached or deleted")
		}
		known, _ := m.Inventory().ENI(e.ID)
		open, err := m.Unfinished(t.Context())
		if err != nil || len(open) > 0 || !known.ForPods() || len(known.Blocks()) != 2 {
			t.Errorf("unfinished %v, %v, the ENI is %+v; want none unfinished and the ENI usable", open, err, known)
		}
	})
}

// TestRetireRefuses checks that Retire refuses an ENI that is tagged for another
// instance, or that is attached to another one.
func TestRetireRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst, other := w.run("m5.large"), w.run("m5.large")
		m, otherManager := w.manager(inst, eni.Config{}), w.manager(other, eni.Config{})
		tagged := w.provision(m, eni.ProvisionInput{Slots: 1})
		w.check(w.AddTags(tagged.ID, map[string]string{eni.TagInstance: other.ID}))
		attached := w.provision(otherManager, eni.ProvisionInput{Slots: 1})
		w.check(w.AddTags(attached.ID, map[string]string{eni.TagInstance: inst.ID}))
		for what, id := range map[string]string{"tagged for another": tagged.ID, "attached to another": attached.ID} {
			if err := m.Retire(t.Context(), id); !errors.Is(err, eni.ErrNotManaged) {
				t.Errorf("%s: %v, want ErrNotManaged", what, err)
			}
			if e, ok := w.ENI(id); !ok || e.Attachment == nil {
				t.Errorf("%s: the ENI is detached or deleted", what)
			}
		}
	})
}
