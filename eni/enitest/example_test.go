// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// small returns a cloud with one instance, and an SDK client on it.
func small() (*enitest.Cloud, enitest.Instance, *ec2.Client) {
	cloud := enitest.New(enitest.Config{})
	vpc, err := cloud.AddVPC(enitest.VPCInput{})
	if err != nil {
		panic(err)
	}
	subnet, err := cloud.AddSubnet(enitest.SubnetInput{VPC: vpc.ID, Prefix: netip.MustParsePrefix("10.0.1.0/26")})
	if err != nil {
		panic(err)
	}
	node, err := cloud.RunInstance(enitest.InstanceInput{Subnet: subnet.ID, Type: "t3.medium"})
	if err != nil {
		panic(err)
	}
	return cloud, node, ec2.New(ec2.Options{
		Region:      cloud.Region(),
		HTTPClient:  &http.Client{Transport: cloud.Transport(node.ID)},
		Credentials: aws.AnonymousCredentials{},
	})
}

// The unmodified SDK assigns a prefix to the primary ENI.
func ExampleNew() {
	cloud, node, client := small()
	cloud.OnChange(func(e enitest.Event) { fmt.Println(e.Op, e.Changed, "on", e.Instance == node.ID) })

	eni := cloud.ENIs()[0]
	out, err := client.AssignPrivateIpAddresses(context.Background(), &ec2.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: &eni.ID, Ipv4PrefixCount: aws.Int32(1),
	})
	if err != nil {
		panic(err)
	}
	fmt.Println("prefix", *out.AssignedIpv4Prefixes[0].Ipv4Prefix)

	_, err = client.AssignPrivateIpAddresses(context.Background(), &ec2.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: &eni.ID, SecondaryPrivateIpAddressCount: aws.Int32(5),
	})
	fmt.Println(codeOf(err))
	// Output:
	// assigned [10.0.1.16/28] on true
	// prefix 10.0.1.16/28
	// PrivateIpAddressLimitExceeded
}

// A fault makes the second call of an action fail. Calls counts failed calls too.
func ExampleCloud_AddFault() {
	cloud, _, client := small()
	cloud.AddFault(enitest.Fault{
		Action: "DescribeSubnets", Skip: 1, Times: 1,
		Err: &enitest.APIError{Code: "UnauthorizedOperation", Message: "no"},
	})
	for range 3 {
		_, err := client.DescribeSubnets(context.Background(), &ec2.DescribeSubnetsInput{})
		fmt.Printf("%q ", codeOf(err))
	}
	fmt.Println(cloud.Calls())
	// Output: "" "UnauthorizedOperation" "" map[DescribeSubnets:3]
}

// One occupied address in each /28 makes a fragmented subnet: it has free
// addresses, but no free prefix.
func ExampleCloud_Occupy() {
	cloud, _, client := small()
	subnet := cloud.Subnets()[0]
	for _, a := range []string{"10.0.1.20", "10.0.1.40"} {
		if err := cloud.Occupy(subnet.ID, netip.MustParseAddr(a)); err != nil {
			panic(err)
		}
	}
	_, err := client.CreateNetworkInterface(context.Background(), &ec2.CreateNetworkInterfaceInput{
		SubnetId: &subnet.ID, Ipv4PrefixCount: aws.Int32(1),
	})
	after, _ := cloud.Subnet(subnet.ID)
	fmt.Println(codeOf(err), after.Free)
	if err := cloud.Vacate(subnet.ID, netip.MustParseAddr("10.0.1.40")); err != nil {
		panic(err)
	}
	_, err = client.CreateNetworkInterface(context.Background(), &ec2.CreateNetworkInterfaceInput{
		SubnetId: &subnet.ID, Ipv4PrefixCount: aws.Int32(1),
	})
	fmt.Println(err)
	// Output:
	// InsufficientCidrBlocks 56
	// <nil>
}

// An account that hides managed resources shows the ENIs of an operator only to a call that
// asks for them.
func Example_managedResources() {
	cloud := enitest.New(enitest.Config{HideManaged: true})
	node := enitest.NewNodeIn(&nodeTB{}, cloud, "m5.large") // a test has its *testing.T
	if _, err := cloud.RunInstance(enitest.InstanceInput{Subnet: node.Subnet.ID, Operator: "eks.amazonaws.com"}); err != nil {
		panic(err)
	}
	client := ec2.New(ec2.Options{Region: cloud.Region(), HTTPClient: node.HTTPClient, Credentials: aws.AnonymousCredentials{}})
	for _, include := range []bool{false, true} {
		out, err := client.DescribeNetworkInterfaces(context.Background(), &ec2.DescribeNetworkInterfacesInput{
			IncludeManagedResources: &include,
		})
		if err != nil {
			panic(err)
		}
		fmt.Println(len(out.NetworkInterfaces))
	}
	// Output:
	// 1
	// 2
}

