// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// writes counts the calls of the cloud that create, attach and delete ENIs.
type writes struct{ create, attach, delete int }

func (w *world) writes() writes {
	n := w.Calls()
	return writes{n["CreateNetworkInterface"], n["AttachNetworkInterface"], n["DeleteNetworkInterface"]}
}

// unknownNode returns a Manager on an instance of a type that neither the table nor EC2
// tells the limits of.
func unknownNode(t *testing.T, kind enitest.InstanceType) (*world, *eni.Manager) {
	t.Helper()
	kind.Name = "zz1.nano"
	w := newWorld(t, enitest.Config{Types: []enitest.InstanceType{kind}})
	w.Deny("", "DescribeInstanceTypes")
	m := w.manager(w.run(kind.Name), eni.Config{})
	_, err := m.Discover(t.Context())
	w.check(err)
	return w, m
}

// TestUnknownSmallType checks how many calls ENIs cost on types that take less than the
// safe limits, at first and later.
func TestUnknownSmallType(t *testing.T) {
	for name, c := range map[string]struct {
		kind   enitest.InstanceType
		in     eni.ProvisionInput
		slots  int    // of each new ENI
		slots6 int    // of each new ENI
		first  writes // calls of the first Provision
	}{
		"as much as the safe limits": {
			enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 4, IPv6PerENI: 4, Hypervisor: "nitro"}, eni.ProvisionInput{Slots: 3},
			3, 0, writes{1, 1, 0},
		},
		"1 slot": {
			enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 2, IPv6PerENI: 2, Hypervisor: "nitro"}, eni.ProvisionInput{Slots: 3},
			1, 0, writes{2, 2, 1},
		},
		"1 slot with a prefix": {
			enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 2, IPv6PerENI: 2, Hypervisor: "nitro"}, eni.ProvisionInput{Slots: 3, Prefixes: true},
			1, 0, writes{2, 2, 1},
		},
		"no slot": {
			enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 1, IPv6PerENI: 1, Hypervisor: "nitro"}, eni.ProvisionInput{Slots: 3},
			0, 0, writes{3, 3, 2},
		},
		"no IPv6": {
			enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 4, Hypervisor: "nitro"}, eni.ProvisionInput{Slots: 3, Slots6: 1},
			3, 0, writes{2, 2, 1},
		},
		"no prefixes": {
			enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 4, IPv6PerENI: 4, Hypervisor: "xen"}, eni.ProvisionInput{Slots: 3, Slots6: 1, Prefixes: true},
			3, 0, writes{2, 2, 1},
		},
		"no prefixes and 1 slot": {
			enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 2, IPv6PerENI: 2, Hypervisor: "xen"}, eni.ProvisionInput{Slots: 3, Prefixes: true},
			1, 0, writes{3, 3, 2},
		},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			w, m := unknownNode(t, c.kind)
			e := w.provision(m, c.in)
			if e.Slots(eni.IPv4) != c.slots || e.Slots(eni.IPv6) != c.slots6 {
				t.Errorf("ENI with %d and %d slots, want %d and %d", e.Slots(eni.IPv4), e.Slots(eni.IPv6), c.slots, c.slots6)
			}
			if got := w.writes(); got != c.first {
				t.Errorf("first ENI: calls %+v, want %+v", got, c.first)
			}
			w.check(m.Retire(t.Context(), e.ID))
			for range 5 { // also long after, while EC2 still does not tell the limits
				time.Sleep(time.Hour)
				w.ResetCalls()
				e = w.provision(m, c.in)
				if got, want := w.writes(), (writes{1, 1, 0}); got != want || e.Slots(eni.IPv4) != c.slots {
					t.Errorf("later ENI with %d slots: calls %+v, want %d slots and %+v", e.Slots(eni.IPv4), got, c.slots, want)
				}
				w.check(m.Retire(t.Context(), e.ID))
			}
			if n := len(w.ENIs()); n != 1 {
				t.Errorf("%d ENIs at the end, want the primary one", n)
			}
		}))
	}
}

