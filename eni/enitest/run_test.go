// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

func tagSpec(kind types.ResourceType, key string) types.TagSpecification {
	return types.TagSpecification{ResourceType: kind, Tags: []types.Tag{{Key: &key, Value: aws.String("v")}}}
}

// TestRunInstances runs two instances in one call and checks their reservation,
// their IPv6 address, their security group, and the tags of each type of resource.
func TestRunInstances(t *testing.T) {
	w := newWorld(t, setup{ipv6: true})
	g := must(w.AddSecurityGroup(w.vpc.ID, "nodes", nil))(t)
	out := must(w.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{
		ImageId: aws.String("ami-1"), InstanceType: types.InstanceTypeM5Large, MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		SubnetId: &w.subnet.ID, SecurityGroups: []string{"nodes"}, EnablePrimaryIpv6: aws.Bool(true),
		Ipv6Addresses: []types.InstanceIpv6Address{{Ipv6Address: aws.String("2001:db8:1:2::7")}},
		TagSpecifications: []types.TagSpecification{
			tagSpec(types.ResourceTypeInstance, "i"), tagSpec(types.ResourceTypeNetworkInterface, "n"), tagSpec(types.ResourceTypeVolume, "v"),
		},
	}))(t)
	i := out.Instances[0]
	e := w.describe(t, *i.NetworkInterfaces[0].NetworkInterfaceId)
	a := e.Ipv6Addresses[0]
	got := []any{*i.Tags[0].Key, len(i.Tags), *e.TagSet[0].Key, len(e.TagSet), *e.Groups[0].GroupId, *a.Ipv6Address, *a.IsPrimaryIpv6}
	if diff := cmp.Diff([]any{"i", 1, "n", 1, g.ID, "2001:db8:1:2::7", true}, got); diff != "" {
		t.Errorf("instance (-want +got):\n%s", diff)
	}
	two := must(w.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{
		ImageId: aws.String("ami-1"), MinCount: aws.Int32(2), MaxCount: aws.Int32(2), SubnetId: &w.subnet.ID,
	}))(t)
	shown := must(w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{
		Filters: []types.Filter{{Name: aws.String("reservation-id"), Values: []string{*two.ReservationId}}},
	}))(t)
	if len(shown.Reservations) != 1 || len(shown.Reservations[0].Instances) != 2 {
		t.Errorf("got %d reservations, want one with two instances", len(shown.Reservations))
	}
}

// TestTagDenied checks that a caller without the permission for CreateTags can
// create resources only without tags.
func TestTagDenied(t *testing.T) {
	w := newWorld(t, setup{})
	w.Deny("", "CreateTags")
	in := &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet.ID}
	must(w.ec2.CreateNetworkInterface(t.Context(), in))(t)
	in.TagSpecifications = []types.TagSpecification{tagSpec(types.ResourceTypeNetworkInterface, "a")}
	_, err := w.ec2.CreateNetworkInterface(t.Context(), in)
	wantCode(t, err, "UnauthorizedOperation")
	if err != nil && !strings.Contains(err.Error(), "ec2:CreateTags") {
		t.Errorf("got error %v, want ec2:CreateTags in it", err)
	}
}

// TestModifyAttributes changes each attribute of an ENI that has no state of its
// own in a Cloud, and those of its addresses.
func TestModifyAttributes(t *testing.T) {
	s := newStage(t)
	modify := func(in ec2.ModifyNetworkInterfaceAttributeInput) error {
		in.NetworkInterfaceId = &s.second
		_, err := s.ec2.ModifyNetworkInterfaceAttribute(t.Context(), &in)
		return err
	}
	for _, in := range []ec2.ModifyNetworkInterfaceAttributeInput{
		{EnablePrimaryIpv6: aws.Bool(true)},
		{AssociatePublicIpAddress: aws.Bool(true)},
		{EnaSrdSpecification: &types.EnaSrdSpecification{EnaSrdEnabled: aws.Bool(true)}},
		{AssociatedSubnetIds: []string{s.subnet.ID}},
		{Attachment: &types.NetworkInterfaceAttachmentChanges{AttachmentId: &s.secondAttachment, EnaQueueCount: aws.Int32(2)}},
		{Attachment: &types.NetworkInterfaceAttachmentChanges{AttachmentId: &s.secondAttachment, DefaultEnaQueueCount: aws.Bool(true)}},
	} {
		if err := modify(in); err != nil {
			t.Errorf("modify %+v: %v", in, err)
		}
	}
	e := s.world.describe(t, s.second)
	if !*e.Ipv6Addresses[0].IsPrimaryIpv6 || e.Association == nil {
		t.Errorf("got primary IPv6 %v and association %v, want true and a public address", *e.Ipv6Addresses[0].IsPrimaryIpv6, e.Association)
	}
	wantCode(t, modify(ec2.ModifyNetworkInterfaceAttributeInput{EnablePrimaryIpv6: aws.Bool(false)}), "InvalidParameterCombination")
}

