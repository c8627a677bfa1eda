// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// slotsFull is EC2's refusal of more addresses.
var slotsFull = &enitest.APIError{Code: "PrivateIpAddressLimitExceeded", Message: "Number of private addresses will exceed limit.", Status: 400}

// refusedSlot returns an ENI with nearly all slots free, for which EC2 has refused
// an Assign of one address once.
func refusedSlot(t *testing.T) (*world, *eni.Manager, eni.ENI, *eni.OpError) {
	t.Helper()
	w := newWorld(t, enitest.Config{})
	m := w.manager(w.run("m5.xlarge"), eni.Config{})
	e := w.provision(m, eni.ProvisionInput{Slots: 2})
	w.AddFault(enitest.Fault{Action: "AssignPrivateIpAddresses", Times: 1, Err: slotsFull})
	_, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1})
	var op *eni.OpError
	if !errors.Is(err, eni.ErrSlotLimit) || !errors.As(err, &op) || op.ENI != e.ID || op.Reason() != "slot-limit" || op.RetryAfter() <= 0 || op.RetryAfter() > 5*time.Minute {
		t.Fatalf("%#v, want a slot limit of %s that ends in minutes", err, e.ID)
	}
	return w, m, e, op
}

// TestSlotRefusalEnds checks that one refusal blocks Assign on the ENI for a minute,
// or until another event shows that the ENI may have free slots.
func TestSlotRefusalEnds(t *testing.T) {
	for name, until := range map[string]func(w *world, m *eni.Manager, e eni.ENI, op *eni.OpError){
		"time": func(_ *world, _ *eni.Manager, _ eni.ENI, op *eni.OpError) { time.Sleep(op.RetryAfter()) },
		"an unassign": func(w *world, m *eni.Manager, e eni.ENI, _ *eni.OpError) {
			w.check(m.Unassign(w.t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: e.Blocks()[:1]}))
		},
		"a Discover that shows another count": func(w *world, m *eni.Manager, e eni.ENI, _ *eni.OpError) {
			w.assignByHand(e.ID)
			_, err := m.Discover(w.t.Context())
			w.check(err)
		},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			w, m, e, op := refusedSlot(t)
			w.ResetCalls()
			_, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1})
			var again *eni.OpError
			if !errors.As(err, &again) || again.Reason() != string(eni.ReasonSlotLimit) || again.ENI != e.ID || again.RetryAfter() <= 0 || len(w.Calls()) > 0 {
				t.Errorf("at once: %#v, calls %v", err, w.Calls())
			}
			until(w, m, e, op)
			if got, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 5}); err != nil || len(got) != 5 {
				t.Errorf("afterwards: %v, %v", got, err)
			}
		}))
	}
}

// TestSlotRefusalOfOneENI checks that a refusal does not affect other ENIs, new ENIs,
// and the other family.
func TestSlotRefusalOfOneENI(t *testing.T) {
	inBubble(func(t *testing.T) {
		w, m, e, _ := refusedSlot(t)
		if got := w.assignTo(m, w.eni(m), 3); len(got) != 3 {
			t.Errorf("the primary ENI got %v", got)
		}
		for range 2 {
			next := w.provision(m, eni.ProvisionInput{Slots: 1})
			if got := w.assignTo(m, next.ID, 2); len(got) != 2 {
				t.Errorf("a new ENI got %v", got)
			}
		}
		if _, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1, Family: eni.IPv6}); err != nil {
			t.Errorf("IPv6 on the same ENI: %v", err)
		}
	})(t)
}

// TestSlotRefusalOfSeveral checks that Assign requests one address after EC2 has
// refused several, if the known count is right.
func TestSlotRefusalOfSeveral(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		e := w.provision(m, eni.ProvisionInput{Slots: 1})
		w.AddFault(enitest.Fault{Action: "AssignPrivateIpAddresses", Times: 1, Err: slotsFull})
		if got := w.assignTo(m, e.ID, 4); len(got) != 1 {
			t.Errorf("assigned %v, want one", got)
		}
		if got := w.assignTo(m, e.ID, 4); len(got) != 4 {
			t.Errorf("afterwards: %v", got)
		}
	})(t)
}