// An instance starts from the default version of a launch template.
func ExampleCloud_LaunchTemplates() {
	cloud, node, client := small()
	ctx := context.Background()
	_, err := client.CreateLaunchTemplate(ctx, &ec2.CreateLaunchTemplateInput{
		LaunchTemplateName: aws.String("node"),
		LaunchTemplateData: &types.RequestLaunchTemplateData{ImageId: aws.String("ami-1"), InstanceType: types.InstanceTypeM5Large},
	})
	if err != nil {
		panic(err)
	}
	out, err := client.RunInstances(ctx, &ec2.RunInstancesInput{
		MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SubnetId: &node.Subnet,
		LaunchTemplate: &types.LaunchTemplateSpecification{LaunchTemplateName: aws.String("node")},
	})
	if err != nil {
		panic(err)
	}
	l := cloud.LaunchTemplates()[0]
	fmt.Println(l.Name, l.Versions[0].Data.Get("InstanceType"), out.Instances[0].InstanceType)
	// Output: node m5.large m5.large
}

// A stopped instance keeps its ENIs and has no metadata service.
func ExampleInstance_State() {
	cloud, node, client := small()
	_, err := client.StopInstances(context.Background(), &ec2.StopInstancesInput{InstanceIds: []string{node.ID}})
	if err != nil {
		panic(err)
	}
	stopped, _ := cloud.Instance(node.ID)
	_, err = (&http.Client{Transport: cloud.Transport(node.ID)}).Get("http://169.254.169.254/latest/meta-data/")
	fmt.Println(stopped.State(time.Now()), len(cloud.ENIs()), errors.Is(err, io.ErrUnexpectedEOF))
	// Output: stopped 1 true
}

