// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// removals are the EC2 actions that take something away.
var removals = []string{
	"UnassignPrivateIpAddresses", "UnassignIpv6Addresses", "DetachNetworkInterface", "DeleteNetworkInterface", "DisassociateTrunkInterface",
}

// removalCalls returns the removals called since the last ResetCalls.
func (w *world) removalCalls() []string {
	var out []string
	for _, action := range removals {
		if w.Calls()[action] > 0 {
			out = append(out, action)
		}
	}
	return out
}

// oldIntents are unfinished intents of a journal from before pods used the ENI. Each
// would remove the ENI or addresses of it.
var oldIntents = []struct {
	name string
	of   func(e eni.ENI) eni.Intent
}{
	{"unassign", func(e eni.ENI) eni.Intent {
		return eni.Intent{Op: eni.OpUnassign, Blocks: e.Blocks()[:1]}
	}},
	{"unassign continued", func(e eni.ENI) eni.Intent {
		return eni.Intent{Op: eni.OpUnassign, Blocks: e.Blocks()[:1], Doubt: true}
	}},
	{"retire", func(e eni.ENI) eni.Intent {
		return eni.Intent{Op: eni.OpRetire, Kind: e.Kind, Card: e.Card, Device: e.Device, Attached: true, Attachment: e.Attachment}
	}},
	{"retire, detached", func(e eni.ENI) eni.Intent {
		return eni.Intent{Op: eni.OpRetire, Kind: e.Kind, Card: e.Card, Device: e.Device, Attached: true, Attachment: e.Attachment, Detached: true}
	}},
	{"retire, before the first call", func(eni.ENI) eni.Intent { return eni.Intent{Op: eni.OpRetire} }},
	{"provision undone", func(e eni.ENI) eni.Intent {
		in := provisioning(e)
		in.Undo, in.Why = true, eni.ReasonUnreachable
		return in
	}},
	{"provision undone before it was attached", func(e eni.ENI) eni.Intent {
		in := provisioning(e)
		in.Undo, in.Attached, in.Attachment = true, false, ""
		return in
	}},
}

// provisioning returns the intent that created an ENI, before its last step.
func provisioning(e eni.ENI) eni.Intent {
	made := e
	made.Addrs = []netip.Addr{netip.MustParseAddr("10.0.1.250")} // it has lost this address since
	return eni.Intent{
		Op: eni.OpProvision, Kind: e.Kind, Token: "old", Subnet: e.SubnetID, Card: e.Card, Device: e.Device,
		Made: &made, Attached: true, Attachment: e.Attachment,
	}
}

// TestOldIntentsRemoveNothingInUse checks that an unfinished intent of an old
// journal removes neither an address nor an ENI of a pod, and that the ENI is usable
// again as soon as EC2 has answered. The pod has an address that the intent does not
// name, and that only EC2 knows.
func TestOldIntentsRemoveNothingInUse(t *testing.T) {
	for _, c := range oldIntents {
		for name, age := range map[string]time.Duration{"an hour old": time.Hour, "just written": 0} {
			t.Run(c.name+"/"+name, inBubble(func(t *testing.T) {
				w := newWorld(t, enitest.Config{})
				inst := w.run("m5.large")
				e := w.provision(w.manager(inst, eni.Config{}), eni.ProvisionInput{Slots: 3})
				time.Sleep(2 * time.Hour)
				used := e.Blocks()[0]
				in := c.of(e)
				if in.Op != eni.OpUnassign {
					used = w.assignByHand(e.ID)
				}
				in.ID, in.ENI, in.Start, in.Changed = "old", e.ID, time.Now().Add(-age), time.Now().Add(-age)
				intents := eni.NewMemory()
				w.check(intents.Put(t.Context(), in))
				m := w.manager(inst, eni.Config{Intents: intents, InUse: inUse(func(_ string, b netip.Prefix) bool { return b == used })})
				w.ResetCalls()
				for range 3 {
					// While EC2 may still show the state before a detach, the
					// operation stays unfinished.
					if err := m.Resume(t.Context()); err != nil && !errors.Is(err, eni.ErrInUse) {
						t.Error(err)
					}
					time.Sleep(5 * time.Minute)
				}
				if got := w.removalCalls(); len(got) > 0 {
					t.Errorf("%v was called", got)
				}
				if open, err := m.Unfinished(t.Context()); err != nil || len(open) > 0 {
					t.Errorf("unfinished: %+v, %v", open, err)
				}
				inv, err := m.Discover(t.Context())
				w.check(err)
				have, _ := w.ENI(e.ID)
				got, _ := inv.ENI(e.ID)
				if !got.ForPods() || !slices.Equal(got.Blocks(), sorted(blocks(have))) {
					t.Errorf("inventory has %+v, want it usable with %v", got, blocks(have))
				}
			}))
		}
	}
}