// TestSlotRefusalByUnknownAddresses has an ENI with more addresses than are known.
// Assign must find them, fill the remaining slots at once, and not lower the limit.
func TestSlotRefusalByUnknownAddresses(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		e := w.provision(m, eni.ProvisionInput{Slots: 1})
		for range 6 {
			w.assignByHand(e.ID)
		}
		if got := w.assignTo(m, e.ID, 8); len(got) != 2 {
			t.Errorf("assigned %v, want the 2 free slots", got)
		}
		known, _ := m.Inventory().ENI(e.ID)
		if len(known.Blocks()) != 3 || len(known.Doubtful) != 6 {
			t.Errorf("inventory has %+v, want 6 addresses in doubt", known)
		}
		if _, err := m.Discover(t.Context()); err != nil {
			t.Error(err)
		}
		known, _ = m.Inventory().ENI(e.ID)
		if len(known.Blocks()) != 9 {
			t.Errorf("after a Discover %+v", known)
		}
		w.ResetCalls()
		var op *eni.OpError
		if _, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1}); !errors.As(err, &op) || op.RetryAfter() != 0 || len(w.Calls()) > 0 {
			t.Errorf("full: %#v, calls %v", err, w.Calls())
		}
	})(t)
}

// TestFullByUnknownAddresses has an ENI that is full of unknown addresses. Assign must
// remember that it is full, and use slots as soon as they are free.
func TestFullByUnknownAddresses(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		e := w.provision(m, eni.ProvisionInput{Slots: 1})
		for range 8 {
			w.assignByHand(e.ID)
		}
		for range 2 {
			var op *eni.OpError
			if _, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 3}); !errors.Is(err, eni.ErrSlotLimit) || !errors.As(err, &op) || op.RetryAfter() != 0 {
				t.Errorf("full: %#v", err)
			}
		}
		if got := w.Calls()["AssignPrivateIpAddresses"]; got != 9 {
			t.Errorf("%d assign calls, want 8 by hand and 1", got)
		}
		_, err := m.Discover(t.Context())
		w.check(err)
		known, _ := m.Inventory().ENI(e.ID)
		w.check(m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: known.Blocks()[:2]}))
		if got := w.assignTo(m, e.ID, 3); len(got) != 2 {
			t.Errorf("2 slots are free, got %v", got)
		}
	})(t)
}

// TestSlotRefusalBackoff checks that an ENI that takes no addresses for a day is tried
// less and less often, and is used within 16 minutes when it takes addresses again.
func TestSlotRefusalBackoff(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		e := w.provision(m, eni.ProvisionInput{Slots: 1})
		w.ResetCalls()
		remove := w.AddFault(enitest.Fault{Action: "AssignPrivateIpAddresses", Err: slotsFull})
		try := func() error {
			_, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1})
			return err
		}
		for begin := time.Now(); time.Since(begin) < 24*time.Hour; time.Sleep(10 * time.Second) {
			if err := try(); !errors.Is(err, eni.ErrSlotLimit) {
				t.Fatal(err)
			}
		}
		if got := w.Calls()["AssignPrivateIpAddresses"]; got > 100 {
			t.Errorf("%d calls in a day", got)
		}
		remove()
		begin := time.Now()
		for try() != nil && time.Since(begin) < time.Hour {
			time.Sleep(10 * time.Second)
		}
		if took := time.Since(begin); took > 17*time.Minute {
			t.Errorf("used again after %v", took)
		}
		w.AddFault(enitest.Fault{Action: "AssignPrivateIpAddresses", Times: 1, Err: slotsFull})
		var op *eni.OpError
		if err := try(); !errors.As(err, &op) || op.RetryAfter() > time.Minute {
			t.Errorf("after a success: %#v, want a minute again", err)
		}
	})(t)
}