// The end of an instance ends its ENIs, but not the Elastic IP address of one of them.
func ExampleCloud_TerminateInstance() {
	cloud, node, client := small()
	out, err := client.AllocateAddress(context.Background(), &ec2.AllocateAddressInput{})
	if err != nil {
		panic(err)
	}
	_, err = client.AssociateAddress(context.Background(), &ec2.AssociateAddressInput{
		AllocationId: out.AllocationId, NetworkInterfaceId: &cloud.ENIs()[0].ID,
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(len(cloud.ENIs()), cloud.Addresses()[0].ENI == cloud.ENIs()[0].ID)
	if err := cloud.TerminateInstance(node.ID); err != nil {
		panic(err)
	}
	fmt.Println(len(cloud.ENIs()), cloud.Addresses()[0].ENI == "")
	// Output:
	// 1 true
	// 0 true
}

// One handler serves the metadata of all instances, here without session tokens.
func ExampleCloud_MetadataHandler() {
	cloud, node, _ := small()
	if err := cloud.AllowMetadataV1(node.ID); err != nil {
		panic(err)
	}
	req := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/latest/meta-data/instance-type", nil)
	req.RemoteAddr = "10.0.1.4:40000" // the primary ENI of the instance
	rec := httptest.NewRecorder()
	cloud.MetadataHandler().ServeHTTP(rec, req)
	kind, known := cloud.InstanceType(rec.Body.String())
	fmt.Println(kind.Name, known)
	// Output: t3.medium true
}

// nodeTB is the part of a *testing.T that NewNode uses.
type nodeTB struct{ cleanups []func() }

func (*nodeTB) Helper()                           {}
func (*nodeTB) Context() context.Context          { return context.Background() }
func (*nodeTB) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (*nodeTB) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (n *nodeTB) Cleanup(f func())                { n.cleanups = append(n.cleanups, f) }

// A program gets the endpoints of a node, as AWS_ENDPOINT_URL_EC2 and
// AWS_EC2_METADATA_SERVICE_ENDPOINT.
func ExampleNode_Listen() {
	t := &nodeTB{} // a test has its *testing.T
	node := enitest.NewNode(t, "m5.large")
	ec2URL, metadataURL := node.Listen()
	fmt.Println(node.Subnet.VPC == node.VPC.ID, node.VPC.Prefixes)
	fmt.Println(node.Primary().Attachment.Status(time.Now()), ec2URL != "", metadataURL != "")
	for _, f := range t.cleanups {
		f()
	}
	// Output:
	// true [10.0.0.0/16]
	// attached true true
}

// A test can have types of its own, and instances as the software under test expects them.
func ExampleInstanceType() {
	cloud := enitest.New(enitest.Config{Types: []enitest.InstanceType{{
		Name: "zz1.metal", BareMetal: true, VCPUs: 96, MemoryMiB: 768 << 10,
		ENIs: []int{4, 8}, DefaultCard: 1, IPv4PerENI: 10, IPv6PerENI: 10, Branches: 54, EFAs: 2, Flexible: []int{2, 0},
	}}})
	node := enitest.NewNodeIn(&nodeTB{}, cloud, "zz1.metal") // a test has its *testing.T
	pods, err := cloud.AddSecurityGroup(node.VPC.ID, "pods", nil)
	if err != nil {
		panic(err)
	}
	other, err := cloud.RunInstance(enitest.InstanceInput{
		Subnet: node.Subnet.ID, Type: "zz1.metal", Addr: netip.MustParseAddr("10.0.0.77"), Groups: []string{pods.ID},
		Image: "ami-1", UserData: "#!/bin/sh\necho hello\n", MetadataTags: true, Tags: map[string]string{"Name": "other"},
	})
	if err != nil {
		panic(err)
	}
	if err := cloud.AllowMetadataV1(other.ID); err != nil {
		panic(err)
	}
	client := &http.Client{Transport: cloud.Transport(other.ID)}
	for _, key := range []string{"user-data", "meta-data/ami-id", "meta-data/local-ipv4", "meta-data/security-groups", "meta-data/tags/instance/Name"} {
		res, err := client.Get("http://169.254.169.254/latest/" + key)
		if err != nil {
			panic(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		fmt.Printf("%s: %q %v\n", key, text, err)
	}
	// Output:
	// user-data: "#!/bin/sh\necho hello\n" <nil>
	// meta-data/ami-id: "ami-1" <nil>
	// meta-data/local-ipv4: "10.0.0.77" <nil>
	// meta-data/security-groups: "pods" <nil>
	// meta-data/tags/instance/Name: "other" <nil>
}

// ENIs of AWS services are in the subnets of a VPC, and an agent must leave them alone.
func ExampleCloud_AddForeignENI() {
	cloud, node, client := small()
	_, err := cloud.AddForeignENI(enitest.ForeignENIInput{
		Subnet: node.Subnet, Service: enitest.ControlPlane, Description: "Amazon EKS blue",
		Addr: netip.MustParseAddr("10.0.1.9"), Tags: map[string]string{"cluster": "blue"},
	})
	if err != nil {
		panic(err)
	}
	out, err := client.DescribeNetworkInterfaces(context.Background(), &ec2.DescribeNetworkInterfacesInput{
		Filters: []types.Filter{{Name: aws.String("tag:cluster"), Values: []string{"blue"}}},
	})
	if err != nil {
		panic(err)
	}
	e := out.NetworkInterfaces[0]
	fmt.Println(*e.PrivateIpAddress, *e.Description, "managed by AWS:", *e.RequesterManaged)
	// Output: 10.0.1.9 Amazon EKS blue managed by AWS: true
}

// A fleet that starts exceeds the number of instances that an account may start at once. The
// request ID of an error finds the call in the audit log.
func ExampleThrottle() {
	cloud, node, client := small()
	cloud.SetThrottle(&enitest.Throttle{Resources: map[string]enitest.Bucket{"RunInstances": {Size: 10, Rate: 0.001}}})
	for _, n := range []int32{8, 8} {
		_, err := client.RunInstances(context.Background(), &ec2.RunInstancesInput{
			MinCount: &n, MaxCount: &n, SubnetId: &node.Subnet, ImageId: aws.String("ami-1"), InstanceType: types.InstanceTypeM5Large,
		}, func(o *ec2.Options) { o.RetryMaxAttempts = 1 })
		fmt.Printf("%d instances: %q\n", n, codeOf(err))
		var res *awshttp.ResponseError
		if !errors.As(err, &res) {
			continue
		}
		for _, c := range cloud.Audit() {
			if c.RequestID == res.RequestID {
				fmt.Println("failed:", c.Action, "of", c.Parameters.Get("MinCount"), "instances")
			}
		}
	}
	// Output:
	// 8 instances: ""
	// 8 instances: "RequestLimitExceeded"
	// failed: RunInstances of 8 instances
}