// assignByHand assigns an address to an ENI without the Manager.
func (w *world) assignByHand(id string) netip.Prefix {
	w.t.Helper()
	out, err := ec2.NewFromConfig(w.config("", nil)).AssignPrivateIpAddresses(w.t.Context(), &ec2.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: &id, SecondaryPrivateIpAddressCount: aws.Int32(1),
	})
	w.check(err)
	return netip.PrefixFrom(netip.MustParseAddr(*out.AssignedPrivateIpAddresses[0].PrivateIpAddress), 32)
}

// TestOldProvision checks that an old provision intent does not restore an address
// that the ENI had when it was created and has lost since.
func TestOldProvision(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		e := w.provision(w.manager(inst, eni.Config{}), eni.ProvisionInput{Slots: 3})
		in := provisioning(e)
		in.ID, in.ENI, in.Start, in.Changed, in.Ready, in.DeleteOnTermination = "old", e.ID, time.Now(), time.Now(), true, true
		intents := eni.NewMemory()
		w.check(intents.Put(t.Context(), in))
		m := w.manager(inst, eni.Config{Intents: intents})
		remove := w.AddFault(enitest.Fault{Action: "*", Err: &enitest.APIError{Code: "InternalError", Status: 500}})
		if err := m.Resume(t.Context()); !errors.Is(err, eni.ErrUnreachable) {
			t.Errorf("resume without EC2: %v, want ErrUnreachable", err)
		}
		if got, _ := m.Inventory().ENI(e.ID); got.ForPods() {
			t.Errorf("usable before EC2 answered: %+v", got)
		}
		remove()
		w.check(m.Resume(t.Context()))
		if got, _ := m.Inventory().ENI(e.ID); !got.ForPods() || !slices.Equal(got.Blocks(), e.Blocks()) {
			t.Errorf("inventory has %+v, want %v", got, e.Blocks())
		}
	})(t)
}

// TestUnknownUseForbids checks that nothing is removed, and that the intent stays,
// while Config.InUse cannot tell whether a pod uses an address.
func TestUnknownUseForbids(t *testing.T) {
	unknown := errors.New("the kernel cannot be asked")
	for _, c := range oldIntents {
		t.Run(c.name, inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			inst := w.run("m5.large")
			e := w.provision(w.manager(inst, eni.Config{}), eni.ProvisionInput{Slots: 3})
			intents := eni.NewMemory()
			in := c.of(e)
			in.ID, in.ENI, in.Start, in.Changed = "old", e.ID, time.Now(), time.Now()
			w.check(intents.Put(t.Context(), in))
			m := w.manager(inst, eni.Config{Intents: intents, InUse: func(context.Context, string, netip.Prefix) (bool, error) {
				return false, unknown
			}})
			w.ResetCalls()
			if err := m.Resume(t.Context()); !errors.Is(err, eni.ErrInUse) || !errors.Is(err, unknown) {
				t.Errorf("resume: %v, want ErrInUse with the error of Config.InUse", err)
			}
			if err := m.Retire(t.Context(), e.ID); err == nil {
				t.Error("retired")
			}
			if got := w.removalCalls(); len(got) > 0 {
				t.Errorf("%v was called", got)
			}
			if open, err := m.Unfinished(t.Context()); err != nil || len(open) != 1 {
				t.Errorf("unfinished: %+v, %v, want one", open, err)
			}
		}))
	}
}

