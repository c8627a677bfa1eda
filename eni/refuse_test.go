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

// TestUnassignRefuses: the ENI's own address, what the sources do not agree on,
// and what a pod uses stay, without a call, and all others of the request too.
func TestUnassignRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{Lag: enitest.Lag{Metadata: 9 * time.Minute}})
		inst := w.run("m5.large")
		var used netip.Prefix
		m := w.manager(inst, eni.Config{InUse: says(func(_ string, b netip.Prefix) bool { return b == used })})
		time.Sleep(10 * time.Minute)
		_, err := m.Discover(t.Context())
		w.check(err)
		got := w.assign(m, eni.AssignInput{Slots: 4})
		time.Sleep(20 * time.Minute)
		used = got[0]
		doubted := got[1]
		w.check(w.manager(inst, eni.Config{}).Unassign(t.Context(), eni.UnassignInput{ENI: w.eni(m), Blocks: []netip.Prefix{doubted}}))
		_, err = m.Discover(t.Context())
		w.check(err)
		e, _ := m.Inventory().ENI(w.eni(m))
		if !slices.Contains(e.Doubtful, doubted) {
			t.Fatalf("%v is not in doubt: %+v", doubted, e)
		}
		w.ResetCalls()
		for _, c := range []struct {
			what  string
			block netip.Prefix
			want  error
		}{
			{"own", netip.PrefixFrom(e.Addr, 32), eni.ErrInvalid},
			{"in doubt", doubted, eni.ErrInUse},
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

// TestResumeLeavesWhatIsUsed: of what an earlier process was about to take off,
// the address that a pod has got meanwhile stays.
func TestResumeLeavesWhatIsUsed(t *testing.T) {
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
		m := w.manager(inst, eni.Config{Intents: intents, InUse: says(func(_ string, b netip.Prefix) bool { return b == got[0] })})
		w.check(m.Resume(t.Context()))
		if left := blocks(w.primary(inst)); !slices.Equal(left, []netip.Prefix{got[0], got[2]}) {
			t.Errorf("EC2 has %v, want the used %v and %v", left, got[0], got[2])
		}
	})
}

// TestResumeCallsOffARetirement: an ENI that an earlier process was about to
// detach, and that pods have come to use, stays and is usable again.
func TestResumeCallsOffARetirement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		e := w.provision(w.manager(inst, eni.Config{}), eni.ProvisionInput{Slots: 2})
		intents := eni.NewMemory()
		w.check(intents.Put(t.Context(), eni.Intent{
			ID: "retire-1", Op: eni.OpRetire, Start: time.Now(), Changed: time.Now(), ENI: e.ID, Kind: eni.KindInterface,
			Device: e.Device, Attached: true, Attachment: e.Attachment,
		}))
		m := w.manager(inst, eni.Config{Intents: intents, InUse: says(func(_ string, b netip.Prefix) bool { return b == e.Blocks()[1] })})
		w.check(m.Resume(t.Context()))
		if now, ok := w.ENI(e.ID); !ok || now.Attachment == nil {
			t.Error("the ENI was taken away")
		}
		known, _ := m.Inventory().ENI(e.ID)
		open, err := m.Open(t.Context())
		if err != nil || len(open) > 0 || !known.ForPods() || len(known.Blocks()) != 2 {
			t.Errorf("open %v, %v, the ENI is %+v; want nothing open and the ENI usable", open, err, known)
		}
	})
}

// TestRetireRefuses: an ENI whose tags name another instance, or that is attached
// to another one, is not ours to delete.
func TestRetireRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst, other := w.run("m5.large"), w.run("m5.large")
		m, theirs := w.manager(inst, eni.Config{}), w.manager(other, eni.Config{})
		tagged := w.provision(m, eni.ProvisionInput{Slots: 1})
		w.check(w.AddTags(tagged.ID, map[string]string{eni.TagInstance: other.ID}))
		attached := w.provision(theirs, eni.ProvisionInput{Slots: 1})
		w.check(w.AddTags(attached.ID, map[string]string{eni.TagInstance: inst.ID}))
		for what, id := range map[string]string{"tagged for another": tagged.ID, "attached to another": attached.ID} {
			if err := m.Retire(t.Context(), id); !errors.Is(err, eni.ErrNotManaged) {
				t.Errorf("%s: %v, want ErrNotManaged", what, err)
			}
			if e, ok := w.ENI(id); !ok || e.Attachment == nil {
				t.Errorf("%s: it is gone", what)
			}
		}
	})
}
