// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// inBubble runs a test with a fake clock.
func inBubble(f func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, f) }
}

// TestFallback requests prefixes while the subnets fill up and empty again. The node
// must get prefixes, then prefixes of the other subnet, then single addresses, and
// then prefixes again.
func TestFallback(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		other := w.addSubnet("10.0.2.0/24", "", nil)
		inst := w.run("m5.2xlarge")
		m := w.manager(inst, eni.Config{Subnets: eni.SubnetsByID{w.subnet.ID, other.ID}})
		want := func(what, subnet string, prefixes, singles int) eni.ENI {
			t.Helper()
			e := w.provision(m, eni.ProvisionInput{Slots: 2, Prefixes: true, Singles: 3})
			if e.SubnetID != subnet || len(e.Prefixes) != prefixes || len(e.Addrs) != singles {
				t.Errorf("%s: %v in %s", what, e.Blocks(), e.SubnetID)
			}
			return e
		}
		w.check(m.Retire(t.Context(), want("all free", w.subnet.ID, 2, 0).ID))
		w.breakBlocks(w.subnet)
		w.check(m.Retire(t.Context(), want("first broken", other.ID, 2, 0).ID))
		w.breakBlocks(other)
		singles := want("both broken", other.ID, 0, 3)
		if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 2, Prefixes: true, Singles: 3}); !errors.Is(err, eni.ErrNoFreePrefix) {
			t.Errorf("another ENI for single addresses, while one has free slots: %v", err)
		}
		w.check(m.Retire(t.Context(), singles.ID))
		w.ResetCalls()
		want("both broken, known", other.ID, 0, 3)
		if got := w.Calls()["CreateNetworkInterface"]; got != 1 {
			t.Errorf("%d create calls, want 1: EC2 has just refused the others", got)
		}
		if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 2, Prefixes: true}); !errors.Is(err, eni.ErrNoFreePrefix) {
			t.Errorf("prefixes or nothing: %v", err)
		}
		for a := w.subnet.Prefix.Addr(); w.subnet.Prefix.Contains(a); a = step(a, 16) {
			_ = w.Vacate(w.subnet.ID, step(a, 9))
		}
		time.Sleep(3 * time.Minute)
		last := m.Inventory().ENIs
		w.check(m.Retire(t.Context(), last[len(last)-1].ID))
		want("first free again", w.subnet.ID, 2, 0)
	})(t)
}

// TestFull provisions from a subnet without a free prefix or address.
func TestFull(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		_, err := m.Discover(t.Context())
		w.check(err)
		w.fill(w.subnet)
		_, err = m.Provision(t.Context(), eni.ProvisionInput{Slots: 3, Prefixes: true, Singles: 2})
		var op *eni.OpError
		if !errors.Is(err, eni.ErrSubnetFull) || !errors.As(err, &op) || op.RetryAfter() == 0 || op.Reason() != "subnet-full" {
			t.Errorf("provision: %v, %+v", err, op)
		}
		if open, err := m.Unfinished(t.Context()); len(open) != 0 || err != nil {
			t.Errorf("unfinished: %+v, %v", open, err)
		}
	})(t)
}

// TestFamilies assigns addresses of both families to one ENI.
func TestFamilies(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		e := w.provision(m, eni.ProvisionInput{Slots: 2, Slots6: 1})
		if e.Slots(eni.IPv4) != 2 || e.Slots(eni.IPv6) != 1 || e.Subnet6 != w.subnet.IPv6 {
			t.Errorf("created %+v", e)
		}
		if got := e.Gateway(eni.IPv6); got != netip.MustParseAddr("fe80:ec2::1") {
			t.Errorf("gateway %s", got)
		}
		for _, in := range []eni.AssignInput{
			{ENI: e.ID, Slots: 3, Family: eni.IPv6, Prefixes: true},
			{ENI: e.ID, Slots: 2, Family: eni.IPv6},
			{ENI: e.ID, Slots: 1, Prefixes: true},
		} {
			got, err := m.Assign(t.Context(), in)
			w.check(err)
			if len(got) != in.Slots || got[0].IsSingleIP() == in.Prefixes {
				t.Errorf("%+v: %v", in, got)
			}
		}
		known, _ := m.Inventory().ENI(e.ID)
		before := slots(m.Inventory())
		inv, err := m.Discover(t.Context())
		w.check(err)
		if after := slots(inv); !slices.Equal(before[e.ID], after[e.ID]) {
			t.Errorf("before %v, after %v", before[e.ID], after[e.ID])
		}
		w.check(m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: known.Blocks()}))
		have, _ := w.ENI(e.ID)
		if n := len(have.Addrs) + len(have.Prefixes) + len(have.IPv6Prefixes); n != 0 {
			t.Errorf("blocks are left on the ENI: %+v", have)
		}
	})(t)
}