// TestInUseBeforeEachTry checks that a pod keeps an address that it gets while the
// call waits, here for the back-off after throttling.
func TestInUseBeforeEachTry(t *testing.T) {
	throttled := &enitest.APIError{Code: "RequestLimitExceeded", Message: "slower", Status: 503}
	for _, c := range []struct {
		action string
		do     func(w *world, m *eni.Manager, e eni.ENI) error
	}{
		{"UnassignPrivateIpAddresses", func(w *world, m *eni.Manager, e eni.ENI) error {
			return m.Unassign(w.t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: e.Blocks()[:2]})
		}},
		{"DetachNetworkInterface", func(w *world, m *eni.Manager, e eni.ENI) error { return m.Retire(w.t.Context(), e.ID) }},
		{"DeleteNetworkInterface", func(w *world, m *eni.Manager, e eni.ENI) error { return m.Retire(w.t.Context(), e.ID) }},
	} {
		t.Run(c.action, inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			inst := w.run("m5.large")
			var pod time.Time // when the pod gets its address
			var e eni.ENI
			m := w.manager(inst, eni.Config{InUse: inUse(func(_ string, b netip.Prefix) bool {
				return !pod.IsZero() && !time.Now().Before(pod) && b == e.Blocks()[1]
			})})
			e = w.provision(m, eni.ProvisionInput{Slots: 3})
			w.AddFault(enitest.Fault{Action: c.action, Times: 2, Err: throttled})
			w.AddFault(enitest.Fault{Action: c.action, Times: 1, Delay: time.Second})
			w.ResetCalls()
			pod = time.Now().Add(500 * time.Millisecond)
			if c.action == "DeleteNetworkInterface" {
				pod = pod.Add(2 * time.Second) // after the pause between detach and delete
			}
			if err := c.do(w, m, e); !errors.Is(err, eni.ErrInUse) {
				t.Errorf("%v, want ErrInUse", err)
			}
			have, found := w.ENI(e.ID)
			if !found || len(have.Addrs) != 3 || w.Calls()[c.action] != 1 {
				t.Errorf("found %v with %v, calls %v; want all addresses and one try", found, have.Addrs, w.Calls())
			}
		}))
	}
}

// TestJournalLost kills a Provision at each point in turn and loses the journal with
// the process. The next process, and a sweep an hour later, must leave no ENI that
// is not attached, and must keep those that are.
func TestJournalLost(t *testing.T) {
	for fuse, survived := 1, false; !survived; fuse++ {
		synctest.Test(t, func(t *testing.T) {
			x := newKillableNode(t)
			x.fuse = fuse
			survived = !x.isKilled(func() {
				_, err := x.m.Provision(t.Context(), eni.ProvisionInput{Slots: 3})
				x.check(err)
			})
			x.fuse = 0
			x.cfg.Intents = eni.NewMemory()
			x.boot()
			x.check(x.m.Resume(t.Context()))
			time.Sleep(time.Hour)
			_, err := x.m.Discover(t.Context())
			x.check(err)
			_, err = x.m.Reconcile(t.Context())
			x.check(err)
			was := len(x.attached(x.inst.ID))
			_, err = eni.Sweep(t.Context(), eni.NewClient(x.config(x.inst.ID, nil), fast), eni.SweepInput{VPCID: x.vpc.ID, Instance: x.inst.ID})
			x.check(err)
			inv, err := x.m.Discover(t.Context())
			x.check(err)
			if all, now := len(x.ENIs()), len(x.attached(x.inst.ID)); all != now || now != was || len(inv.ENIs) != now || was < 2 {
				t.Errorf("killed at %d: %d ENIs, %d attached, %d before the sweep, %d known", fuse, all, now, was, len(inv.ENIs))
			}
			for _, e := range inv.ENIs {
				if have, _ := x.ENI(e.ID); !e.ForPods() || !e.Primary && !have.Attachment.DeleteOnTermination {
					t.Errorf("killed at %d: %s is not usable, or outlives its instance: %+v", fuse, e.ID, e)
				}
			}
		})
	}
}
