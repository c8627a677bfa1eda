// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
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

// The tests in this file reproduce incidents of github.com/aws/amazon-vpc-cni-k8s.
// Their comments name the issues.

// TestStaleMetadataHidesENI reproduces issue 1967: after a restart the metadata
// service does not show an ENI that pods use. The node must not drop or detach it.
func TestStaleMetadataHidesENI(t *testing.T) {
	for name, keepJournal := range map[string]bool{"journal kept": true, "journal lost": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { staleMetadataHidesENI(t, keepJournal) })
		})
	}
}

func staleMetadataHidesENI(t *testing.T, keepJournal bool) {
	w := newWorld(t, enitest.Config{})
	inst := w.run("m5.large")
	time.Sleep(10 * time.Minute)
	journal := eni.NewMemory()
	used := map[netip.Prefix]bool{}
	cfg := eni.Config{Intents: journal, InUse: inUse(func(_ string, b netip.Prefix) bool { return used[b] })}
	m := w.manager(inst, cfg)
	e, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 5})
	w.check(err)
	for _, b := range e.Blocks() {
		used[b] = true
	}
	w.SetLag(enitest.Lag{Keys: map[string]time.Duration{"macs": 8 * time.Minute}})
	time.Sleep(time.Minute)
	if !keepJournal {
		cfg.Intents = eni.NewMemory()
	}
	m = w.manager(inst, cfg)
	for minute := range 20 {
		due, err := m.Check(t.Context())
		w.check(err)
		if due {
			_, err = m.Discover(t.Context())
			w.check(err)
		}
		got, ok := m.Inventory().ENI(e.ID)
		if !ok || len(got.Blocks()) != 5 {
			t.Fatalf("minute %d: %+v", minute, got)
		}
		if err := m.Retire(t.Context(), e.ID); !errors.Is(err, eni.ErrInUse) {
			t.Fatalf("minute %d: retire: %v", minute, err)
		}
		time.Sleep(time.Minute)
	}
	if w.Calls()["DetachNetworkInterface"] != 0 {
		t.Error("the ENI was detached")
	}
}

// TestStaleMetadataShowsReleased reproduces issue 3887: after a restart the metadata
// service still shows an address that was unassigned. No pod may get it.
func TestStaleMetadataShowsReleased(t *testing.T) {
	for name, describeLag := range map[string]time.Duration{"EC2 current": 0, "EC2 late too": 90 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { staleMetadataShowsReleased(t, describeLag) })
		})
	}
}

func staleMetadataShowsReleased(t *testing.T, describeLag time.Duration) {
	w := newWorld(t, enitest.Config{})
	inst := w.run("m5.large")
	time.Sleep(10 * time.Minute)
	journal := eni.NewMemory()
	m := w.manager(inst, eni.Config{Intents: journal})
	primary := w.primary(inst).ID
	got, err := m.Assign(t.Context(), eni.AssignInput{ENI: primary, Slots: 4})
	w.check(err)
	time.Sleep(10 * time.Minute)
	w.SetLag(enitest.Lag{Metadata: 9 * time.Minute, Describe: describeLag})
	w.check(m.Unassign(t.Context(), eni.UnassignInput{ENI: primary, Blocks: got[:2]}))
	m = w.manager(inst, eni.Config{Intents: journal})
	for range 20 {
		inv, err := m.Discover(t.Context())
		w.check(err)
		e, _ := inv.ENI(primary)
		for _, b := range e.Blocks() {
			if slices.Contains(got[:2], b) {
				t.Fatalf("%s is shown as usable, %v after the Discover", b, time.Since(inv.At))
			}
			if !slices.Contains(got[2:], b) {
				t.Fatalf("%s was never assigned", b)
			}
		}
		if len(e.Blocks()) != 2 {
			t.Fatalf("blocks %v, want %v", e.Blocks(), got[2:])
		}
		time.Sleep(time.Minute)
	}
}

