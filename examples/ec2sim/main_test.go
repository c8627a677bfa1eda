// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
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
		{"-subnets 0", "-subnets 0: want 1 or more"},
		{"-subnets 257", "-subnets 257: want 1 or more that fit"},
		{"-metadata localhost", "-metadata \"localhost\": want an address with a port"},
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

// request sends a request to the control endpoint and returns the body of the answer.
func request(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestControl drives ec2sim over its control endpoint: subnets in several zones, the
// stream of events, metadata of an instance made over the API, faults, denials and
// counts.
func TestControl(t *testing.T) {
	a, stop := start(t, "-control", "127.0.0.1:0", "-subnets", "3", "-instances", "3", "-vpc6", "2001:db8::/56")
	defer stop()
	client := ec2.New(ec2.Options{Region: a.Region, BaseEndpoint: &a.EC2, Credentials: aws.AnonymousCredentials{}, RetryMaxAttempts: 1})
	zones := map[string]bool{}
	subnets, err := client.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range subnets.Subnets {
		zones[*s.AvailabilityZone] = true
	}
	if len(zones) != 3 {
		t.Errorf("got subnets in %v, want three zones", zones)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, a.Control+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	events, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = events.Body.Close() }()
	out, err := client.RunInstances(t.Context(), &ec2.RunInstancesInput{
		ImageId: aws.String("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SubnetId: &a.Subnets[0],
	})
	if err != nil {
		t.Fatal(err)
	}
	id := *out.Instances[0].InstanceId
	var event enitest.Event
	stream := json.NewDecoder(events.Body)
	for n := range 3 {
		if err := stream.Decode(&event); err != nil || event.Op != enitest.Attached || event.Instance == "" {
			t.Errorf("event %d: got %+v and error %v, want the attachment of a primary ENI", n, event, err)
		}
	}
	event = enitest.Event{}
	if err := stream.Decode(&event); err != nil || event.Op != enitest.Attached || event.Instance != id {
		t.Errorf("got event %+v and error %v, want the attachment to %s", event, err, id)
	}
	var now summary
	_, text := request(t, http.MethodGet, a.Control+"/", "")
	if err := json.Unmarshal([]byte(text), &now); err != nil {
		t.Fatal(err)
	}
	index := slices.IndexFunc(now.Instances, func(i instance) bool { return i.ID == id })
	if index < 0 || now.Instances[index].Metadata == "" {
		t.Errorf("got instances %+v, want metadata of %s", now.Instances, id)
	}

	status, text := request(t, http.MethodPost, a.Control+"/faults", `{"Action": "DescribeVpcs", "Err": {"Code": "InternalError", "Message": "oops"}}`)
	if status != http.StatusOK || !strings.Contains(text, `"ID":1`) {
		t.Errorf("got status %d and %q, want a fault with ID 1", status, text)
	}
	describe := func(want string) {
		t.Helper()
		_, err := client.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{})
		var e smithy.APIError
		if errors.As(err, &e) != (want != "") || e != nil && e.ErrorCode() != want {
			t.Errorf("got error %v, want code %q", err, want)
		}
	}
	describe("InternalError")
	if _, text := request(t, http.MethodGet, a.Control+"/faults", ""); !strings.Contains(text, `[{"ID":1,"Action":"DescribeVpcs"`) {
		t.Errorf("got faults %s, want the one with ID 1", text)
	}
	request(t, http.MethodDelete, a.Control+"/faults/1", "")
	describe("")
	request(t, http.MethodPost, a.Control+"/denials", `{"Action": "DescribeVpcs"}`)
	describe("UnauthorizedOperation")
	if _, text := request(t, http.MethodGet, a.Control+"/denials", ""); strings.TrimSpace(text) != `[{"Action":"DescribeVpcs"}]` {
		t.Errorf("got denials %s, want DescribeVpcs", text)
	}
	request(t, http.MethodDelete, a.Control+"/denials", `{"Action": "DescribeVpcs"}`)
	describe("")
	for path, body := range map[string]string{
		"/faults": `{"Action": "DescribeVPCs"}`, "/denials": `{"Action": "DescribeVPCs"}`,
	} {
		if status, text := request(t, http.MethodPost, a.Control+path, body); status != http.StatusBadRequest || !strings.Contains(text, "matches no action") {
			t.Errorf("%s: got status %d and %q, want 400", path, status, text)
		}
	}
	if status, _ := request(t, http.MethodDelete, a.Control+"/faults/7", ""); status != http.StatusNotFound {
		t.Errorf("removal of no fault: got status %d, want 404", status)
	}
	if _, text := request(t, http.MethodGet, a.Control+"/calls", ""); !strings.Contains(text, `"DescribeVpcs":4`) {
		t.Errorf("got calls %s, want 4 of DescribeVpcs", text)
	}
	if _, text := request(t, http.MethodGet, a.Control+"/audit", ""); !strings.Contains(text, `"Code":"UnauthorizedOperation"`) {
		t.Errorf("got audit log %s, want the denied call", text)
	}
}

// TestControlSettings changes lags and delays over the control endpoint and adds an ENI of
// a service.
func TestControlSettings(t *testing.T) {
	a, stop := start(t, "-control", "127.0.0.1:0")
	defer stop()
	client := ec2.New(ec2.Options{Region: a.Region, BaseEndpoint: &a.EC2, Credentials: aws.AnonymousCredentials{}, RetryMaxAttempts: 1})
	put := func(path, body string, want int) string {
		t.Helper()
		method := http.MethodPut
		if path == "/foreign-enis" {
			method = http.MethodPost
		}
		status, text := request(t, method, a.Control+path, body)
		if status != want {
			t.Errorf("%s %s: got status %d and %q, want %d", path, body, status, text, want)
		}
		return text
	}
	state := func() types.InstanceStateName {
		out, err := client.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})
		if err != nil || len(out.Reservations) == 0 {
			return ""
		}
		return out.Reservations[0].Instances[0].State.Name
	}
	put("/delays", `{"Stop": "1h"}`, http.StatusOK)
	if _, err := client.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{a.Instances[0].ID}}); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != types.InstanceStateNameStopping {
		t.Errorf("got state %q, want stopping", got)
	}
	if _, text := request(t, http.MethodGet, a.Control+"/", ""); !strings.Contains(text, `"state":"stopping"`) {
		t.Errorf("got %s, want an instance that is stopping", text)
	}
	put("/lag", `{"Describe": "9m"}`, http.StatusOK)
	if got := state(); got != "" {
		t.Errorf("under lag: got state %q, want no instance", got)
	}
	put("/lag", `{}`, http.StatusOK)
	if text := put("/foreign-enis", `{"Subnet": "`+a.Subnets[0]+`", "Service": "nat"}`, http.StatusOK); !strings.Contains(text, `"RequesterManaged":true`) {
		t.Errorf("got %s, want an ENI that its requester manages", text)
	}
	put("/foreign-enis", `{"Subnet": "`+a.Subnets[0]+`", "Service": "moon"}`, http.StatusBadRequest)
	put("/lag", `{"Describe": "-1s"}`, http.StatusBadRequest)
	put("/lag", `{"Describes": "1s"}`, http.StatusBadRequest)
	put("/delays", `{"Attach": "soon"}`, http.StatusBadRequest)
}

// TestMetadataPorts checks that the metadata of the instances has the given ports,
// and that an instance with an IPv6 subnet has an IPv6 address.
func TestMetadataPorts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // finds a free port
	if err != nil {
		t.Fatal(err)
	}
	base := netip.MustParseAddrPort(l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	a, stop := start(t, "-metadata", base.String(), "-instances", "2", "-vpc6", "2001:db8::/56")
	defer stop()
	if want := "http://" + netip.AddrPortFrom(base.Addr(), base.Port()+1).String(); a.Instances[1].Metadata != want && a.Instances[0].Metadata != want {
		t.Errorf("got metadata at %s and %s, want one at %s", a.Instances[0].Metadata, a.Instances[1].Metadata, want)
	}
	client := imds.New(imds.Options{Endpoint: a.Instances[0].Metadata})
	if _, err := client.GetMetadata(t.Context(), &imds.GetMetadataInput{Path: "ipv6"}); err != nil {
		t.Error(err)
	}
}
