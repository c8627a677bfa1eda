// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestNetworkEvents checks which events calls on attributes and on the network cause.
func TestNetworkEvents(t *testing.T) {
	w := newWorld(t, setup{kind: "m5.large"})
	var events []string
	w.OnChange(func(e enitest.Event) {
		s := string(e.Op)
		if e.Op == enitest.Modified {
			s += " " + e.ENI.ID
		}
		events = append(events, s)
	})
	eni := w.ENIs()[0].ID
	check := func(name string, err error, want ...string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, events); diff != "" {
			t.Errorf("events of %s (-want +got):\n%s", name, diff)
		}
		events = nil
	}
	modify := func(in ec2.ModifyNetworkInterfaceAttributeInput) error {
		in.NetworkInterfaceId = &eni
		_, err := w.ec2.ModifyNetworkInterfaceAttribute(t.Context(), &in)
		return err
	}
	off := &types.AttributeBooleanValue{Value: aws.Bool(false)}
	check("check off", modify(ec2.ModifyNetworkInterfaceAttributeInput{SourceDestCheck: off}), "modified "+eni)
	check("check off again", modify(ec2.ModifyNetworkInterfaceAttributeInput{SourceDestCheck: off}))
	check("description", modify(ec2.ModifyNetworkInterfaceAttributeInput{Description: &types.AttributeValue{Value: aws.String("x")}}))
	created, err := w.ec2.CreateSecurityGroup(t.Context(), &ec2.CreateSecurityGroupInput{
		GroupName: aws.String("g"), Description: aws.String("g"), VpcId: &w.vpc.ID,
	})
	check("group", err, "network-changed")
	check("groups", modify(ec2.ModifyNetworkInterfaceAttributeInput{Groups: []string{*created.GroupId}}), "modified "+eni)
	_, err = w.ec2.CreateRoute(t.Context(), &ec2.CreateRouteInput{
		RouteTableId: &w.RouteTables()[0].ID, DestinationCidrBlock: aws.String("100.64.0.0/16"), NetworkInterfaceId: &eni,
	})
	check("route", err, "network-changed")
	check("rule", w.AddGroupRules(*created.GroupId, enitest.GroupRule{Protocol: "tcp", From: 22, To: 22, Prefix: netip.MustParsePrefix("10.0.0.0/8")}), "network-changed")
	if err := w.AddGroupRules("sg-0", enitest.GroupRule{}); err == nil {
		t.Error("a rule for an unknown group: no error")
	}
	check("block", w.AddVPCPrefix(w.vpc.ID, netip.MustParsePrefix("100.65.0.0/16")), "network-changed")
}

// TestIPv6Defaults checks that the default group and the default ACL allow IPv6 as soon
// as the VPC has an IPv6 block.
func TestIPv6Defaults(t *testing.T) {
	cloud := enitest.New(enitest.Config{})
	v, err := cloud.AddVPC(enitest.VPCInput{})
	if err != nil {
		t.Fatal(err)
	}
	count := func() (rules, entries int) {
		all := netip.MustParsePrefix("::/0")
		for _, g := range cloud.SecurityGroups() {
			for _, r := range g.Rules {
				if r.Prefix == all && r.Egress {
					rules++
				}
			}
		}
		for _, e := range cloud.NetworkACLs()[0].Entries {
			if e.Prefix == all && e.Allow {
				entries++
			}
		}
		return rules, entries
	}
	if rules, entries := count(); rules != 0 || entries != 0 {
		t.Errorf("without IPv6: %d rules and %d entries, want none", rules, entries)
	}
	for _, s := range []string{"2001:db8:1::/56", "2001:db8:2::/56"} {
		if err := cloud.AddVPCPrefix(v.ID, netip.MustParsePrefix(s)); err != nil {
			t.Fatal(err)
		}
		if rules, entries := count(); rules != 1 || entries != 2 {
			t.Errorf("with %s: %d rules and %d entries, want 1 and 2", s, rules, entries)
		}
	}
	if !slices.Contains(cloud.VPCs()[0].IPv6, netip.MustParsePrefix("2001:db8:2::/56")) {
		t.Error("the VPC has no second IPv6 block")
	}
}
