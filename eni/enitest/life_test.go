// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestLife creates an ENI with the SDK, attaches it, assigns and unassigns
// addresses, reads its metadata, detaches and deletes it. It checks the events.
func TestLife(t *testing.T) {
	w := newWorld(t, setup{kind: "m5.large"})
	ctx := t.Context()
	var events []string
	w.OnChange(func(e enitest.Event) {
		s := string(e.Op)
		for _, p := range e.Changed {
			s += " " + p.String()
		}
		events = append(events, s)
	})

	created := must(w.ec2.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{
		SubnetId: &w.subnet.ID, Description: aws.String("node ENI"), SecondaryPrivateIpAddressCount: aws.Int32(2),
		TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeNetworkInterface,
			Tags:         []types.Tag{{Key: aws.String("owner"), Value: aws.String("test")}},
		}},
	}))(t).NetworkInterface
	id := *created.NetworkInterfaceId
	attached := must(w.ec2.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{
		NetworkInterfaceId: &id, InstanceId: &w.instance.ID, DeviceIndex: aws.Int32(1), NetworkCardIndex: aws.Int32(0),
	}))(t)
	must(w.ec2.ModifyNetworkInterfaceAttribute(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: &id,
		Attachment: &types.NetworkInterfaceAttachmentChanges{
			AttachmentId: attached.AttachmentId, DeleteOnTermination: aws.Bool(true),
		},
	}))(t)
	assigned := must(w.ec2.AssignPrivateIpAddresses(ctx, &ec2.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: &id, Ipv4PrefixCount: aws.Int32(1),
	}))(t)

	got := must(w.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{
		Filters: []types.Filter{
			{Name: aws.String("attachment.instance-id"), Values: []string{w.instance.ID}},
			{Name: aws.String("tag:owner"), Values: []string{"te*"}},
		},
	}))(t).NetworkInterfaces
	if len(got) != 1 || *got[0].NetworkInterfaceId != id {
		t.Fatalf("got %d ENIs, want %s", len(got), id)
	}
	e := got[0]
	if diff := cmp.Diff([]any{types.NetworkInterfaceStatusInUse, types.AttachmentStatusAttached, true, 3, "10.0.1.16/28"},
		[]any{e.Status, e.Attachment.Status, *e.Attachment.DeleteOnTermination, len(e.PrivateIpAddresses), *e.Ipv4Prefixes[0].Ipv4Prefix},
	); diff != "" {
		t.Errorf("describe (-want +got):\n%s", diff)
	}
	if *assigned.AssignedIpv4Prefixes[0].Ipv4Prefix != "10.0.1.16/28" {
		t.Errorf("got prefix %s, want 10.0.1.16/28", *assigned.AssignedIpv4Prefixes[0].Ipv4Prefix)
	}

	checkLifeMetadata(t, w, *e.MacAddress, id)

	must(w.ec2.UnassignPrivateIpAddresses(ctx, &ec2.UnassignPrivateIpAddressesInput{
		NetworkInterfaceId: &id, PrivateIpAddresses: []string{"10.0.1.6"},
	}))(t)
	_, err := w.ec2.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &id})
	wantCode(t, err, "InvalidParameterValue")
	must(w.ec2.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: attached.AttachmentId}))(t)
	must(w.ec2.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &id}))(t)
	_, err = w.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{id}})
	wantCode(t, err, "InvalidNetworkInterfaceID.NotFound")

	want := []string{"attached", "assigned 10.0.1.16/28", "unassigned 10.0.1.6/32", "detached"}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if s, _ := w.Subnet(w.subnet.ID); s.Free != w.subnet.Free-1 {
		t.Errorf("got %d free addresses, want %d", s.Free, w.subnet.Free-1)
	}
	if n := w.Calls()["DescribeNetworkInterfaces"]; n != 2 {
		t.Errorf("got %d describes, want 2", n)
	}
}

// checkLifeMetadata checks the metadata of the ENI of TestLife.
func checkLifeMetadata(t *testing.T, w *world, mac, id string) {
	t.Helper()
	mac = "network/interfaces/macs/" + mac + "/"
	for path, want := range map[string]string{
		"instance-id":                 w.instance.ID,
		"instance-type":               "m5.large",
		mac + "interface-id":          id,
		mac + "device-number":         "1",
		mac + "local-ipv4s":           "10.0.1.5\n10.0.1.6\n10.0.1.7",
		mac + "ipv4-prefix":           "10.0.1.16/28",
		mac + "subnet-id":             w.subnet.ID,
		mac + "vpc-id":                w.vpc.ID,
		mac + "network-card":          "404",
		mac + "ipv6s":                 "404",
		"placement/availability-zone": "us-west-2a",
	} {
		if got := metadata(t, w.imds, path); got != want {
			t.Errorf("metadata %s: got %q, want %q", path, got, want)
		}
	}
}

// metadata reads a key. It returns "404" if the key does not exist.
func metadata(t *testing.T, c *imds.Client, path string) string {
	t.Helper()
	out, err := c.GetMetadata(t.Context(), &imds.GetMetadataInput{Path: path})
	if err != nil {
		if strings.Contains(err.Error(), "StatusCode: 404") {
			return "404"
		}
		t.Fatal(err)
	}
	text := must(io.ReadAll(out.Content))(t)
	return string(text)
}

// TestListener reads from EC2 and from metadata over real sockets.
func TestListener(t *testing.T) {
	w := newWorld(t, setup{})
	srv := must(w.Listen(t.Context(), ""))(t)
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	client := ec2.New(ec2.Options{
		Region: "us-west-2", BaseEndpoint: &srv.EC2URL, Credentials: aws.AnonymousCredentials{},
	})
	got := must(client.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{}))(t)
	i := got.Reservations[0].Instances[0]
	if *i.InstanceId != w.instance.ID || *i.PrivateIpAddress != "10.0.1.4" || i.PublicIpAddress == nil {
		t.Errorf("got instance %v with addresses %v and %v, want %s with 10.0.1.4 and a public address",
			*i.InstanceId, *i.PrivateIpAddress, i.PublicIpAddress, w.instance.ID)
	}
	url := must(srv.IMDSURL(t.Context(), w.instance.ID))(t)
	meta := imds.New(imds.Options{Endpoint: url})
	if got := metadata(t, meta, "local-ipv4"); got != "10.0.1.4" {
		t.Errorf("got local-ipv4 %q, want 10.0.1.4", got)
	}
	if a := netip.MustParseAddr(metadata(t, meta, "public-ipv4")); a.String() != *i.PublicIpAddress {
		t.Errorf("got public-ipv4 %v, want %v", a, *i.PublicIpAddress)
	}
}
