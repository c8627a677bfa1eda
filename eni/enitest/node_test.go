// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// config returns the configuration of the SDK for programs on the node.
func config(n *enitest.Node) aws.Config {
	return aws.Config{
		Region: n.Region(), HTTPClient: n.HTTPClient,
		Credentials: credentials.NewStaticCredentialsProvider(n.AccessKeyID, n.SecretAccessKey, n.SessionToken),
	}
}

// TestNewNode calls EC2 and the metadata service from a node, without sockets and
// with them.
func TestNewNode(t *testing.T) {
	node := enitest.NewNode(t, "m5.large")
	client := ec2.NewFromConfig(config(node))
	must(client.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &node.Subnet.ID, Ipv6AddressCount: aws.Int32(1)}))(t)
	if c := node.Audit()[0]; c.Caller != node.Instance.ID {
		t.Errorf("got caller %q, want %q", c.Caller, node.Instance.ID)
	}
	if got := metadata(t, imds.NewFromConfig(config(node)), "mac"); got != node.Primary().MAC || got == "" {
		t.Errorf("got MAC %q, want %q", got, node.Primary().MAC)
	}
	endpoint, metadataURL := node.Listen()
	cfg := config(node)
	cfg.HTTPClient = nil
	must(ec2.NewFromConfig(cfg, func(o *ec2.Options) { o.BaseEndpoint = &endpoint }).DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{}))(t)
	if got := metadata(t, imds.New(imds.Options{Endpoint: metadataURL}), "instance-id"); got != node.Instance.ID {
		t.Errorf("got instance ID %q over a socket, want %q", got, node.Instance.ID)
	}
}

// failing records the failure of a test in place of a *testing.T.
type failing struct {
	enitest.TB
	failure string
}

func (f *failing) Helper() {}
func (f *failing) Fatalf(format string, args ...any) {
	f.failure = fmt.Sprintf(format, args...)
	panic(f)
}

// TestNewNodeFails checks that an unknown type fails the test with a clear text.
func TestNewNodeFails(t *testing.T) {
	f := &failing{TB: t}
	defer func() {
		if p := recover(); p != f || !strings.Contains(f.failure, "z9.nano") {
			t.Errorf("got failure %q, want z9.nano in it", f.failure)
		}
	}()
	enitest.NewNode(f, "z9.nano")
}

// A test in a synctest bubble waits for a slow attachment in no time.
func ExampleNewNode() {
	test := func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			node := enitest.NewNode(t, "m5.large")
			node.SetDelays(enitest.Delays{Attach: 5 * time.Second})
			client := ec2.NewFromConfig(aws.Config{
				Region: node.Region(), HTTPClient: node.HTTPClient, Credentials: aws.AnonymousCredentials{},
			})
			out, err := client.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &node.Subnet.ID})
			if err != nil {
				t.Fatal(err)
			}
			eni := *out.NetworkInterface.NetworkInterfaceId
			_, err = client.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
				NetworkInterfaceId: &eni, InstanceId: &node.Instance.ID, DeviceIndex: aws.Int32(1),
			})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			if e, _ := node.ENI(eni); e.Status(time.Now()) != "in-use" {
				t.Errorf("got status %s, want in-use", e.Status(time.Now()))
			}
		})
	}
	_ = test // go test runs it as TestAttach(t *testing.T)
}

// The address of a new ENI is in the state at once, but Describe calls show it later.
func ExampleCloud_SetLag() {
	cloud, node, client := small()
	cloud.SetLag(enitest.Lag{Describe: time.Hour, Keys: map[string]time.Duration{"local-ipv4s": time.Minute}})
	subnet := cloud.Subnets()[0].ID
	if _, err := client.CreateNetworkInterface(context.Background(), &ec2.CreateNetworkInterfaceInput{SubnetId: &subnet}); err != nil {
		panic(err)
	}
	out, err := client.DescribeNetworkInterfaces(context.Background(), &ec2.DescribeNetworkInterfacesInput{})
	if err != nil {
		panic(err)
	}
	fmt.Println(len(cloud.ENIs()), len(out.NetworkInterfaces), node.Type)
	// Output: 2 0 t3.medium
}

// A bucket of two tokens admits two calls.
func ExampleCloud_SetThrottle() {
	cloud, _, client := small()
	cloud.SetThrottle(&enitest.Throttle{Classes: map[enitest.Class]enitest.Bucket{enitest.NonMutating: {Size: 2, Rate: 0.001}}})
	for range 3 {
		_, err := client.DescribeSubnets(context.Background(), &ec2.DescribeSubnetsInput{}, func(o *ec2.Options) { o.RetryMaxAttempts = 1 })
		fmt.Printf("%q ", codeOf(err))
	}
	fmt.Println()
	// Output: "" "" "RequestLimitExceeded"
}

// The metadata service answers at its link-local address, with session tokens.
func ExampleCloud_Transport() {
	cloud, node, _ := small()
	client := imds.New(imds.Options{HTTPClient: &http.Client{Transport: cloud.Transport(node.ID)}})
	out, err := client.GetMetadata(context.Background(), &imds.GetMetadataInput{Path: "local-ipv4"})
	if err != nil {
		panic(err)
	}
	text, err := io.ReadAll(out.Content)
	fmt.Println(string(text), err)
	// Output: 10.0.1.4 <nil>
}
