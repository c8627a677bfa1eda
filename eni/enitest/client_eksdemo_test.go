// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdkconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// eksdemo makes the calls of the commands `eksdemo get network-interfaces`, `get vpc`
// and `get subnets` of github.com/awslabs/eksdemo. The module proxy of CI does not serve
// that program, so this is a replay and not the program: it sends the requests that the
// source at commit 9231178 shows, in its order and with its filters, and makes the
// cells of its tables from the fields that it reads.
type eksdemo struct {
	ec2 *ec2.Client
	sts *sts.Client
}

// get returns the cells of the table, one line for each row.
func (d eksdemo) get(ctx context.Context, resource string, filters ...types.Filter) ([]string, error) {
	identity, err := d.sts.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return nil, err
	}
	switch resource {
	case "network-interfaces":
		return eksdemoPages(ctx, ec2.NewDescribeNetworkInterfacesPaginator(d.ec2, &ec2.DescribeNetworkInterfacesInput{Filters: filters}).NextPage,
			func(page *ec2.DescribeNetworkInterfacesOutput) ([]string, *string) {
				return rows(page.NetworkInterfaces, func(e types.NetworkInterface) []string { return eksdemoENI(e, *identity.Account) }), page.NextToken
			})
	case "vpc":
		return eksdemoPages(ctx, ec2.NewDescribeVpcsPaginator(d.ec2, &ec2.DescribeVpcsInput{Filters: filters}).NextPage,
			func(page *ec2.DescribeVpcsOutput) ([]string, *string) {
				return rows(page.Vpcs, eksdemoVPC), page.NextToken
			})
	}
	return eksdemoPages(ctx, ec2.NewDescribeSubnetsPaginator(d.ec2, &ec2.DescribeSubnetsInput{Filters: filters}).NextPage,
		func(page *ec2.DescribeSubnetsOutput) ([]string, *string) {
			return rows(page.Subnets, eksdemoSubnet), page.NextToken
		})
}

// eksdemoPages returns the rows of all pages.
func eksdemoPages[Out any](ctx context.Context, next func(context.Context, ...func(*ec2.Options)) (Out, error), convert func(Out) ([]string, *string)) ([]string, error) {
	var all []string
	for {
		page, err := next(ctx)
		if err != nil {
			return nil, err
		}
		rows, token := convert(page)
		all = append(all, rows...)
		if token == nil {
			return all, nil
		}
	}
}

func rows[T any](all []T, cells func(T) []string) []string {
	var lines []string
	for _, one := range all {
		lines = append(lines, strings.Join(cells(one), " | "))
	}
	return lines
}

// eksdemoENI returns the cells Id, Instance Id or..., Private IPv4, IPs, SGs and Subnet.
func eksdemoENI(e types.NetworkInterface, account string) []string {
	id, user := aws.ToString(e.NetworkInterfaceId), "detached"
	if a := e.Attachment; a != nil {
		if aws.ToInt32(a.DeviceIndex) == 0 {
			id = "*" + id
		}
		switch owner := aws.ToString(a.InstanceOwnerId); {
		case aws.ToString(a.InstanceId) != "":
			user = *a.InstanceId
		case e.InterfaceType != types.NetworkInterfaceTypeInterface:
			user = string(e.InterfaceType)
		case owner == "amazon-elb":
			user = "load-balancer"
		case owner != account && strings.HasPrefix(aws.ToString(e.Description), "Amazon EKS"):
			user = "eks_control_plane"
		case owner != account:
			user = "fargate_pod"
		default:
			user = ""
		}
	}
	return []string{
		id, user, aws.ToString(e.PrivateIpAddress), strconv.Itoa(len(e.PrivateIpAddresses)), strconv.Itoa(len(e.Groups)), aws.ToString(e.SubnetId),
	}
}