// TestUnknownTypeAssign checks that an assign call finds the slots that an ENI takes
// beyond those it was created with, and that a refusal of it counts for new ENIs.
func TestUnknownTypeAssign(t *testing.T) {
	inBubble(func(t *testing.T) {
		w, m := unknownNode(t, enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 3, IPv6PerENI: 3, Hypervisor: "nitro"})
		e := w.provision(m, eni.ProvisionInput{Slots: 3})
		if got := w.assignTo(m, e.ID, 1); e.Slots(eni.IPv4) != 1 || len(got) != 1 {
			t.Errorf("ENI with %d slots, and %v assigned, want 1 and 1", e.Slots(eni.IPv4), got)
		}
	})(t)
	inBubble(func(t *testing.T) {
		w, m := unknownNode(t, enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 2, IPv6PerENI: 2, Hypervisor: "nitro"})
		w.assignTo(m, w.eni(m), 1)
		if _, err := m.Assign(t.Context(), eni.AssignInput{ENI: w.eni(m), Slots: 1}); !errors.Is(err, eni.ErrSlotLimit) {
			t.Fatalf("%v, want ErrSlotLimit", err)
		}
		w.provision(m, eni.ProvisionInput{Slots: 3})
		if got, want := w.writes(), (writes{1, 1, 0}); got != want {
			t.Errorf("calls %+v, want %+v", got, want)
		}
	})(t)
	inBubble(func(t *testing.T) {
		w, m := unknownNode(t, enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 4, IPv6PerENI: 4, Hypervisor: "xen"})
		_, err := m.Assign(t.Context(), eni.AssignInput{ENI: w.eni(m), Slots: 1, Prefixes: true})
		var op *eni.OpError
		if !errors.As(err, &op) || op.Code != "UnsupportedOperation" {
			t.Fatalf("%v, want UnsupportedOperation", err)
		}
		if l, err := m.Limits(t.Context()); err != nil || l.Nitro {
			t.Errorf("limits %+v, %v, want no prefixes", l, err)
		}
		if got := w.assign(m, eni.AssignInput{ENI: w.eni(m), Slots: 2, Prefixes: true}); len(got) != 2 || !got[0].IsSingleIP() {
			t.Errorf("assigned %v, want 2 single addresses", got)
		}
	})(t)
}

// TestLearnedUntilEC2 checks that what refusals have shown ends when EC2 states the
// limits.
func TestLearnedUntilEC2(t *testing.T) {
	inBubble(func(t *testing.T) {
		w, m := unknownNode(t, enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 4, IPv6PerENI: 4, Hypervisor: "nitro"})
		w.AddFault(enitest.Fault{Action: "AttachNetworkInterface", Times: 1, Err: slotsFull})
		if e := w.provision(m, eni.ProvisionInput{Slots: 3}); e.Slots(eni.IPv4) != 1 {
			t.Errorf("ENI with %d slots after a refusal, want 1", e.Slots(eni.IPv4))
		}
		w.Allow("", "DescribeInstanceTypes")
		time.Sleep(11 * time.Minute)
		if e := w.provision(m, eni.ProvisionInput{Slots: 3}); e.Slots(eni.IPv4) != 3 {
			t.Errorf("ENI with %d slots by EC2's limits, want 3", e.Slots(eni.IPv4))
		}
	})(t)
}

// TestRefusedAttachOfKnownType checks that a refusal of slots counts for minutes on a
// type with known limits.
func TestRefusedAttachOfKnownType(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.xlarge"), eni.Config{})
		w.AddFault(enitest.Fault{Action: "AttachNetworkInterface", Times: 1, Err: slotsFull})
		for i, want := range []int{7, 7, 14} {
			if i == 2 {
				time.Sleep(5 * time.Minute)
			}
			if e := w.provision(m, eni.ProvisionInput{Slots: 14}); e.Slots(eni.IPv4) != want {
				t.Errorf("ENI %d with %d slots, want %d", i, e.Slots(eni.IPv4), want)
			}
		}
	})(t)
}

