// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

var update = flag.Bool("update", false, "write the golden files")

// callsOf lists the scenarios for testdata/calls.txt, which records their calls to
// EC2. Each scenario except the first begins with a node that has made one
// Discover, and then runs its function. It runs on a fake clock, with EC2's delays.
var callsOf = []struct {
	name string
	do   func(w *world, m *eni.Manager)
}{
	{"start of a node, or of its agent", func(w *world, m *eni.Manager) {
		_, err := m.Discover(w.t.Context())
		w.check(err)
	}},
	{"an hour in which nothing changes", func(w *world, m *eni.Manager) {
		for range 60 {
			_, err := m.Check(w.t.Context())
			w.check(err)
			_, err = m.Reconcile(w.t.Context())
			w.check(err)
			time.Sleep(time.Minute)
		}
	}},
	{"a new ENI with 9 addresses", func(w *world, m *eni.Manager) { w.provision(m, eni.ProvisionInput{Slots: 9}) }},
	{"a new ENI with 9 prefixes", func(w *world, m *eni.Manager) {
		w.provision(m, eni.ProvisionInput{Slots: 9, Prefixes: true})
	}},
	{"a new ENI with an IPv6 prefix", func(w *world, m *eni.Manager) { w.provision(m, eni.ProvisionInput{Slots6: 1}) }},
	{"a new ENI, the inventory an hour old", func(w *world, m *eni.Manager) {
		time.Sleep(time.Hour)
		w.provision(m, eni.ProvisionInput{Slots: 9})
	}},
	{"a new ENI, the answer of create lost", func(w *world, m *eni.Manager) {
		w.AddFault(enitest.Fault{Action: "CreateNetworkInterface", Times: 1, Drop: true})
		w.provision(m, eni.ProvisionInput{Slots: 9})
	}},
	{"a new ENI, the answer of attach lost", func(w *world, m *eni.Manager) {
		w.AddFault(enitest.Fault{Action: "AttachNetworkInterface", Times: 1, Drop: true})
		w.provision(m, eni.ProvisionInput{Slots: 9})
	}},
	{"a new ENI, delete-on-termination not allowed: undone", func(w *world, m *eni.Manager) {
		w.Deny("", "ModifyNetworkInterfaceAttribute")
		if _, err := m.Provision(w.t.Context(), eni.ProvisionInput{Slots: 9}); !errors.Is(err, eni.ErrUnauthorized) {
			w.t.Error(err)
		}
	}},
	{"a new ENI, EC2's limit reached: undone, then known", func(w *world, m *eni.Manager) {
		w.AddFault(enitest.Fault{
			Action: "AttachNetworkInterface", Times: 1,
			Err: &enitest.APIError{Code: "AttachmentLimitExceeded", Message: "Interface count 2 exceeds the limit", Status: 400},
		})
		for range 5 {
			if _, err := m.Provision(w.t.Context(), eni.ProvisionInput{Slots: 9}); !errors.Is(err, eni.ErrENILimit) {
				w.t.Error(err)
			}
		}
	}},
	{"5 addresses on an ENI", func(w *world, m *eni.Manager) { w.assign(m, eni.AssignInput{Slots: 5}) }},
	{"1 prefix on an ENI", func(w *world, m *eni.Manager) { w.assign(m, eni.AssignInput{Slots: 1, Prefixes: true}) }},
	{"3 prefixes wanted 4 times, no whole block free, 2 addresses each instead", func(w *world, m *eni.Manager) {
		w.breakBlocks(w.subnet)
		for range 4 {
			w.assign(m, eni.AssignInput{Slots: 3, Prefixes: true, Singles: 2})
		}
	}},
	{"1 prefix wanted for 10 minutes, subnet full", func(w *world, m *eni.Manager) {
		w.fill(w.subnet)
		for range 60 {
			_, err := m.Assign(w.t.Context(), eni.AssignInput{ENI: w.eni(m), Slots: 1, Prefixes: true, Singles: 1})
			if !errors.Is(err, eni.ErrSubnetFull) {
				w.t.Error(err)
			}
			time.Sleep(10 * time.Second)
		}
	}},
	{"5 addresses off an ENI", func(w *world, m *eni.Manager) {
		got := w.assign(m, eni.AssignInput{Slots: 5})
		w.ResetCalls()
		w.check(m.Unassign(w.t.Context(), eni.UnassignInput{ENI: w.eni(m), Blocks: got}))
	}},
	{"5 addresses and a prefix off an ENI", func(w *world, m *eni.Manager) {
		got := w.assign(m, eni.AssignInput{Slots: 5})
		got = append(got, w.assign(m, eni.AssignInput{Slots: 1, Prefixes: true})...)
		w.ResetCalls()
		w.check(m.Unassign(w.t.Context(), eni.UnassignInput{ENI: w.eni(m), Blocks: got}))
	}},
	{"an ENI retired", func(w *world, m *eni.Manager) {
		e := w.provision(m, eni.ProvisionInput{Slots: 9})
		w.ResetCalls()
		w.check(m.Retire(w.t.Context(), e.ID))
	}},
	{"an ENI retired, the answer of detach lost", func(w *world, m *eni.Manager) {
		e := w.provision(m, eni.ProvisionInput{Slots: 9})
		w.ResetCalls()
		w.AddFault(enitest.Fault{Action: "DetachNetworkInterface", Times: 1, Drop: true})
		w.check(m.Retire(w.t.Context(), e.ID))
	}},
	{"security groups of 2 ENIs changed", func(w *world, m *eni.Manager) {
		w.provision(m, eni.ProvisionInput{Slots: 1})
		w.provision(m, eni.ProvisionInput{Slots: 1})
		w.ResetCalls()
		group, err := w.AddSecurityGroup(w.vpc.ID, "pods", nil)
		w.check(err)
		again := w.again(m, eni.Config{Groups: eni.FixedGroups{group.ID}})
		for range 3 {
			_, err = again.Reconcile(w.t.Context())
			w.check(err)
		}
	}},
	{"2 new ENIs out of subnets found by tag", func(w *world, m *eni.Manager) {
		w.addSubnet("10.0.2.0/24", "", map[string]string{eni.TagSubnetRole: "1"})
		again := w.again(m, eni.Config{Subnets: eni.SubnetsByTag{}})
		w.provision(again, eni.ProvisionInput{Slots: 9})
		w.provision(again, eni.ProvisionInput{Slots: 9})
	}},
	{"a new ENI, the first of 3 subnets full", func(w *world, m *eni.Manager) {
		second, third := w.addSubnet("10.0.2.0/24", "", nil), w.addSubnet("10.0.3.0/24", "", nil)
		w.fill(w.subnet)
		again := w.again(m, eni.Config{Subnets: eni.SubnetsByID{w.subnet.ID, second.ID, third.ID}})
		if e := w.provision(again, eni.ProvisionInput{Slots: 9}); e.SubnetID != second.ID {
			w.t.Errorf("created in %s, want %s", e.SubnetID, second.ID)
		}
	}},
	{"a branch ENI made and joined", func(w *world, m *eni.Manager) {
		trunk := w.provision(m, eni.ProvisionInput{Kind: eni.KindTrunk})
		w.ResetCalls()
		_, _, err := m.CreateBranch(w.t.Context(), eni.BranchInput{Trunk: trunk.ID})
		w.check(err)
	}},
	{"a branch ENI retired", func(w *world, m *eni.Manager) {
		trunk := w.provision(m, eni.ProvisionInput{Kind: eni.KindTrunk})
		_, b, err := m.CreateBranch(w.t.Context(), eni.BranchInput{Trunk: trunk.ID})
		w.check(err)
		w.ResetCalls()
		w.check(m.RetireBranch(w.t.Context(), b))
		for range 5 {
			time.Sleep(20 * time.Second)
			w.check(m.Resume(w.t.Context()))
		}
		if _, ok := w.ENI(b.ENI); ok {
			w.t.Error("the branch is still there")
		}
	}},
	{"a sweep that finds nothing", func(w *world, _ *eni.Manager) {
		_, err := eni.Sweep(w.t.Context(), eni.NewClient(w.config("", nil), fast), eni.SweepInput{VPCID: w.vpc.ID})
		w.check(err)
	}},
}

