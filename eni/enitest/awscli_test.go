// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// cli runs the AWS CLI against a Cloud.
type cli struct {
	path, endpoint string
	env            []string
}

func newCLI(t *testing.T, c *enitest.Cloud) cli {
	t.Helper()
	path, err := exec.LookPath("aws")
	if err != nil {
		t.Skip("the AWS CLI is not installed (Debian package awscli)")
	}
	srv := must(c.Listen(t.Context(), ""))(t)
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return cli{path, srv.EC2URL, []string{
		"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_DEFAULT_REGION=us-west-2", "AWS_PAGER=",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
		"LC_ALL=C.UTF-8",
	}}
}

// run returns what `aws ec2 ARGS` prints, or its error text.
func (c cli) run(t *testing.T, args ...string) string {
	t.Helper()
	return c.service(t, "ec2", args...)
}

// service returns what the command of a service prints, or its error text.
func (c cli) service(t *testing.T, service string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.path, append([]string{service, "--endpoint-url", c.endpoint, "--output", "text"}, args...)...)
	cmd.Env = append(cmd.Environ(), c.env...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return strings.TrimSpace(string(exit.Stderr))
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestAWSCLI creates, attaches, changes, detaches and deletes an ENI with the AWS
// CLI.
func TestAWSCLI(t *testing.T) {
	if testing.Short() {
		t.Skip("the AWS CLI takes a second a call")
	}
	t.Parallel()
	w := newWorld(t, setup{ipv6: true})
	aws := newCLI(t, w.Cloud)
	id := aws.run(t, "create-network-interface", "--subnet-id", w.subnet.ID, "--description", "by hand",
		"--tag-specifications", "ResourceType=network-interface,Tags=[{Key=app,Value=x}]",
		"--query", "NetworkInterface.NetworkInterfaceId")
	attachment := aws.run(t, "attach-network-interface", "--network-interface-id", id, "--instance-id", w.instance.ID,
		"--device-index", "1", "--query", "AttachmentId")
	for _, step := range []struct{ args, want string }{
		{"assign-private-ip-addresses --network-interface-id ENI --ipv4-prefix-count 1 --query AssignedIpv4Prefixes[].Ipv4Prefix", "10.0.1.16/28"},
		{"assign-ipv6-addresses --network-interface-id ENI --ipv6-addresses 2001:db8:1:2::9 --query AssignedIpv6Addresses", "2001:db8:1:2::9"},
		{"describe-instances --instance-ids INSTANCE --query Reservations[].Instances[].NetworkInterfaces[].Attachment.DeviceIndex", "0\t1"},
		{"describe-network-interfaces --filters Name=tag:app,Values=x --page-size 5 " +
			"--query NetworkInterfaces[].[Status,PrivateIpAddress,Description]", "in-use\t10.0.1.5\tby hand"},
		{"describe-instance-types --instance-types m5.large --query InstanceTypes[].NetworkInfo.Ipv4AddressesPerInterface", "10"},
		{"describe-subnets --query Subnets[].AvailableIpAddressCount", "233"},
		{"delete-network-interface --network-interface-id ENI",
			"An error occurred (InvalidParameterValue) when calling the DeleteNetworkInterface operation: " +
				"Network interface 'ENI' is currently in use."},
		{"detach-network-interface --attachment-id ATTACHMENT", ""},
		{"delete-network-interface --network-interface-id ENI --dry-run",
			"An error occurred (DryRunOperation) when calling the DeleteNetworkInterface operation: " +
				"Request would have succeeded, but DryRun flag is set."},
		{"delete-network-interface --network-interface-id ENI", ""},
		{"describe-network-interfaces --network-interface-ids ENI",
			"An error occurred (InvalidNetworkInterfaceID.NotFound) when calling the DescribeNetworkInterfaces operation: " +
				"The networkInterface ID 'ENI' does not exist"},
	} {
		names := strings.NewReplacer("ENI", id, "INSTANCE", w.instance.ID, "ATTACHMENT", attachment)
		got := aws.run(t, strings.Fields(names.Replace(step.args))...)
		if diff := cmp.Diff(names.Replace(step.want), got); diff != "" {
			t.Errorf("aws ec2 %s (-want +got):\n%s", step.args, diff)
		}
	}
}

// TestAWSCLINetwork calls STS and the actions on what surrounds the ENIs with the AWS
// CLI.
func TestAWSCLINetwork(t *testing.T) {
	if testing.Short() {
		t.Skip("the AWS CLI takes a second a call")
	}
	t.Parallel()
	w := newWorld(t, setup{})
	aws := newCLI(t, w.Cloud)
	if got := aws.service(t, "sts", "get-caller-identity", "--query", "[Account,Arn]"); got != "123456789012\tarn:aws:iam::123456789012:user/AKIATEST" {
		t.Errorf("get-caller-identity: got %q", got)
	}
	table := w.RouteTables()[0].ID
	for _, step := range []struct{ args, want string }{
		{"wait instance-status-ok --instance-ids INSTANCE", ""},
		{"create-route --route-table-id TABLE --destination-cidr-block 0.0.0.0/0 --gateway-id igw-1", "True"},
		{"describe-route-tables --query RouteTables[].Routes[].[DestinationCidrBlock,GatewayId]", "10.0.0.0/16\tlocal\n0.0.0.0/0\tigw-1"},
		{"describe-regions --region-names us-east-1 --query Regions[].Endpoint", "ec2.us-east-1.amazonaws.com"},
		{"create-security-group --group-name pods --description d --vpc-id VPC --query GroupId", "GROUP"},
		{"run-instances --image-id ami-1 --subnet-id SUBNET --security-group-ids GROUP " +
			"--tag-specifications ResourceType=network-interface,Tags=[{Key=who,Value=me}] --query Instances[].State.Name", "running"},
		{"describe-network-interfaces --filters Name=tag:who,Values=me --query NetworkInterfaces[].Groups[].GroupName", "pods"},
	} {
		names := strings.NewReplacer("INSTANCE", w.instance.ID, "TABLE", table, "VPC", w.vpc.ID, "SUBNET", w.subnet.ID, "GROUP", groupNamed(w.Cloud, "pods"))
		got := aws.run(t, strings.Fields(names.Replace(step.args))...)
		names = strings.NewReplacer("GROUP", groupNamed(w.Cloud, "pods"))
		if diff := cmp.Diff(names.Replace(step.want), got); diff != "" {
			t.Errorf("aws ec2 %s (-want +got):\n%s", step.args, diff)
		}
	}
}

// groupNamed returns the ID of the security group with the given name.
func groupNamed(c *enitest.Cloud, name string) string {
	for _, g := range c.SecurityGroups() {
		if g.Name == name {
			return g.ID
		}
	}
	return ""
}