// TestCardRefusal checks that the refusal of an ENI blocks its card only, for
// minutes.
func TestCardRefusal(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("p4d.24xlarge"), eni.Config{})
		w.AddFault(enitest.Fault{
			Action: "AttachNetworkInterface", Times: 1,
			Err: &enitest.APIError{Code: "AttachmentLimitExceeded", Message: "Interface count exceeds the limit", Status: 400},
		})
		if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1}); !errors.Is(err, eni.ErrENILimit) {
			t.Fatal(err)
		}
		w.ResetCalls()
		_, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1})
		var op *eni.OpError
		if !errors.As(err, &op) || op.Reason() != string(eni.ReasonENILimit) || op.RetryAfter() <= 0 || op.RetryAfter() > 5*time.Minute || len(w.Calls()) > 0 {
			t.Errorf("at once: %#v, calls %v", err, w.Calls())
		}
		other := w.provision(m, eni.ProvisionInput{Card: 1, Slots: 1})
		w.assignTo(m, other.ID, 2)
		w.assignTo(m, w.eni(m), 2)
		time.Sleep(op.RetryAfter())
		w.provision(m, eni.ProvisionInput{Slots: 1})
		w.provision(m, eni.ProvisionInput{Slots: 1})
		w.AddFault(enitest.Fault{Action: "AttachNetworkInterface", Times: 1, Err: &enitest.APIError{Code: "AttachmentLimitExceeded", Status: 400}})
		for range 2 {
			_, err = m.Provision(t.Context(), eni.ProvisionInput{Slots: 1})
		}
		if !errors.As(err, &op) || op.RetryAfter() <= 0 || op.RetryAfter() > 5*time.Minute {
			t.Errorf("after a success: %#v, want minutes again", err)
		}
	})(t)
}

// TestRefusedPlaceIsReused checks that a device index at which EC2 refused an ENI
// without a clear reason is used again once EC2 has had time to show the ENI there.
func TestRefusedPlaceIsReused(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.xlarge"), eni.Config{})
		w.AddFault(enitest.Fault{
			Action: "AttachNetworkInterface", Times: 1,
			Err: &enitest.APIError{Code: "InvalidParameterValue", Message: "Instance already has an interface attached at device index '1'.", Status: 400},
		})
		var devices []int
		for range 3 {
			devices = append(devices, w.provision(m, eni.ProvisionInput{Slots: 1}).Device)
			time.Sleep(90 * time.Second)
		}
		if want := []int{2, 3, 1}; !slices.Equal(devices, want) {
			t.Errorf("attached at %v, want %v", devices, want)
		}
	})(t)
}

// TestFullSubnet checks that the node goes to another subnet at once if one is full,
// and tries the full one again minutes later.
func TestFullSubnet(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		other := w.addSubnet("10.0.2.0/24", "", nil)
		m := w.manager(w.run("m5.xlarge"), eni.Config{Subnets: eni.SubnetsByID{w.subnet.ID, other.ID}})
		_, err := m.Discover(t.Context())
		w.check(err)
		w.AddFault(enitest.Fault{
			Action: "CreateNetworkInterface", Times: 1,
			Err: &enitest.APIError{Code: "InsufficientFreeAddressesInSubnet", Message: "full", Status: 400},
		})
		first := w.provision(m, eni.ProvisionInput{Slots: 1})
		w.assignTo(m, first.ID, 2)
		if first.SubnetID != other.ID {
			t.Errorf("created in %s, want %s", first.SubnetID, other.ID)
		}
		if _, err := m.Assign(t.Context(), eni.AssignInput{ENI: w.eni(m), Slots: 1}); !errors.Is(err, eni.ErrSubnetFull) {
			t.Errorf("in the full subnet: %v", err)
		}
		time.Sleep(2 * time.Minute)
		w.assignTo(m, w.eni(m), 1)
	})(t)
}
