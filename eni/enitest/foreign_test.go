// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestForeignENIs checks how the ENIs of services look over the API, that calls to
// change them are refused, and that a dump contains them.
func TestForeignENIs(t *testing.T) {
	w := newWorld(t, setup{})
	for service, want := range map[enitest.Service][]string{
		enitest.ControlPlane:            {"interface", "098765432109", "Amazon EKS test"},
		enitest.ApplicationLoadBalancer: {"interface", "amazon-elb", "ELB app/test/"},
		enitest.NetworkLoadBalancer:     {"network_load_balancer", "amazon-aws", "ELB net/test/"},
		enitest.NATGateway:              {"nat_gateway", "amazon-aws", "Interface for NAT Gateway nat-"},
		enitest.VPCEndpoint:             {"vpc_endpoint", "amazon-aws", "VPC Endpoint Interface vpce-"},
	} {
		e := must(w.AddForeignENI(enitest.ForeignENIInput{Subnet: w.subnet.ID, Service: service}))(t)
		d := w.describe(t, e.ID)
		text := *d.Description
		got := []string{string(d.InterfaceType), *d.Attachment.InstanceOwnerId, text[:min(len(text), len(want[2]))]}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", service, diff)
		}
		if !*d.RequesterManaged || d.Attachment.InstanceId != nil || d.Status != types.NetworkInterfaceStatusInUse {
			t.Errorf("%s: got requester-managed %v, instance %v, status %s, want true, none, in-use",
				service, *d.RequesterManaged, d.Attachment.InstanceId, d.Status)
		}
		_, err := w.ec2.DeleteNetworkInterface(t.Context(), &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &e.ID})
		wantCode(t, err, "InvalidParameterValue")
		_, err = w.ec2.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
			NetworkInterfaceId: &e.ID, SecondaryPrivateIpAddressCount: aws.Int32(1),
		})
		wantCode(t, err, "AuthFailure")
		_, err = w.ec2.DetachNetworkInterface(t.Context(), &ec2.DetachNetworkInterfaceInput{AttachmentId: &e.Attachment.ID})
		if got := codeOf(err); got != "AuthFailure" && got != "OperationNotPermitted" {
			t.Errorf("%s: detach: got error %v", service, err)
		}
		must(w.ec2.CreateTags(t.Context(), &ec2.CreateTagsInput{
			Resources: []string{e.ID}, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}},
		}))(t)
	}
	if _, err := w.AddForeignENI(enitest.ForeignENIInput{Subnet: w.subnet.ID, Service: "mail"}); err == nil {
		t.Error("an unknown service has an ENI, want an error")
	}
	out := must(w.ec2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{
		Filters: []types.Filter{{Name: aws.String("requester-managed"), Values: []string{"true"}}},
	}))(t)
	if n := len(out.NetworkInterfaces); n != 5 {
		t.Errorf("got %d requester-managed ENIs, want 5", n)
	}
	roundTrip(t, w.Cloud)
}

// TestOperator checks that an instance of EKS Auto Mode and its primary ENI name
// their operator.
func TestOperator(t *testing.T) {
	w := newWorld(t, setup{})
	ordinary := primaryOf(w.Cloud)
	i := must(w.RunInstance(enitest.InstanceInput{Subnet: w.subnet.ID, Operator: "eks.amazonaws.com"}))(t)
	out := must(w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{i.ID}}))(t)
	if o := out.Reservations[0].Instances[0].Operator; !*o.Managed || *o.Principal != "eks.amazonaws.com" {
		t.Errorf("instance: got operator %v, want eks.amazonaws.com", o)
	}
	enis := must(w.ec2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{
		Filters: []types.Filter{{Name: aws.String("operator.principal"), Values: []string{"eks.*"}}},
	}))(t)
	if len(enis.NetworkInterfaces) != 1 || !*enis.NetworkInterfaces[0].Operator.Managed {
		t.Errorf("got %d ENIs of the operator, want 1", len(enis.NetworkInterfaces))
	}
	if o := w.describe(t, ordinary).Operator; *o.Managed {
		t.Errorf("the ENI of an ordinary instance has operator %v", o)
	}
	roundTrip(t, w.Cloud)
}