// TestSweepRace reproduces issue 1099: a sweep finds an ENI between its creation and
// its attachment. Two fleets share a VPC, and attachments are slow.
func TestSweepRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{Delays: enitest.Delays{Call: 2 * time.Second}})
		blue, green := w.run("m5.large"), w.run("m5.large")
		client := eni.NewClient(w.config("", nil), fast)
		for name, inst := range map[string]enitest.Instance{"blue": blue, "green": green} {
			// Throttling of the attach call leaves an ENI that is not attached.
			w.AddFault(enitest.Fault{
				Action: "AttachNetworkInterface", Caller: inst.ID, Times: 6,
				Err: &enitest.APIError{Code: "RequestLimitExceeded", Status: 503},
			})
			m := w.manager(inst, eni.Config{Cluster: name})
			if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 2}); !errors.Is(err, eni.ErrThrottled) {
				t.Fatal(err)
			}
			swept, err := eni.Sweep(t.Context(), client, eni.SweepInput{VPCID: w.vpc.ID, Cluster: name})
			w.check(err)
			if len(swept) != 1 || swept[0].Deleted || swept[0].Kept != "too young" {
				t.Errorf("%s: %+v", name, swept)
			}
			w.check(m.Resume(t.Context()))
			if got := len(w.attached(inst.ID)); got != 2 {
				t.Errorf("%s has %d ENIs", name, got)
			}
		}
		// One node of each fleet stops between create and attach and never
		// continues.
		for name, inst := range map[string]enitest.Instance{"blue": blue, "green": green} {
			w.AddFault(enitest.Fault{
				Action: "AttachNetworkInterface", Caller: inst.ID, Times: 6,
				Err: &enitest.APIError{Code: "RequestLimitExceeded", Status: 503},
			})
			_, err := w.manager(inst, eni.Config{Cluster: name}).Provision(t.Context(), eni.ProvisionInput{Slots: 1})
			if err == nil {
				t.Fatal("Provision succeeded although attaching is throttled")
			}
		}
		time.Sleep(time.Hour)
		dry, err := eni.Sweep(t.Context(), client, eni.SweepInput{VPCID: w.vpc.ID, Cluster: "blue", DryRun: true})
		w.check(err)
		swept, err := eni.Sweep(t.Context(), client, eni.SweepInput{VPCID: w.vpc.ID, Cluster: "blue"})
		w.check(err)
		if len(dry) != 1 || len(swept) != 1 || !dry[0].Deleted || !swept[0].Deleted {
			t.Fatalf("dry %+v, swept %+v", dry, swept)
		}
		left := slices.DeleteFunc(w.ENIs(), func(e enitest.ENI) bool { return e.Attachment != nil })
		if len(left) != 1 || left[0].Tags[eni.TagCluster] != "green" {
			t.Errorf("left: %+v", left)
		}
	})
}

// TestLowerLimit reproduces issue 2309: the table allows four ENIs, EC2 three. The node
// may create an ENI that it cannot attach only now and then.
func TestLowerLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{Types: []enitest.InstanceType{
			{Name: "m5.xlarge", ENIs: []int{3}, IPv4PerENI: 15, IPv6PerENI: 15, Hypervisor: "nitro"},
		}})
		inst := w.run("m5.xlarge")
		m := w.manager(inst, eni.Config{})
		for range 2 {
			_, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1})
			w.check(err)
		}
		w.ResetCalls()
		for minute := range 24 * 60 {
			if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1}); !errors.Is(err, eni.ErrENILimit) {
				t.Fatal(err)
			}
			for after, most := range map[int]int{4: 1, 30: 3, 24*60 - 1: 28} {
				if got := w.Calls(); minute == after && (got["CreateNetworkInterface"] > most || got["DeleteNetworkInterface"] != got["CreateNetworkInterface"]) {
					t.Errorf("calls after %d minutes: %v, want at most %d ENIs created and deleted", after, got, most)
				}
			}
			time.Sleep(time.Minute)
		}
		if got := len(w.ENIs()); got != 3 {
			t.Errorf("%d ENIs exist, want 3", got)
		}
	})
}

// TestForeignENIsCount reproduces the other half of issue 2309: ENIs that other programs
// attach take places and device indexes without notice.
func TestForeignENIsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{Lag: enitest.Lag{Describe: time.Minute}})
		inst := w.run("m5.large")
		time.Sleep(5 * time.Minute)
		m := w.manager(inst, eni.Config{})
		_, err := m.Discover(t.Context())
		w.check(err)
		api := ec2.NewFromConfig(w.config("", nil))
		made, err := api.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet.ID})
		w.check(err)
		_, err = api.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: made.NetworkInterface.NetworkInterfaceId, InstanceId: &inst.ID, DeviceIndex: aws.Int32(1),
		})
		w.check(err)
		e, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1})
		w.check(err)
		if e.Device != 2 {
			t.Errorf("attached at device index %d, want 2", e.Device)
		}
		for range 10 {
			if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1}); !errors.Is(err, eni.ErrENILimit) {
				t.Error(err)
			}
			time.Sleep(time.Minute)
		}
		if got := w.Calls()["CreateNetworkInterface"]; got > 3 {
			t.Errorf("%d ENIs created", got)
		}
	})
}

// TestNoPolling reproduces issue 3719: calls that repeat while nothing changes. An
// hour with three ENIs must make no call to EC2, even though the metadata service
// lags.
func TestNoPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{Lag: enitest.Lag{Metadata: 100 * time.Second, Describe: 20 * time.Second}})
		inst := w.run("m5.large")
		time.Sleep(5 * time.Minute)
		m := w.manager(inst, eni.Config{Subnets: eni.SubnetsByTag{}})
		for range 2 {
			_, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 9})
			w.check(err)
		}
		w.check(m.Unassign(t.Context(), eni.UnassignInput{ENI: m.Inventory().ENIs[1].ID, Blocks: m.Inventory().ENIs[1].Blocks()[:3]}))
		w.ResetCalls()
		for range 60 {
			due, err := m.Check(t.Context())
			w.check(err)
			if due {
				t.Fatal("Check reports that a Discover is due")
			}
			changes, err := m.Reconcile(t.Context())
			w.check(err)
			w.check(m.Resume(t.Context()))
			if _, err := m.Limits(t.Context()); err != nil || changes != 0 {
				t.Fatal(changes, err)
			}
			time.Sleep(time.Minute)
		}
		if got := w.Calls(); len(got) != 0 {
			t.Errorf("calls in steady state: %v", got)
		}
	})
}
