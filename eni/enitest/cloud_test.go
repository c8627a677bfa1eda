// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"errors"
	"net/http"
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// world is a cloud with one VPC, one subnet and one instance, and SDK clients
// that run on the instance.
type world struct {
	*enitest.Cloud
	vpc      enitest.VPC
	subnet   enitest.Subnet
	instance enitest.Instance
	ec2      *ec2.Client
	imds     *imds.Client
}

type setup struct {
	config enitest.Config
	kind   string
	prefix string
	ipv6   bool
}

func newWorld(t *testing.T, s setup) *world {
	t.Helper()
	w := &world{Cloud: enitest.New(s.config)}
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	in := enitest.SubnetInput{Prefix: netip.MustParsePrefix("10.0.1.0/24"), MapPublic: true}
	if s.prefix != "" {
		in.Prefix = netip.MustParsePrefix(s.prefix)
	}
	if s.ipv6 {
		prefixes = append(prefixes, netip.MustParsePrefix("2001:db8:1::/56"))
		in.IPv6 = netip.MustParsePrefix("2001:db8:1:2::/64")
	}
	var err error
	if w.vpc, err = w.AddVPC(enitest.VPCInput{Prefixes: prefixes}); err != nil {
		t.Fatal(err)
	}
	in.VPC = w.vpc.ID
	if w.subnet, err = w.AddSubnet(in); err != nil {
		t.Fatal(err)
	}
	w.instance = w.runInstance(t, s.kind)
	w.ec2, w.imds = w.clients(w.instance.ID)
	return w
}

func (w *world) runInstance(t *testing.T, kind string) enitest.Instance {
	t.Helper()
	i, err := w.RunInstance(enitest.InstanceInput{Subnet: w.subnet.ID, Type: kind})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// clients returns SDK clients that run on the instance and do not retry.
func (w *world) clients(instance string) (*ec2.Client, *imds.Client) {
	hc := &http.Client{Transport: w.Transport(instance)}
	return ec2.New(ec2.Options{
			Region: w.Region(), HTTPClient: hc, RetryMaxAttempts: 1,
			Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""),
		}), imds.New(imds.Options{
			HTTPClient: hc, Retryer: aws.NopRetryer{},
		})
}

// codeOf returns the error code of an answer. It is empty if err is nil or is not
// an answer.
func codeOf(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return ""
}

// wantCode fails the test unless err is an answer with the error code. An empty
// code means that err must be nil.
func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if codeOf(err) != code || code == "" && err != nil {
		t.Errorf("got error %v, want code %q", err, code)
	}
}

// must returns a function that returns v, or fails the test if err is not nil.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