// TestCalls compares the calls of each scenario with the golden file. A rise costs
// every user of the library; explain it in the commit.
func TestCalls(t *testing.T) {
	var got strings.Builder
	for _, c := range callsOf {
		fmt.Fprintf(&got, "%s\n", c.name)
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, enitest.Config{Delays: enitest.Delays{
				Attach: 1500 * time.Millisecond, Detach: 1500 * time.Millisecond, Call: 100 * time.Millisecond,
			}})
			inst := w.run("m5.large")
			m := w.manager(inst, eni.Config{})
			if c.name != callsOf[0].name {
				_, err := m.Discover(t.Context())
				w.check(err)
				w.ResetCalls()
			}
			c.do(w, m)
			calls := w.Calls()
			for _, action := range slices.Sorted(maps.Keys(calls)) {
				fmt.Fprintf(&got, "    %d %s\n", calls[action], action)
			}
		})
	}
	const golden = "testdata/calls.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// provision provisions an ENI.
func (w *world) provision(m *eni.Manager, in eni.ProvisionInput) eni.ENI {
	w.t.Helper()
	e, err := m.Provision(w.t.Context(), in)
	w.check(err)
	return e
}

// eni returns the ID of the primary ENI.
func (w *world) eni(m *eni.Manager) string { return m.Inventory().ENIs[0].ID }

