// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestInstanceLife runs an instance and terminates it. Its ENIs with
// delete-on-termination are deleted with it, the others become available.
func TestInstanceLife(t *testing.T) {
	delays := enitest.Delays{Start: 20 * time.Second, Terminate: 40 * time.Second}
	bubble(t, setup{config: enitest.Config{Delays: delays}}, func(t *testing.T, w *world) {
		free := w.Subnets()[0].Free
		var events []enitest.Op
		w.OnChange(func(e enitest.Event) { events = append(events, e.Op) })
		out := must(w.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{
			ImageId: aws.String("ami-1"), InstanceType: types.InstanceTypeM5Large, MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
			SubnetId: &w.subnet.ID, TagSpecifications: []types.TagSpecification{{
				ResourceType: types.ResourceTypeInstance, Tags: []types.Tag{{Key: aws.String("Name"), Value: aws.String("node")}},
			}},
		}))(t)
		w.instance.ID = *out.Instances[0].InstanceId
		stays, deleted := w.create(t), w.create(t)
		w.attach(t, stays, 1)
		attachment := w.attach(t, deleted, 2)
		must(w.ec2.ModifyNetworkInterfaceAttribute(t.Context(), &ec2.ModifyNetworkInterfaceAttributeInput{
			NetworkInterfaceId: &deleted,
			Attachment:         &types.NetworkInterfaceAttachmentChanges{AttachmentId: &attachment, DeleteOnTermination: aws.Bool(true)},
		}))(t)
		state := func() string {
			i := must(w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{
				Filters: []types.Filter{{Name: aws.String("tag:Name"), Values: []string{"node"}}},
			}))(t)
			if len(i.Reservations) == 0 {
				return "gone"
			}
			s := string(i.Reservations[0].Instances[0].State.Name)
			for _, id := range []string{stays, deleted} {
				if e, ok := w.ENI(id); ok {
					s += " " + e.Status(time.Now())
				} else {
					s += " deleted"
				}
			}
			return s
		}
		got := []string{state()}
		wait := func(d time.Duration) {
			time.Sleep(d)
			got = append(got, state())
		}
		wait(20 * time.Second)
		must(w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{w.instance.ID}}))(t)
		wait(0)
		wait(40 * time.Second)
		if now := w.Subnets()[0].Free; now != free-1 {
			t.Errorf("got %d free addresses, want %d", now, free-1)
		}
		wait(2 * time.Hour)
		want := []string{
			"pending in-use in-use", "running in-use in-use", "shutting-down detaching detaching",
			"terminated available deleted", "gone",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
		wantEvents := []enitest.Op{"attached", "attached", "attached", "detached", "detached", "detached"}
		if diff := cmp.Diff(wantEvents, events); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// TestRunTooMany checks that RunInstances starts as many instances as the subnet
// has addresses for, and none if they are fewer than MinCount.
func TestRunTooMany(t *testing.T) {
	w := newWorld(t, setup{prefix: "10.0.1.0/28"})
	run := func(least, most int32) (int, error) {
		out, err := w.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{
			ImageId: aws.String("ami-1"), InstanceType: types.InstanceTypeM5Large, SubnetId: &w.subnet.ID, MinCount: &least, MaxCount: &most,
		})
		if err != nil {
			return 0, err
		}
		return len(out.Instances), nil
	}
	_, err := run(11, 20)
	wantCode(t, err, "InsufficientFreeAddressesInSubnet")
	if n := len(w.Instances()); n != 1 {
		t.Errorf("got %d instances after a refused call, want 1", n)
	}
	if n, err := run(2, 20); n != 10 || err != nil {
		t.Errorf("got %d instances and error %v, want 10", n, err)
	}
	checkInvariants(t, w.Cloud)
}

// TestReassign checks that a call with AllowReassignment moves a secondary address
// to another ENI, and that a call without it is refused.
func TestReassign(t *testing.T) {
	w := newWorld(t, setup{})
	a, b := w.create(t), w.create(t)
	in := &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &a, PrivateIpAddresses: []string{"10.0.1.77"}}
	must(w.ec2.AssignPrivateIpAddresses(t.Context(), in))(t)
	in.NetworkInterfaceId = &b
	_, err := w.ec2.AssignPrivateIpAddresses(t.Context(), in)
	wantCode(t, err, "InvalidIPAddress.InUse")
	in.AllowReassignment = aws.Bool(true)
	must(w.ec2.AssignPrivateIpAddresses(t.Context(), in))(t)
	from, _ := w.ENI(a)
	to, _ := w.ENI(b)
	if len(from.Addrs) != 0 || len(to.Addrs) != 1 {
		t.Errorf("got %v and %v, want the address to have moved", from.Addrs, to.Addrs)
	}
	checkInvariants(t, w.Cloud)
}
