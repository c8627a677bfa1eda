// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// BenchmarkNew creates a cloud with one instance.
func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		small()
	}
}

// BenchmarkAssign assigns and unassigns an address through the SDK.
func BenchmarkAssign(b *testing.B) {
	cloud, _, client := small()
	id := cloud.ENIs()[0].ID
	b.ReportAllocs()
	for b.Loop() {
		out, err := client.AssignPrivateIpAddresses(b.Context(), &ec2.AssignPrivateIpAddressesInput{
			NetworkInterfaceId: &id, SecondaryPrivateIpAddressCount: aws.Int32(1),
		})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := client.UnassignPrivateIpAddresses(b.Context(), &ec2.UnassignPrivateIpAddressesInput{
			NetworkInterfaceId: &id, PrivateIpAddresses: []string{*out.AssignedPrivateIpAddresses[0].PrivateIpAddress},
		}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMetadata reads one key through the SDK.
func BenchmarkMetadata(b *testing.B) {
	cloud, node, _ := small()
	_, client := (&world{Cloud: cloud}).clients(node.ID)
	b.ReportAllocs()
	for b.Loop() {
		out, err := client.GetMetadata(b.Context(), &imds.GetMetadataInput{Path: "network/interfaces/macs/"})
		if err != nil {
			b.Fatal(err)
		}
		if err := out.Content.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDescribeOne describes one ENI out of 2000.
func BenchmarkDescribeOne(b *testing.B) {
	cloud, _, client := small()
	vpc := cloud.VPCs()[0]
	subnet, err := cloud.AddSubnet(enitest.SubnetInput{VPC: vpc.ID, Prefix: netip.MustParsePrefix("10.0.16.0/20")})
	if err != nil {
		b.Fatal(err)
	}
	for range 2000 {
		if _, err := cloud.RunInstance(enitest.InstanceInput{Subnet: subnet.ID}); err != nil {
			b.Fatal(err)
		}
	}
	id := cloud.ENIs()[0].ID
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.DescribeNetworkInterfaces(b.Context(), &ec2.DescribeNetworkInterfacesInput{
			NetworkInterfaceIds: []string{id},
		}); err != nil {
			b.Fatal(err)
		}
	}
}