// assign assigns slots to the primary ENI.
func (w *world) assign(m *eni.Manager, in eni.AssignInput) []netip.Prefix {
	w.t.Helper()
	in.ENI = w.eni(m)
	got, err := m.Assign(w.t.Context(), in)
	w.check(err)
	return got
}

// again returns a second Manager for the same instance, which has made a Discover.
func (w *world) again(m *eni.Manager, cfg eni.Config) *eni.Manager {
	w.t.Helper()
	inst, ok := w.Instance(m.Inventory().Instance.ID)
	if !ok {
		w.t.Fatal("the instance does not exist")
	}
	again := w.manager(inst, cfg)
	_, err := again.Discover(w.t.Context())
	w.check(err)
	w.ResetCalls()
	return again
}

// breakBlocks occupies one address of every /28 of a subnet.
func (w *world) breakBlocks(s enitest.Subnet) {
	for a := s.Prefix.Addr(); s.Prefix.Contains(a); a = step(a, 16) {
		_ = w.Occupy(s.ID, step(a, 9)) // an address that is already occupied has the same effect
	}
}

// fill occupies every address of a subnet.
func (w *world) fill(s enitest.Subnet) {
	for a := s.Prefix.Addr(); s.Prefix.Contains(a); a = a.Next() {
		_ = w.Occupy(s.ID, a)
	}
}

// step returns the address n after a.
func step(a netip.Addr, n int) netip.Addr {
	for range n {
		a = a.Next()
	}
	return a
}

// metadataCount counts the keys that are read from the metadata service.
type metadataCount struct {
	http.RoundTripper
	reads *int
}

func (c *metadataCount) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.Contains(r.URL.Path, "/meta-data/") {
		*c.reads++
	}
	return c.RoundTripper.RoundTrip(r)
}

// TestCheckReadsSomeENIs checks that Check of an instance with many ENIs reads the addresses of
// some of them at a time, and that two Checks find any change.
func TestCheckReadsSomeENIs(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.24xlarge")
		reads := 0
		counted := w.config(inst.ID, func(rt http.RoundTripper) http.RoundTripper {
			return &metadataCount{RoundTripper: rt, reads: &reads}
		})
		m := w.manager(inst, eni.Config{Client: eni.NewClient(counted, fast)})
		var last eni.ENI
		for range 14 {
			last = w.provision(m, eni.ProvisionInput{Slots: 2})
		}
		_, err := m.Discover(t.Context())
		w.check(err)
		check := func() bool {
			t.Helper()
			due, err := m.Check(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return due
		}
		time.Sleep(time.Minute)
		check() // reads all ENIs
		reads = 0
		if check() {
			t.Error("a Discover is due although nothing has changed")
		}
		if reads != 1+2*8 {
			t.Errorf("%d metadata requests of a Check, want 17: the list, and two for each of 8 ENIs", reads)
		}
		w.assignByHand(last.ID)
		time.Sleep(time.Minute)
		if first := check(); !first && !check() {
			t.Error("two Checks have not found an address that another program assigned")
		}
	})(t)
}
