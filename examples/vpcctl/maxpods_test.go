// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// vpcctl runs a command line and returns its exit status and output.
func vpcctl(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	var out, stderr bytes.Buffer
	code := run(t.Context(), stdio{in: strings.NewReader(""), out: &out, err: &stderr}, args)
	return code, out.String(), stderr.String()
}

func TestMaxPods(t *testing.T) {
	cloud := enitest.New(enitest.Config{Types: []enitest.InstanceType{
		{Name: "x9.large", ENIs: []int{4, 2}, IPv4PerENI: 12, IPv6PerENI: 12, Hypervisor: "nitro"},
	}})
	serve(t, cloud)
	for _, c := range []struct {
		args []string
		want capacity
	}{
		{[]string{"-instance-type", "m5.large"}, capacity{MaxPods: 29, Addresses: 27, Source: "table"}},
		{[]string{"-instance-type", "m5.large", "-prefix"}, capacity{MaxPods: 434, Addresses: 432, Source: "table"}},
		{[]string{"-instance-type", "m5.large", "-prefix", "-cap", "110"}, capacity{MaxPods: 110, Addresses: 432, Source: "table"}},
		{[]string{"-instance-type", "m5.large", "-custom-networking"}, capacity{MaxPods: 20, Addresses: 18, Source: "table"}},
		{[]string{"-instance-type", "m5.large", "-trunk", "-max-enis", "2"}, capacity{MaxPods: 11, Addresses: 9, Source: "table"}},
		{[]string{"-instance-type", "x9.large"}, capacity{MaxPods: 46, Addresses: 44, Source: "ec2"}},
		{[]string{"-instance-type", "x9.large", "-all-cards"}, capacity{MaxPods: 68, Addresses: 66, Source: "ec2"}},
		{[]string{"-instance-type", "x9.huge"}, capacity{MaxPods: 8, Addresses: 6, Source: "default"}},
	} {
		code, out, stderr := vpcctl(t, append([]string{"max-pods", "-o", "json"}, c.args...)...)
		var got capacity
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
			t.Errorf("%v: %v, exit %d: %s", c.args, err, code, stderr)
			continue
		}
		if got.MaxPods != c.want.MaxPods || got.Addresses != c.want.Addresses || got.Source != c.want.Source {
			t.Errorf("%v: %+v, want %+v", c.args, got, c.want)
		}
	}
	if code, out, _ := vpcctl(t, "max-pods", "-instance-type", "m5.large"); code != 0 || !strings.Contains(out, "max-pods              29") {
		t.Errorf("exit %d: %s", code, out)
	}
	if code, out, _ := vpcctl(t, "max-pods", "-instance-type", "x9.large"); code != 0 || !strings.Contains(out, "branch ENIs           unknown") {
		t.Errorf("exit %d: %s", code, out)
	}
	if code, _, stderr := vpcctl(t, "max-pods"); code != 2 || !strings.Contains(stderr, "-instance-type is required") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestSweep(t *testing.T) {
	cloud := enitest.New(enitest.Config{})
	serve(t, cloud)
	vpc, err := cloud.AddVPC(enitest.VPCInput{})
	if err != nil {
		t.Fatal(err)
	}
	subnet, err := cloud.AddSubnet(enitest.SubnetInput{VPC: vpc.ID, Prefix: netip.MustParsePrefix("10.0.1.0/24")})
	if err != nil {
		t.Fatal(err)
	}
	old := leave(t, subnet.ID, time.Now().Add(-time.Hour))
	young := leave(t, subnet.ID, time.Now())
	foreign := leave(t, subnet.ID, time.Time{})
	_, out, _ := vpcctl(t, "sweep", "-vpc", vpc.ID, "-dry-run")
	if !strings.Contains(out, "would be deleted") || !strings.Contains(out, "kept: too young") || strings.Contains(out, foreign) || len(cloud.ENIs()) != 3 {
		t.Errorf("dry run:\n%s", out)
	}
	code, out, stderr := vpcctl(t, "sweep", "-vpc", vpc.ID)
	if code != 0 || !strings.Contains(out, "deleted") {
		t.Errorf("exit %d:\n%s%s", code, out, stderr)
	}
	_, there := cloud.ENI(old)
	_, kept := cloud.ENI(young)
	if there || !kept || len(cloud.ENIs()) != 2 {
		t.Errorf("old ENI exists: %v, young ENI exists: %v; want false, true", there, kept)
	}
	if code, _, _ := vpcctl(t, "sweep"); code != 2 {
		t.Errorf("without -vpc: exit %d, want 2", code)
	}
}

// serve starts the cloud and points the AWS configuration at it.
func serve(t *testing.T, cloud *enitest.Cloud) {
	t.Helper()
	srv, err := cloud.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_EC2": srv.EC2URL, "AWS_REGION": cloud.Region(), "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret",
	} {
		t.Setenv(name, value)
	}
}

// leave creates an unattached ENI, with the tags of this library if created is not
// zero.
func leave(t *testing.T, subnet string, created time.Time) string {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in := &ec2.CreateNetworkInterfaceInput{SubnetId: &subnet}
	if !created.IsZero() {
		owner, value, key, at := eni.TagOwner, "vpcnet", eni.TagCreated, created.UTC().Format(time.RFC3339)
		in.TagSpecifications = []types.TagSpecification{{
			ResourceType: types.ResourceTypeNetworkInterface,
			Tags:         []types.Tag{{Key: &owner, Value: &value}, {Key: &key, Value: &at}},
		}}
	}
	out, err := ec2.NewFromConfig(cfg).CreateNetworkInterface(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return *out.NetworkInterface.NetworkInterfaceId
}