// TestIPv6Only provisions an ENI in a subnet without IPv4.
func TestIPv6Only(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		six, err := w.AddSubnet(enitest.SubnetInput{VPC: w.vpc.ID, IPv6: netip.MustParsePrefix("2001:db8:1:6::/64")})
		w.check(err)
		m := w.manager(w.run("m5.large"), eni.Config{Subnets: eni.SubnetsByID{six.ID}})
		e := w.provision(m, eni.ProvisionInput{Slots6: 1})
		if e.Addr.IsValid() || e.Slots(eni.IPv6) != 1 || e.Subnet.IsValid() || e.Subnet6 != six.IPv6 || e.Gateway(eni.IPv4).IsValid() {
			t.Errorf("created %+v", e)
		}
		got, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1, Prefixes: true, Family: eni.IPv6})
		w.check(err)
		before := slots(m.Inventory())
		inv, err := m.Discover(t.Context())
		w.check(err)
		if after, ok := inv.ENI(e.ID); !ok || !after.ForPods() || !slices.Equal(before[e.ID], slots(inv)[e.ID]) {
			t.Errorf("%v before, %+v after", before, after)
		}
		w.check(m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: got}))
		w.check(m.Retire(t.Context(), e.ID))
	})(t)
}

// TestCards has ENIs on several network cards, with a gap in the device indexes. One
// ENI has no addresses, and one belongs to another program.
func TestCards(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("p4d.24xlarge")
		api := ec2.NewFromConfig(w.config("", nil))
		foreign, err := api.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet.ID, SecondaryPrivateIpAddressCount: aws.Int32(2)})
		w.check(err)
		id := foreign.NetworkInterface.NetworkInterfaceId
		_, err = api.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: id, InstanceId: &inst.ID, DeviceIndex: aws.Int32(2), NetworkCardIndex: aws.Int32(2),
		})
		w.check(err)
		m := w.manager(inst, eni.Config{})
		plain := w.provision(m, eni.ProvisionInput{Card: 2, Slots: 3})
		next := w.provision(m, eni.ProvisionInput{Card: 2, Slots: 3})
		efa := w.provision(m, eni.ProvisionInput{Card: 1, Kind: eni.KindEFAOnly})
		if plain.Card != 2 || plain.Device != 1 || next.Device != 3 || efa.Card != 1 {
			t.Errorf("at %d/%d, %d/%d and %d/%d", plain.Card, plain.Device, next.Card, next.Device, efa.Card, efa.Device)
		}
		inv, err := m.Discover(t.Context())
		w.check(err)
		if len(inv.ENIs) != 5 {
			t.Fatalf("%d ENIs", len(inv.ENIs))
		}
		for _, e := range inv.ENIs {
			if want := e.ID != *id && e.ID != efa.ID; e.ForPods() != want {
				t.Errorf("%s on card %d, %s: for pods %v", e.ID, e.Card, e.Kind, e.ForPods())
			}
		}
		if _, err := m.Assign(t.Context(), eni.AssignInput{ENI: *id, Slots: 1}); !errors.Is(err, eni.ErrNotManaged) {
			t.Errorf("assign to a foreign ENI: %v", err)
		}
		if err := m.Unassign(t.Context(), eni.UnassignInput{ENI: *id, Blocks: inv.ENIs[3].Blocks()}); !errors.Is(err, eni.ErrNotManaged) {
			t.Errorf("unassign from a foreign ENI: %v", err)
		}
		if err := m.Retire(t.Context(), *id); !errors.Is(err, eni.ErrNotManaged) {
			t.Errorf("retire a foreign ENI: %v", err)
		}
		w.check(m.Adopt(t.Context(), *id))
		if _, err := m.Assign(t.Context(), eni.AssignInput{ENI: *id, Slots: 1}); err != nil {
			t.Errorf("assign to an adopted ENI: %v", err)
		}
		for range 2 {
			w.check(m.Disown(t.Context(), *id, "other"))
		}
		if _, err := m.Assign(t.Context(), eni.AssignInput{ENI: *id, Slots: 1}); !errors.Is(err, eni.ErrNotManaged) {
			t.Errorf("assign to a disowned ENI: %v, want ErrNotManaged", err)
		}
		again, err := m.Discover(t.Context())
		w.check(err)
		if e, _ := again.ENI(*id); e.Managed || e.Tags[eni.TagOwner] != "other" || e.Tags[eni.TagInstance] == "" {
			t.Errorf("disowned ENI: managed %v, tags %v, want the owner other and the other tags", e.Managed, e.Tags)
		}
		w.check(m.Adopt(t.Context(), *id))
		w.check(m.Retire(t.Context(), *id))
		if _, err := m.Provision(t.Context(), eni.ProvisionInput{Card: 7, Slots: 1}); !errors.Is(err, eni.ErrENILimit) {
			t.Errorf("card 7, which does not exist: %v", err)
		}
	})(t)
}