// TestAuditSize checks that the audit log holds the last calls and that the counts
// hold all.
func TestAuditSize(t *testing.T) {
	w := newWorld(t, setup{config: enitest.Config{AuditSize: 3}})
	for n := range 20 {
		_ = must(w.ec2.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{Filters: []types.Filter{
			{Name: aws.String("vpc-id"), Values: []string{fmt.Sprint(n)}},
		}}))(t)
	}
	var got []string
	for _, call := range w.Audit() {
		got = append(got, call.Parameters.Get("Filter.1.Value.1"))
	}
	if diff := cmp.Diff([]string{"17", "18", "19"}, got); diff != "" || w.Calls()["DescribeVpcs"] != 20 {
		t.Errorf("got %d calls counted, want 20; audit log (-want +got):\n%s", w.Calls()["DescribeVpcs"], diff)
	}
}

// TestUnknownTargets checks that faults and denials of what does not exist panic.
func TestUnknownTargets(t *testing.T) {
	c := enitest.New(enitest.Config{})
	for action, ok := range map[string]bool{
		"DescribeVpcs": true, "*": true, "[AD]*Network*": true, "meta-data/mac": true, "meta-data/*": true, "api/token": true, "*/mac": true,
		"DescribeNetworkInterface": false, "describe*": false, "[": false, "metadata/mac": false, "": false, "/latest/meta-data/mac": false,
	} {
		if err := (enitest.Fault{Action: action}).Check(); (err == nil) != ok {
			t.Errorf("fault for %q: got error %v, want none: %v", action, err, ok)
		}
	}
	for name, f := range map[string]func(){
		"fault":  func() { c.AddFault(enitest.Fault{Action: "DescribeVPCs"}) },
		"denial": func() { c.Deny("", "DescribeVPCs") },
	} {
		func() {
			defer func() {
				if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), `"DescribeVPCs" matches no action`) {
					t.Errorf("%s: got panic %v", name, p)
				}
			}()
			f()
		}()
	}
}

// TestSelfUnderLag checks that a new instance finds itself and its primary ENI over
// the API and in metadata whatever the lag, and that other callers do not.
func TestSelfUnderLag(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		time.Sleep(time.Hour)
		w.SetLag(enitest.Lag{Describe: time.Minute, Metadata: time.Minute})
		i := w.runInstance(t, "m5.large")
		client, imds := w.clients(i.ID)
		self := func(o *ec2.Options) {
			o.Credentials = credentials.NewStaticCredentialsProvider("ASIA"+strings.ToUpper(i.ID[2:]), "secret", "token")
		}
		in := &ec2.DescribeInstancesInput{InstanceIds: []string{i.ID}}
		out := must(client.DescribeInstances(t.Context(), in, self))(t)
		if n := len(out.Reservations[0].Instances[0].NetworkInterfaces); n != 1 {
			t.Errorf("the instance shows itself with %d ENIs, want 1", n)
		}
		enis := must(client.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{Filters: []types.Filter{
			{Name: aws.String("attachment.instance-id"), Values: []string{i.ID}},
		}}, self))(t)
		if n := len(enis.NetworkInterfaces); n != 1 {
			t.Errorf("the instance sees %d ENIs of its own, want 1", n)
		}
		mac := metadata(t, imds, "mac")
		if got := metadata(t, imds, "network/interfaces/macs/"); got != mac+"/" {
			t.Errorf("got MACs %q, want %q", got, mac+"/")
		}
		if got := metadata(t, imds, "network/interfaces/macs/"+mac+"/device-number"); got != "0" {
			t.Errorf("got device number %q, want 0", got)
		}
		_, err := client.DescribeInstances(t.Context(), in)
		wantCode(t, err, "InvalidInstanceID.NotFound")
	})
}