// eksdemoVPC returns the cells Id, Name, IPv4 CIDR(s) and IPv6 CIDR(s).
func eksdemoVPC(v types.Vpc) []string {
	var name string
	for _, tag := range v.Tags {
		if aws.ToString(tag.Key) == "Name" {
			name = aws.ToString(tag.Value)
		}
	}
	if aws.ToBool(v.IsDefault) {
		name += "*"
	}
	v4 := []string{aws.ToString(v.CidrBlock)}
	for _, a := range v.CidrBlockAssociationSet {
		if block := aws.ToString(a.CidrBlock); block != v4[0] && a.CidrBlockState.State == types.VpcCidrBlockStateCodeAssociated {
			v4 = append(v4, block)
		}
	}
	var v6 []string
	for _, a := range v.Ipv6CidrBlockAssociationSet {
		v6 = append(v6, aws.ToString(a.Ipv6CidrBlock))
	}
	return []string{aws.ToString(v.VpcId), name, strings.Join(v4, " "), strings.Join(v6, " ")}
}

// eksdemoSubnet returns the cells Id, Zone, IPv4 CIDR, Free and IPv6 CIDR.
func eksdemoSubnet(s types.Subnet) []string {
	var v6 []string
	for _, a := range s.Ipv6CidrBlockAssociationSet {
		v6 = append(v6, aws.ToString(a.Ipv6CidrBlock))
	}
	return []string{
		aws.ToString(s.SubnetId), aws.ToString(s.AvailabilityZone), aws.ToString(s.CidrBlock),
		strconv.Itoa(int(aws.ToInt32(s.AvailableIpAddressCount))), strings.Join(v6, " "),
	}
}

// TestCallsOfEksdemo replays the commands of eksdemo on a VPC with the three kinds of
// ENIs that the walkthroughs of EKS list, primary, secondary and of the control plane,
// and with those of other services.
func TestCallsOfEksdemo(t *testing.T) {
	cloud := newNodes(t)
	d, names := newEksdemo(t, cloud)
	filter := func(name, value string) types.Filter { return types.Filter{Name: &name, Values: []string{value}} }
	enis := []string{
		"*NODE1 | INSTANCE1 | 192.168.2.202 | 1 | 1 | SUBNET1",
		"*NODE2 | INSTANCE2 | 192.168.7.237 | 1 | 1 | SUBNET2",
		"*NODE3 | INSTANCE3 | 192.168.11.105 | 1 | 1 | SUBNET3",
		"SECOND | INSTANCE1 | 192.168.0.137 | 6 | 1 | SUBNET1",
		"CONTROL | eks_control_plane | 192.168.4.4 | 1 | 1 | SUBNET2",
		"FARGATE | fargate_pod | 192.168.4.5 | 1 | 1 | SUBNET2",
		"ALB | load-balancer | 192.168.4.6 | 1 | 1 | SUBNET2",
		"NAT | nat_gateway | 192.168.4.7 | 1 | 1 | SUBNET2",
		"FREE | detached | 192.168.8.4 | 1 | 2 | SUBNET3",
	}
	disliked := 0
	for _, tt := range []struct {
		command, resource string
		filters           []types.Filter
		want              []string
	}{
		{"eksdemo get network-interfaces", "network-interfaces", nil, enis},
		{"eksdemo get network-interfaces --instance-id INSTANCE1", "network-interfaces",
			[]types.Filter{filter("attachment.instance-id", names["INSTANCE1"])}, []string{enis[0], enis[3]}},
		{"eksdemo get network-interfaces --ip-address 192.168.7.237", "network-interfaces",
			[]types.Filter{filter("addresses.private-ip-address", "192.168.7.237")}, enis[1:2]},
		{"eksdemo get network-interfaces --security-group-id GROUP", "network-interfaces",
			[]types.Filter{filter("group-id", names["GROUP"])}, enis[8:]},
		{"eksdemo get network-interfaces SECOND", "network-interfaces", []types.Filter{filter("network-interface-id", names["SECOND"])}, enis[3:4]},
		{"eksdemo get vpc", "vpc", nil, []string{"VPC | myeks-VPC | 192.168.0.0/16 100.64.0.0/16 | 2001:db8::/56"}},
		{"eksdemo get vpc vpc-0123456789abcdef0", "vpc", []types.Filter{filter("vpc-id", "vpc-0123456789abcdef0")}, nil},
		{"eksdemo get subnets", "subnets", nil, []string{
			// A /22 without EC2's five addresses, without those of the ENIs above, and
			// without the /28 of the node in the third zone.
			"SUBNET1 | us-east-1a | 192.168.0.0/22 | 1012 | 2001:db8::/64",
			"SUBNET2 | us-east-1b | 192.168.4.0/22 | 1014 | 2001:db8:0:1::/64",
			"SUBNET3 | us-east-1c | 192.168.8.0/22 | 1001 | 2001:db8:0:2::/64",
		}},
		{"eksdemo get subnets SUBNET2", "subnets", []types.Filter{filter("subnet-id", names["SUBNET2"])},
			[]string{"SUBNET2 | us-east-1b | 192.168.4.0/22 | 1014 | 2001:db8:0:1::/64"}},
	} {
		got, err := d.get(t.Context(), tt.resource, tt.filters...)
		if err != nil {
			t.Errorf("%s: %v", tt.command, err)
			disliked++
			continue
		}
		for i := range got {
			for name, id := range names {
				got[i] = strings.ReplaceAll(got[i], id, name)
			}
		}
		want := slices.Sorted(slices.Values(tt.want))
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.command, diff)
			disliked++
		}
	}
	logClient(t, "the calls of eksdemo, replayed", allCalls(cloud), disliked)
}