// TestModes tries every operation in each safe mode.
func TestModes(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.xlarge"), eni.Config{})
		e := w.provision(m, eni.ProvisionInput{Slots: 4})
		ctx := t.Context()
		ops := []struct {
			name string
			do   func() error
			from eni.Mode // the first mode that forbids it
		}{
			{"assign", func() error { _, err := m.Assign(ctx, eni.AssignInput{ENI: e.ID, Slots: 1}); return err }, eni.ModeFrozen},
			{"unassign", func() error { return m.Unassign(ctx, eni.UnassignInput{ENI: e.ID, Blocks: e.Blocks()[:1]}) }, eni.ModeNoRelease},
			{"provision", func() error { _, err := m.Provision(ctx, eni.ProvisionInput{Slots: 1}); return err }, eni.ModeFrozen},
			{"reconcile", func() error { _, err := m.Reconcile(ctx); return err }, eni.ModeFrozen},
			{"retire", func() error { return m.Retire(ctx, e.ID) }, eni.ModeNoRelease},
		}
		for _, mode := range []eni.Mode{eni.ModeFrozen, eni.ModeNoRelease, eni.ModeFull} {
			m.SetMode(mode)
			if parsed, err := eni.ParseMode(mode.String()); parsed != mode || err != nil {
				t.Errorf("%v is parsed as %v, %v", mode, parsed, err)
			}
			for _, op := range ops {
				if err := op.do(); errors.Is(err, eni.ErrMode) != (mode >= op.from) || err != nil && mode < op.from {
					t.Errorf("%s in mode %s: %v", op.name, mode, err)
				}
			}
		}
	})(t)
}

// TestTripStopsRelease detaches several ENIs at once without the Manager. That must
// stop all releases until a second, much later Discover.
func TestTripStopsRelease(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.xlarge")
		m := w.manager(inst, eni.Config{})
		for range 3 {
			w.provision(m, eni.ProvisionInput{Slots: 14})
		}
		time.Sleep(5 * time.Minute)
		api := ec2.NewFromConfig(w.config("", nil))
		for _, e := range w.attached(inst.ID)[1:] {
			_, err := api.DetachNetworkInterface(t.Context(), &ec2.DetachNetworkInterfaceInput{AttachmentId: &e.Attachment.ID})
			w.check(err)
		}
		inv, err := m.Discover(t.Context())
		w.check(err)
		if inv.Trip == nil || m.Mode() != eni.ModeNoRelease || len(inv.ENIs) != 4 {
			t.Fatalf("trip %+v, mode %v, %d ENIs", inv.Trip, m.Mode(), len(inv.ENIs))
		}
		for _, e := range inv.ENIs[1:] {
			if len(e.Blocks()) != 0 || len(e.Doubtful) != 14 {
				t.Errorf("%s: %v sure, %v in doubt", e.ID, e.Blocks(), e.Doubtful)
			}
		}
		if err := m.Retire(t.Context(), inv.ENIs[1].ID); !errors.Is(err, eni.ErrMode) {
			t.Errorf("retire: %v", err)
		}
		if due, err := m.Check(t.Context()); err != nil || !due {
			t.Errorf("check during the trip: due %v, %v, want true", due, err)
		}
		time.Sleep(3 * time.Minute)
		inv, err = m.Discover(t.Context())
		w.check(err)
		if inv.Trip != nil || m.Mode() != eni.ModeFull || len(inv.ENIs) != 1 || len(inv.Gone) != 3 {
			t.Errorf("later: trip %+v, mode %v, %d ENIs, gone %v", inv.Trip, m.Mode(), len(inv.ENIs), inv.Gone)
		}
	})(t)
}

