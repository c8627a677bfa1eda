// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestSetPlacement checks that ENIs are created in the subnets and with the groups of the
// latest placement, that a listing of subnets serves as long as the query stays the same,
// and that existing ENIs stay in their subnets and get the groups by Reconcile.
func TestSetPlacement(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		second, third := w.addSubnet("10.0.2.0/24", "", nil), w.addSubnet("10.0.3.0/24", "", nil)
		group, err := w.AddSecurityGroup(w.vpc.ID, "pods", nil)
		w.check(err)
		m := w.manager(w.run("m5.4xlarge"), eni.Config{Subnets: eni.SubnetsByID{second.ID}})
		create := func(subnet string, groups []string) {
			t.Helper()
			e := w.provision(m, eni.ProvisionInput{Slots: 1})
			if e.SubnetID != subnet || !slices.Equal(e.Groups, groups) {
				t.Errorf("an ENI in %s with the groups %v, want %s and %v", e.SubnetID, e.Groups, subnet, groups)
			}
		}
		node := w.primary(w.Instances()[0]).Groups
		create(second.ID, node)
		create(second.ID, node)
		m.SetPlacement(eni.SubnetsByID{third.ID}, eni.FixedGroups{group.ID})
		create(third.ID, []string{group.ID})
		create(third.ID, []string{group.ID})
		if n := w.Calls()["DescribeSubnets"]; n != 2 {
			t.Errorf("%d calls of DescribeSubnets, want one for each query", n)
		}
		if n, err := m.Reconcile(t.Context()); n != 2 || err != nil {
			t.Errorf("Reconcile = %d, %v, want the groups of the 2 earlier ENIs changed", n, err)
		}
		for _, e := range m.Inventory().ENIs[1:] {
			if !slices.Equal(e.Groups, []string{group.ID}) {
				t.Errorf("%s has the groups %v, want %s", e.ID, e.Groups, group.ID)
			}
		}
		m.SetPlacement(nil, nil)
		create(w.subnet.ID, node)
	})(t)
}

// TestSetMaxENIs checks that a maximum holds from the next ENI on, and that ENIs beyond it
// stay.
func TestSetMaxENIs(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{MaxENIs: 1})
		if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1}); !errors.Is(err, eni.ErrENILimit) {
			t.Errorf("Provision with a maximum of 1: %v, want %v", err, eni.ErrENILimit)
		}
		m.SetMaxENIs(2)
		w.provision(m, eni.ProvisionInput{Slots: 1})
		m.SetMaxENIs(1)
		if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1}); !errors.Is(err, eni.ErrENILimit) {
			t.Errorf("Provision with a maximum of 1: %v, want %v", err, eni.ErrENILimit)
		}
		if n := len(w.ENIs()); n != 2 {
			t.Errorf("%d ENIs, want 2", n)
		}
	})(t)
}

// TestCheckPlacement checks which subnets and groups are refused, and why.
func TestCheckPlacement(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		second := w.addSubnet("10.0.2.0/24", "", map[string]string{eni.TagSubnetRole: "1"})
		far, err := w.AddSubnet(enitest.SubnetInput{VPC: w.vpc.ID, Prefix: netip.MustParsePrefix("10.0.9.0/24"), Zone: "us-west-2b"})
		w.check(err)
		other, err := w.AddVPC(enitest.VPCInput{Prefixes: w.vpc.Prefixes[:1]})
		w.check(err)
		own, err := w.AddSecurityGroup(w.vpc.ID, "pods", nil)
		w.check(err)
		foreign, err := w.AddSecurityGroup(other.ID, "pods", nil)
		w.check(err)
		inst := w.run("m5.large")
		for _, c := range []struct {
			name    string
			subnets eni.SubnetSelector
			groups  eni.GroupSelector
			want    string // part of the error; empty means none
			calls   int
		}{
			{"defaults", nil, nil, "", 0},
			{"subnet and group", eni.SubnetsByID{second.ID}, eni.FixedGroups{own.ID}, "", 2},
			{"subnet by tag", eni.SubnetsByTag{}, nil, "", 1},
			{"missing subnet", eni.SubnetsByID{"subnet-0123456789abcdef0"}, nil, "none of 0 subnets", 1},
			{"subnet of another zone", eni.SubnetsByID{far.ID}, nil, "none of 0 subnets", 1},
			{"missing group", nil, eni.FixedGroups{own.ID, "sg-0123456789abcdef0"}, "sg-0123456789abcdef0 does not exist", 1},
			{"group of another VPC", nil, eni.FixedGroups{foreign.ID}, foreign.ID + " is of " + other.ID, 1},
			{"group by name", nil, eni.FixedGroups{"pods"}, "not an ID", 0},
		} {
			m := w.manager(inst, eni.Config{})
			if _, err := m.Discover(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.ResetCalls()
			err := m.CheckPlacement(t.Context(), c.subnets, c.groups)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			calls := w.Calls()
			if n := calls["DescribeSubnets"] + calls["DescribeSecurityGroups"]; n != c.calls || len(calls) > n {
				t.Errorf("%s: calls %v, want %d that describe subnets and groups", c.name, calls, c.calls)
			}
		}
	})(t)
}

// TestCheckPlacementDenied checks that groups are refused that cannot be checked.
func TestCheckPlacementDenied(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		group, err := w.AddSecurityGroup(w.vpc.ID, "pods", nil)
		w.check(err)
		m := w.manager(w.run("m5.large"), eni.Config{})
		w.AddFault(enitest.Fault{Action: "DescribeSecurityGroups", Err: &enitest.APIError{Code: "UnauthorizedOperation"}})
		if err := m.CheckPlacement(t.Context(), nil, eni.FixedGroups{group.ID}); !errors.Is(err, eni.ErrUnauthorized) {
			t.Errorf("CheckPlacement without the permission: %v, want %v", err, eni.ErrUnauthorized)
		}
	})(t)
}
