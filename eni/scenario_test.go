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

// These are incidents of github.com/aws/amazon-vpc-cni-k8s, named by their
// issue, replayed.

// TestStaleMetadataHidesENI is issue 1967: after a restart the metadata service
// does not show an ENI that pods use. It must not be given up, nor detached.
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
	inUse := map[netip.Prefix]bool{}
	cfg := eni.Config{Intents: journal, InUse: says(func(_ string, b netip.Prefix) bool { return inUse[b] })}
	m := w.manager(inst, cfg)
	e, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 5})
	w.check(err)
	for _, b := range e.Blocks() {
		inUse[b] = true
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
		t.Error("it was detached")
	}
}

// TestStaleMetadataShowsReleased is issue 3887: after a restart the metadata
// service still shows an address that EC2 has taken off. No pod may get it.
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
				t.Fatalf("%s is offered after %v", b, time.Since(inv.At))
			}
			if !slices.Contains(got[2:], b) {
				t.Fatalf("%s is unknown", b)
			}
		}
		if len(e.Blocks()) != 2 {
			t.Fatalf("lost some: %v", e.Blocks())
		}
		time.Sleep(time.Minute)
	}
}

// TestSweepRace is issue 1099: a sweeper sees an ENI between its creation and
// its attachment. Two fleets share a VPC; attachments are slow.
func TestSweepRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{Delays: enitest.Delays{Call: 2 * time.Second}})
		blue, green := w.run("m5.large"), w.run("m5.large")
		client := eni.NewClient(w.config("", nil), fast)
		for name, inst := range map[string]enitest.Instance{"blue": blue, "green": green} {
			// Attaching is throttled, which leaves an ENI in between.
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
		// One of each fleet dies between create and attach, for good.
		for name, inst := range map[string]enitest.Instance{"blue": blue, "green": green} {
			w.AddFault(enitest.Fault{
				Action: "AttachNetworkInterface", Caller: inst.ID, Times: 6,
				Err: &enitest.APIError{Code: "RequestLimitExceeded", Status: 503},
			})
			_, err := w.manager(inst, eni.Config{Cluster: name}).Provision(t.Context(), eni.ProvisionInput{Slots: 1})
			if err == nil {
				t.Fatal("attached all the same")
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

// TestLimitLearnt is issue 2309: the table says four ENIs, EC2 takes three. An ENI
// may be made in vain now and then, not one after the other.
func TestLimitLearnt(t *testing.T) {
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
					t.Errorf("calls after %d minutes: %v, want %d ENIs made in vain at most", after, got, most)
				}
			}
			time.Sleep(time.Minute)
		}
		if got := len(w.ENIs()); got != 3 {
			t.Errorf("%d ENIs are there", got)
		}
	})
}

// TestOthersENIsCount is the other half of issue 2309: ENIs that others attach
// take slots, and device indexes, without telling.
func TestOthersENIsCount(t *testing.T) {
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
			t.Errorf("attached at %d", e.Device)
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

// TestNoPolling is issue 3719: calls that repeat while nothing changes. An hour
// of looking after a node with three ENIs costs nothing at EC2, whatever the
// metadata service's lag.
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
				t.Fatal("a look at EC2 is said to be due")
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