// TestAttachAlwaysRefused checks that EC2 can refuse every ENI without a loop of calls:
// after three ENIs, none is created for minutes.
func TestAttachAlwaysRefused(t *testing.T) {
	for name, kind := range map[string]string{"unknown type": "zz1.nano", "known type": "m5.xlarge"} {
		t.Run(name, inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{Types: []enitest.InstanceType{
				{Name: "zz1.nano", ENIs: []int{2}, IPv4PerENI: 4, IPv6PerENI: 4, Hypervisor: "nitro"},
			}})
			w.Deny("", "DescribeInstanceTypes")
			m := w.manager(w.run(kind), eni.Config{})
			w.AddFault(enitest.Fault{Action: "AttachNetworkInterface", Err: slotsFull})
			if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 3}); !errors.Is(err, eni.ErrSlotLimit) {
				t.Errorf("first: %v, want ErrSlotLimit", err)
			}
			for range 4 {
				_, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 3})
				var op *eni.OpError
				if !errors.As(err, &op) || !errors.Is(err, eni.ErrENILimit) || op.RetryAfter() <= 0 {
					t.Errorf("again: %v, want ErrENILimit with a time", err)
				}
			}
			if got, want := w.writes(), (writes{3, 3, 3}); got != want {
				t.Errorf("calls %+v, want %+v", got, want)
			}
			w.ResetCalls()
			for range 24 * 60 {
				time.Sleep(time.Minute)
				_, _ = m.Provision(t.Context(), eni.ProvisionInput{Slots: 3})
			}
			if got := w.writes(); got.create > 60 || got.create != got.delete || len(w.ENIs()) != 1 {
				t.Errorf("calls in a day %+v, %d ENIs, want at most 60 creates and the primary ENI", got, len(w.ENIs()))
			}
		}))
	}
}

// TestRefusedAttachOfJournal checks that a refused attach of an unfinished operation, as
// after a crash, counts for the next ENI.
func TestRefusedAttachOfJournal(t *testing.T) {
	inBubble(func(t *testing.T) {
		w, m := unknownNode(t, enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 2, IPv6PerENI: 2, Hypervisor: "nitro"})
		throttle := w.AddFault(enitest.Fault{Action: "AttachNetworkInterface", Err: &enitest.APIError{Code: "RequestLimitExceeded", Status: 503}})
		if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 3}); !errors.Is(err, eni.ErrThrottled) {
			t.Fatalf("%v, want ErrThrottled", err)
		}
		throttle()
		time.Sleep(time.Minute)
		if err := m.Resume(t.Context()); !errors.Is(err, eni.ErrSlotLimit) {
			t.Errorf("resume: %v, want ErrSlotLimit", err)
		}
		w.ResetCalls()
		w.provision(m, eni.ProvisionInput{Slots: 3})
		if got, want := w.writes(), (writes{1, 1, 0}); got != want {
			t.Errorf("calls %+v, want %+v", got, want)
		}
	})(t)
}

// TestProvisionAfterCrash has a Provision finish the ENI of an earlier process, which
// EC2 refuses to attach with its slots, or in its full subnet. The same Provision must
// create another ENI.
func TestProvisionAfterCrash(t *testing.T) {
	for name, c := range map[string]struct {
		kind    enitest.InstanceType
		refused *enitest.APIError
		in      eni.ProvisionInput
		slots   int
	}{
		"fewer slots":    {enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 2, IPv6PerENI: 2, Hypervisor: "nitro"}, nil, eni.ProvisionInput{Slots: 3}, 1},
		"fewer than now": {enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 2, IPv6PerENI: 2, Hypervisor: "nitro"}, nil, eni.ProvisionInput{Slots: 1}, 1},
		"no prefixes":    {enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 4, IPv6PerENI: 4, Hypervisor: "xen"}, nil, eni.ProvisionInput{Slots: 3, Prefixes: true}, 3},
		"full subnet":    {enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 4, IPv6PerENI: 4, Hypervisor: "nitro"}, subnetFull, eni.ProvisionInput{Slots: 3}, 3},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			w, _ := unknownNode(t, c.kind)
			other := w.addSubnet("10.0.2.0/24", "", nil)
			cfg := eni.Config{Intents: eni.NewMemory(), Subnets: eni.SubnetsByID{w.subnet.ID, other.ID}}
			inst := w.Instances()[0]
			throttle := w.AddFault(enitest.Fault{Action: "AttachNetworkInterface", Err: &enitest.APIError{Code: "RequestLimitExceeded", Status: 503}})
			first := eni.ProvisionInput{Slots: 3, Prefixes: c.in.Prefixes}
			if _, err := w.manager(inst, cfg).Provision(t.Context(), first); !errors.Is(err, eni.ErrThrottled) {
				t.Fatalf("%v, want ErrThrottled", err)
			}
			throttle()
			w.AddFault(enitest.Fault{Action: "AttachNetworkInterface", Times: 1, Err: c.refused})
			time.Sleep(time.Minute)
			e := w.provision(w.manager(inst, cfg), c.in)
			if e.Slots(eni.IPv4) != c.slots || len(w.ENIs()) != 2 {
				t.Errorf("ENI with %d slots, %d ENIs in all, want %d and 2", e.Slots(eni.IPv4), len(w.ENIs()), c.slots)
			}
			if c.refused == subnetFull && e.SubnetID != other.ID {
				t.Errorf("created in %s, want %s", e.SubnetID, other.ID)
			}
		}))
	}
}

