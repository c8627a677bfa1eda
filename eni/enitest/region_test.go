// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestRegions checks the names that depend on the region: zones, zone IDs, DNS
// names and the partition.
func TestRegions(t *testing.T) {
	for _, tt := range []struct {
		region, zone, zoneID, private, domain, partition string
		zones                                            int
	}{
		{"us-west-2", "us-west-2a", "usw2-az1", "ip-10-0-1-4.us-west-2.compute.internal", "amazonaws.com", "aws", 4},
		{"us-east-1", "us-east-1a", "use1-az1", "ip-10-0-1-4.ec2.internal", "amazonaws.com", "aws", 6},
		{"ap-southeast-2", "ap-southeast-2a", "apse2-az1", "ip-10-0-1-4.ap-southeast-2.compute.internal", "amazonaws.com", "aws", 3},
		{"us-gov-west-1", "us-gov-west-1a", "usgw1-az1", "ip-10-0-1-4.us-gov-west-1.compute.internal", "amazonaws.com", "aws-us-gov", 3},
		{"cn-north-1", "cn-north-1a", "cnn1-az1", "ip-10-0-1-4.cn-north-1.compute.internal", "amazonaws.com.cn", "aws-cn", 3},
		{"eu-central-1", "eu-central-1a", "euc1-az1", "ip-10-0-1-4.eu-central-1.compute.internal", "amazonaws.com", "aws", 3},
	} {
		w := newWorld(t, setup{config: enitest.Config{Region: tt.region}})
		out := must(w.ec2.DescribeAvailabilityZones(t.Context(), &ec2.DescribeAvailabilityZonesInput{}))(t)
		z, i := out.AvailabilityZones[0], w.describe(t, primaryOf(w.Cloud))
		got := []any{*z.ZoneName, *z.ZoneId, *i.PrivateDnsName, metadata(t, w.imds, "services/domain"), metadata(t, w.imds, "services/partition"), len(out.AvailabilityZones)}
		if diff := cmp.Diff([]any{tt.zone, tt.zoneID, tt.private, tt.domain, tt.partition, tt.zones}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.region, diff)
		}
	}
}

// TestZones adds subnets to zones by name and by ID.
func TestZones(t *testing.T) {
	w := newWorld(t, setup{})
	for i, tt := range []struct{ zone, want string }{
		{"", "us-west-2a"}, {"us-west-2c", "us-west-2c"}, {"usw2-az2", "us-west-2b"}, {"us-west-2-lax-1a", "us-west-2-lax-1a"},
		{"us-east-1a", ""}, {"nowhere", ""},
	} {
		s, err := w.AddSubnet(enitest.SubnetInput{
			VPC: w.vpc.ID, Zone: tt.zone, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(10 + i)}), 24),
		})
		if s.Zone != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("zone %q: got a subnet in %q and error %v, want zone %q", tt.zone, s.Zone, err, tt.want)
		}
	}
	out := must(w.ec2.DescribeAvailabilityZones(t.Context(), &ec2.DescribeAvailabilityZonesInput{ZoneNames: []string{"us-west-2-lax-1a"}}))(t)
	if got := *out.AvailabilityZones[0].ZoneId; got != "usw2-lax1-az1" {
		t.Errorf("got zone ID %s for us-west-2-lax-1a, want usw2-lax1-az1", got)
	}
}