// newEksdemo returns clients that take the endpoint from the environment, as eksdemo
// does, and adds ENIs to the Cloud. The map holds the IDs by the names that the test
// uses for them.
func newEksdemo(t *testing.T, cloud *enitest.Cloud) (eksdemo, map[string]string) {
	t.Helper()
	srv := must(cloud.Listen(t.Context(), ""))(t)
	t.Cleanup(func() { _ = srv.Close() })
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": srv.EC2URL, "AWS_REGION": cloud.Region(), "AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_PROFILE": "", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(name, value)
	}
	cfg := must(sdkconfig.LoadDefaultConfig(t.Context()))(t)
	d := eksdemo{ec2.NewFromConfig(cfg), sts.NewFromConfig(cfg)}

	names := map[string]string{"VPC": cloud.VPCs()[0].ID}
	if err := cloud.AddVPCPrefix(names["VPC"], netip.MustParsePrefix("100.64.0.0/16")); err != nil {
		t.Fatal(err)
	}
	for i, prefix := range []string{"192.168.0.0/22", "192.168.4.0/22", "192.168.8.0/22"} {
		n := strconv.Itoa(i + 1)
		names["SUBNET"+n] = subnetAt(cloud, prefix).ID
		names["INSTANCE"+n] = instanceIn(cloud, names["SUBNET"+n])
	}
	for _, e := range cloud.ENIs() {
		for _, n := range []string{"1", "2", "3"} {
			if e.Attachment.Instance == names["INSTANCE"+n] {
				names["NODE"+n] = e.ID
			}
		}
	}
	group := must(cloud.AddSecurityGroup(names["VPC"], "pods", nil))(t)
	names["GROUP"] = group.ID
	for name, in := range map[string]ec2.CreateNetworkInterfaceInput{
		"SECOND": {SubnetId: aws.String(names["SUBNET1"]), PrivateIpAddress: aws.String("192.168.0.137"), SecondaryPrivateIpAddressCount: aws.Int32(5)},
		"FREE":   {SubnetId: aws.String(names["SUBNET3"]), Groups: []string{group.ID, cloud.SecurityGroups()[0].ID}},
	} {
		names[name] = *must(d.ec2.CreateNetworkInterface(t.Context(), &in))(t).NetworkInterface.NetworkInterfaceId
	}
	must(d.ec2.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
		NetworkInterfaceId: aws.String(names["SECOND"]), InstanceId: aws.String(names["INSTANCE1"]), DeviceIndex: aws.Int32(1),
	}))(t)
	must(d.ec2.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: aws.String(names["NODE3"]), Ipv4PrefixCount: aws.Int32(1),
	}))(t)
	for _, foreign := range []struct {
		name string
		in   enitest.ForeignENIInput
	}{
		{"CONTROL", enitest.ForeignENIInput{Service: enitest.ControlPlane}},
		{"FARGATE", enitest.ForeignENIInput{Service: enitest.ControlPlane, Description: "fargate"}},
		{"ALB", enitest.ForeignENIInput{Service: enitest.ApplicationLoadBalancer}},
		{"NAT", enitest.ForeignENIInput{Service: enitest.NATGateway}},
	} {
		foreign.in.Subnet = names["SUBNET2"]
		names[foreign.name] = must(cloud.AddForeignENI(foreign.in))(t).ID
	}
	cloud.ResetCalls()
	return d, names
}
