// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestAddVPCPrefix checks that DescribeVpcs shows an added block, that the block
// can have subnets, and that unsuitable blocks are refused.
func TestAddVPCPrefix(t *testing.T) {
	w := newWorld(t, setup{})
	added := netip.MustParsePrefix("100.64.0.0/16")
	if err := w.AddVPCPrefix(w.vpc.ID, added); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []struct{ vpc, prefix string }{
		{w.vpc.ID, "100.64.1.0/24"}, {w.vpc.ID, "10.0.0.0/8"}, {w.vpc.ID, "10.9.0.1/16"}, {"vpc-none", "10.9.0.0/16"},
	} {
		if err := w.AddVPCPrefix(bad.vpc, netip.MustParsePrefix(bad.prefix)); err == nil {
			t.Errorf("%s was added to %s, want an error", bad.prefix, bad.vpc)
		}
	}
	out := must(w.ec2.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{VpcIds: []string{w.vpc.ID}}))(t)
	if got := out.Vpcs[0].CidrBlockAssociationSet; len(got) != 2 || *got[1].CidrBlock != added.String() {
		t.Errorf("DescribeVpcs shows %v, want two blocks, the second %v", got, added)
	}
	if _, err := w.AddSubnet(enitest.SubnetInput{VPC: w.vpc.ID, Prefix: netip.MustParsePrefix("100.64.7.0/24")}); err != nil {
		t.Error(err)
	}
}