// TestAttachmentThatNeverCompletes checks that such an attachment is undone, and
// leaves neither an ENI nor an unfinished operation.
func TestAttachmentThatNeverCompletes(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{Delays: enitest.Delays{Attach: 24 * time.Hour}})
		inst := w.run("m5.large")
		m := w.manager(inst, eni.Config{})
		begin := time.Now()
		_, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1})
		if took := time.Since(begin); !errors.Is(err, eni.ErrUnreachable) || took < 3*time.Minute || took > 10*time.Minute {
			t.Errorf("%v after %v, want ErrUnreachable after AttachTimeout", err, took)
		}
		open, err := m.Unfinished(t.Context())
		if err != nil || len(open) > 0 || len(w.ENIs()) != 1 {
			t.Errorf("unfinished %+v, %v, %d ENIs; want none unfinished and only the primary ENI", open, err, len(w.ENIs()))
		}
	})(t)
}

// TestUnknownType has an instance type that only EC2 knows. Without EC2 the node uses
// safe defaults.
func TestUnknownType(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{Types: []enitest.InstanceType{
			{Name: "x9.large", ENIs: []int{5, 2}, IPv4PerENI: 12, IPv6PerENI: 12, Hypervisor: "nitro"},
		}})
		inst := w.run("x9.large")
		w.Deny("", "DescribeInstanceTypes")
		m := w.manager(inst, eni.Config{})
		l, err := m.Limits(t.Context())
		w.check(err)
		if l.Source != "default" || l.MaxENIs(0) != 2 {
			t.Errorf("without the permission: %+v", l)
		}
		w.provision(m, eni.ProvisionInput{Slots: 100})
		w.Allow("", "DescribeInstanceTypes")
		time.Sleep(11 * time.Minute)
		l, err = m.Limits(t.Context())
		w.check(err)
		if l.Source != "ec2" || !slices.Equal(l.Cards, []int{5, 2}) || l.SlotsPerENI() != 11 || !l.Nitro {
			t.Errorf("with it: %+v", l)
		}
	})(t)
}

// TestNoEC2 starts a node while EC2 does not answer, and a node without a metadata
// service.
func TestNoEC2(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		first := w.manager(inst, eni.Config{})
		e := w.provision(first, eni.ProvisionInput{Slots: 3})
		remove := w.AddFault(enitest.Fault{Action: "*", Hang: true})
		m := w.manager(inst, eni.Config{})
		inv, err := m.Discover(t.Context())
		w.check(err)
		if !errors.Is(inv.EC2Err, eni.ErrUnreachable) || inv.Source != eni.SourceMetadata || len(inv.ENIs) != 2 {
			t.Fatalf("inventory %+v", inv)
		}
		// The blocks stay known for the pods that have them, but are in doubt.
		got, _ := inv.ENI(e.ID)
		if got.ForPods() || !slices.Equal(got.Doubtful, e.Blocks()) {
			t.Errorf("ENI %+v", got)
		}
		if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1}); !errors.Is(err, eni.ErrUnreachable) {
			t.Errorf("provision: %v", err)
		}
		remove()
		inv, err = m.Discover(t.Context())
		w.check(err)
		if got, _ := inv.ENI(e.ID); !got.ForPods() || len(got.Blocks()) != 3 {
			t.Errorf("after EC2 answers again: %+v", got)
		}

		outside, err := eni.New(eni.Config{Client: eni.NewClient(w.config("", nil), fast)})
		w.check(err)
		if _, err := outside.Discover(t.Context()); !errors.Is(err, eni.ErrNoMetadata) {
			t.Errorf("without a metadata service: %v", err)
		}
	})(t)
}

// TestConcurrent requests more ENIs concurrently than there are places.
func TestConcurrent(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{Delays: enitest.Delays{Attach: time.Second, Call: 100 * time.Millisecond}})
		inst := w.run("m5.xlarge")
		m := w.manager(inst, eni.Config{})
		_, err := m.Discover(t.Context())
		w.check(err)
		var all sync.WaitGroup
		errs := make([]error, 6)
		for i := range errs {
			all.Go(func() { _, errs[i] = m.Provision(t.Context(), eni.ProvisionInput{Slots: 2}) })
		}
		all.Wait()
		refused := 0
		for _, err := range errs {
			if errors.Is(err, eni.ErrENILimit) {
				refused++
			} else if err != nil {
				t.Error(err)
			}
		}
		if got := w.Calls(); refused != 3 || got["CreateNetworkInterface"] != 3 || got["AttachNetworkInterface"] != 3 {
			t.Errorf("%d refused, calls %v", refused, got)
		}
	})(t)
}