// TestLearnedAfterRestart checks that a new process does not create an ENI in vain to
// learn the limits again, unless the instance has another type by then, and that the
// journal forgets them when EC2 states the limits.
func TestLearnedAfterRestart(t *testing.T) {
	small := enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 2, IPv6PerENI: 2, Hypervisor: "nitro"}
	noPrefixes := enitest.InstanceType{ENIs: []int{3}, IPv4PerENI: 4, IPv6PerENI: 4, Hypervisor: "xen"}
	for name, c := range map[string]struct {
		kind   enitest.InstanceType
		change func(in *eni.Intent) // of the record
		want   writes
	}{
		"fewer slots":         {small, nil, writes{1, 1, 0}},
		"no prefixes":         {noPrefixes, nil, writes{1, 1, 0}},
		"of another type":     {small, func(in *eni.Intent) { in.Learned.Type = "zz2.nano" }, writes{2, 2, 1}},
		"of another version":  {small, func(in *eni.Intent) { in.Learned.Version++ }, writes{2, 2, 1}},
		"record without data": {small, func(in *eni.Intent) { in.Learned = nil }, writes{2, 2, 1}},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			w, _ := unknownNode(t, c.kind)
			inst := w.Instances()[0]
			intents := eni.NewMemory()
			m := w.manager(inst, eni.Config{Intents: intents})
			in := eni.ProvisionInput{Slots: 3, Prefixes: c.kind.Hypervisor == "xen"}
			w.check(m.Retire(t.Context(), w.provision(m, in).ID))
			time.Sleep(time.Hour)
			_, err := m.Discover(t.Context())
			w.check(err)
			record := findIntent(t, intents, eni.OpLearned)
			if record == nil || !record.Done {
				t.Fatalf("the journal has %+v, want a record", record)
			}
			if c.change != nil {
				c.change(record)
				w.check(intents.Put(t.Context(), *record))
			}
			w.ResetCalls()
			again := w.manager(inst, eni.Config{Intents: intents})
			w.provision(again, in)
			if got := w.writes(); got != c.want {
				t.Errorf("calls after the restart %+v, want %+v", got, c.want)
			}
			w.Allow("", "DescribeInstanceTypes")
			time.Sleep(11 * time.Minute)
			if _, err := again.Limits(t.Context()); err != nil {
				t.Error(err)
			}
			_, err = again.Discover(t.Context())
			w.check(err)
			if record := findIntent(t, intents, eni.OpLearned); record != nil {
				t.Errorf("the journal has %+v after EC2 has stated the limits", record)
			}
		}))
	}
}

// findIntent returns the intent of an operation in a journal, or nil.
func findIntent(t *testing.T, intents eni.Intents, op eni.Op) *eni.Intent {
	t.Helper()
	all, err := intents.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range all {
		if in.Op == op {
			return &in
		}
	}
	return nil
}
