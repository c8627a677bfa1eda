// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/google/go-cmp/cmp"
)

// start runs ec2sim and returns the line that it printed and a function that stops
// it.
func start(t *testing.T, args ...string) (summary, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, args, w) }()
	stop := func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	var a summary
	if err := json.NewDecoder(r).Decode(&a); err != nil {
		stop()
		t.Fatal(err)
	}
	return a, stop
}

// TestState changes the state of a running ec2sim and checks that the change is
// still there after a restart.
func TestState(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state.json")
	first, stop := start(t, "-instances", "2", "-instance-type", "t3.medium", "-vpc6", "2001:db8::/56", "-state", state)
	if len(first.Instances) != 2 || len(first.Subnets) != 1 || len(first.Instances[1].ENIs) != 1 {
		t.Errorf("got %+v, want 2 instances with an ENI each, and 1 subnet", first)
	}
	client := ec2.New(ec2.Options{Region: first.Region, BaseEndpoint: &first.EC2, Credentials: aws.AnonymousCredentials{}})
	made, err := client.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &first.Subnets[0]})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
		NetworkInterfaceId: made.NetworkInterface.NetworkInterfaceId, InstanceId: &first.Instances[0].ID, DeviceIndex: aws.Int32(1),
	}); err != nil {
		t.Fatal(err)
	}
	stop()

	second, stop := start(t, "-state", state)
	defer stop()
	want := first.Instances
	want[0].ENIs = append(want[0].ENIs, *made.NetworkInterface.NetworkInterfaceId)
	opts := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Metadata" }, cmp.Ignore())
	sorted := cmp.Transformer("set", func(s []string) map[string]bool {
		set := map[string]bool{}
		for _, one := range s {
			set[one] = true
		}
		return set
	})
	if diff := cmp.Diff(want, second.Instances, opts, sorted); diff != "" {
		t.Errorf("instances after a restart (-want +got):\n%s", diff)
	}
	resp, err := http.Get(second.Instances[0].Metadata + "/latest/meta-data/instance-id") //nolint:noctx // a plain curl, as a user would
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("metadata without a token: got %s, want 401", resp.Status)
	}
}

func TestBadFlags(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"-instance-type z9.nano", "Invalid value 'z9.nano' for InstanceType"},
		{"-vpc 10.0.0.0", "-vpc \"10.0.0.0\": want an IPv4 prefix"},
		{"-vpc 2001:db8::/56", "want an IPv4 prefix"},
		{"-vpc6 10.0.0.0/16", "-vpc6 \"10.0.0.0/16\": want an IPv6 prefix"},
		{"-instances -1", "-instances -1: want 0 or more"},
		{"-instances many", `invalid value "many" for flag -instances`},
		{"-metadata-lag -1s", "delays and lags: want 0 or more"},
		{"-listen nowhere", "listen address"},
		{"extra", `unexpected argument "extra"`},
		{"-state main.go", "load state"},
	} {
		err := run(t.Context(), strings.Fields(tt.args), io.Discard)
		if usage := tt.want[0] != 'I' && tt.want[0] != 'l'; errors.As(err, new(usageError)) != usage {
			t.Errorf("%s: error %v is a usageError: %v, want %v", tt.args, err, !usage, usage)
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want %q", tt.args, err, tt.want)
		}
	}
}