// TestBranches fills a trunk with branches and empties it again.
func TestBranches(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		trunk := w.provision(m, eni.ProvisionInput{Kind: eni.KindTrunk})
		if trunk.Kind != eni.KindTrunk || trunk.ForPods() {
			t.Fatalf("trunk %+v", trunk)
		}
		var made []eni.Branch
		for range 9 {
			e, b, err := m.CreateBranch(t.Context(), eni.BranchInput{Trunk: trunk.ID})
			w.check(err)
			if !e.Addr.IsValid() || b.VLANID != len(made)+1 {
				t.Errorf("branch %+v, ENI %+v", b, e)
			}
			made = append(made, b)
		}
		if _, _, err := m.CreateBranch(t.Context(), eni.BranchInput{Trunk: trunk.ID}); !errors.Is(err, eni.ErrENILimit) {
			t.Errorf("tenth branch: %v, want ErrENILimit", err)
		}
		w.check(m.RetireBranch(t.Context(), made[3]))
		w.check(m.RetireBranch(t.Context(), made[3]))
		w.check(m.Resume(t.Context()))
		if _, ok := w.ENI(made[3].ENI); !ok {
			t.Error("the branch is deleted before the end of its cooldown")
		}
		if _, _, err := m.CreateBranch(t.Context(), eni.BranchInput{Trunk: trunk.ID}); !errors.Is(err, eni.ErrENILimit) {
			t.Errorf("branch beside a cooling one: %v, want ErrENILimit", err)
		}
		time.Sleep(time.Minute)
		w.check(m.Resume(t.Context()))
		_, b, err := m.CreateBranch(t.Context(), eni.BranchInput{Trunk: trunk.ID})
		w.check(err)
		if b.VLANID != made[3].VLANID {
			t.Errorf("VLAN ID %d, want %d, which is free", b.VLANID, made[3].VLANID)
		}
		branches, err := m.Branches(t.Context(), trunk.ID)
		w.check(err)
		if len(branches) != 9 {
			t.Errorf("%d branches, want 9", len(branches))
		}
		w.AddFault(enitest.Fault{Action: "AssociateTrunkInterface", Times: 1, Err: &enitest.APIError{Code: "InvalidParameterValue", Status: 400}})
		w.check(m.RetireBranch(t.Context(), b))
		time.Sleep(time.Minute)
		w.check(m.Resume(t.Context()))
		if _, _, err := m.CreateBranch(t.Context(), eni.BranchInput{Trunk: trunk.ID}); !errors.Is(err, eni.ErrInvalid) {
			t.Errorf("association refused: %v, want ErrInvalid", err)
		}
		if got := len(w.ENIs()); got != 1+1+8 {
			t.Errorf("%d ENIs, want 10 without the one that was not associated", got)
		}
	})(t)
}

// TestOwnENIs checks ENIs for single pods, whole ones and branches: they have the groups
// and the IPv6 address that were asked for, and no other pod gets addresses of them.
func TestOwnENIs(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		sg, err := w.AddSecurityGroup(w.vpc.ID, "pods", nil)
		w.check(err)
		group := sg.ID
		inst := w.run("m5.large")
		m := w.manager(inst, eni.Config{})
		trunk := w.provision(m, eni.ProvisionInput{Kind: eni.KindTrunk})
		branch, _, err := m.CreateBranch(t.Context(), eni.BranchInput{Trunk: trunk.ID, Groups: []string{group}, Addrs6: 1})
		w.check(err)
		whole := w.provision(m, eni.ProvisionInput{OnePod: true, Groups: []string{group}, Addrs6: 1})
		for _, e := range []eni.ENI{branch, whole} {
			if !slices.Equal(e.Groups, []string{group}) || !e.Addr.IsValid() || len(e.Addrs) != 1 || !e.Addrs[0].Is6() || e.ForPods() {
				t.Errorf("%s: groups %v, own address %v, addresses %v, for pods %v, want group %s and one address of each family for one pod", e.ID, e.Groups, e.Addr, e.Addrs, e.ForPods(), group)
			}
		}
		inv, err := m.Discover(t.Context())
		w.check(err)
		if e, ok := inv.ENI(whole.ID); !ok || e.ForPods() || !e.Managed {
			t.Errorf("after Discover: %+v, want a managed ENI of one pod", e)
		}
	})(t)
}
