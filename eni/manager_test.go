// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestLife starts a node, adds an ENI with addresses and removes it again. Attaching
// and detaching take seconds.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{Delays: enitest.Delays{Attach: 2 * time.Second, Detach: 3 * time.Second}})
		inst := w.run("m5.large")
		m := w.manager(inst, eni.Config{Cluster: "blue"})
		ctx := t.Context()

		inv, err := m.Discover(ctx)
		w.check(err)
		primary := w.primary(inst)
		if len(inv.ENIs) != 1 || !inv.ENIs[0].Primary || inv.ENIs[0].Addr != primary.Addr || !inv.ENIs[0].ForPods() {
			t.Fatalf("inventory %+v", inv)
		}
		if inv.Instance.ID != inst.ID || inv.Instance.PrimaryENI != primary.ID || inv.Source != eni.SourceEC2|eni.SourceMetadata {
			t.Errorf("instance %+v, source %v", inv.Instance, inv.Source)
		}
		if got := inv.ENIs[0].Gateway(eni.IPv4).String(); got != "10.0.1.1" {
			t.Errorf("gateway %s", got)
		}

		e, err := m.Provision(ctx, eni.ProvisionInput{Slots: 4})
		w.check(err)
		have, _ := w.ENI(e.ID)
		if diff := cmp.Diff(blocks(have), e.Blocks(), cmp.Comparer(equal[netip.Prefix])); diff != "" {
			t.Errorf("slots (-cloud +returned):\n%s", diff)
		}
		if !have.Attachment.DeleteOnTermination || have.Tags[eni.TagCluster] != "blue" || e.MAC != have.MAC || e.Device != 1 || !e.ForPods() {
			t.Errorf("ENI %+v in the cloud, %+v returned", have, e)
		}
		if e.Subnet != w.subnet.Prefix {
			t.Errorf("subnet %v", e.Subnet)
		}

		got, err := m.Assign(ctx, eni.AssignInput{ENI: e.ID, Slots: 100})
		w.check(err)
		if len(got) != 5 {
			t.Errorf("%d addresses, want the 5 free ones of 9", len(got))
		}
		if _, err := m.Assign(ctx, eni.AssignInput{ENI: e.ID, Slots: 1}); !errors.Is(err, eni.ErrSlotLimit) {
			t.Errorf("full ENI: %v", err)
		}
		w.check(m.Unassign(ctx, eni.UnassignInput{ENI: e.ID, Blocks: got[:2]}))
		w.check(m.Unassign(ctx, eni.UnassignInput{ENI: e.ID, Blocks: got[:3]})) // two of them are already unassigned

		before := m.Inventory()
		inv, err = m.Discover(ctx)
		w.check(err)
		if diff := cmp.Diff(slots(before), slots(inv)); diff != "" {
			t.Errorf("inventory before and after a Discover (-before +after):\n%s", diff)
		}
		w.check(m.Retire(ctx, e.ID))
		w.check(m.Retire(ctx, e.ID))
		if _, ok := w.ENI(e.ID); ok {
			t.Error("the ENI still exists")
		}
		if got := m.Inventory(); len(got.ENIs) != 1 {
			t.Errorf("%d ENIs known, want the primary one", len(got.ENIs))
		}
		if err := m.Retire(ctx, primary.ID); !errors.Is(err, eni.ErrNotManaged) {
			t.Errorf("retire the primary ENI: %v", err)
		}
	})
}

func equal[T comparable](a, b T) bool { return a == b }

// slots returns the slots of an inventory as text, by ENI.
func slots(inv eni.Inventory) map[string][]string {
	out := map[string][]string{}
	for _, e := range inv.ENIs {
		for _, b := range e.Blocks() {
			out[e.ID] = append(out[e.ID], b.String())
		}
		for _, b := range e.Doubtful {
			out[e.ID] = append(out[e.ID], "?"+b.String())
		}
	}
	return out
}
