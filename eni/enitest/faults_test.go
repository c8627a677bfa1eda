// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// bubble runs f in a synctest bubble, with a new world.
func bubble(t *testing.T, s setup, f func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t, s)) })
}

func (w *world) create(t *testing.T) string {
	t.Helper()
	out := must(w.ec2.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet.ID}))(t)
	return *out.NetworkInterface.NetworkInterfaceId
}

func (w *world) attach(t *testing.T, eni string, device int32) string {
	t.Helper()
	return *must(w.ec2.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
		NetworkInterfaceId: &eni, InstanceId: &w.instance.ID, DeviceIndex: &device,
	}))(t).AttachmentId
}

func (w *world) describe(t *testing.T, eni string) types.NetworkInterface {
	t.Helper()
	out := must(w.ec2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{eni}}))(t)
	return out.NetworkInterfaces[0]
}

// TestDelays checks that attaching, detaching and calls take the configured time.
func TestDelays(t *testing.T) {
	delays := enitest.Delays{Attach: 5 * time.Second, Detach: 8 * time.Second, Call: 300 * time.Millisecond}
	bubble(t, setup{config: enitest.Config{Delays: delays}}, func(t *testing.T, w *world) {
		began := time.Now()
		id := w.create(t)
		if took := time.Since(began); took != 300*time.Millisecond {
			t.Errorf("a call took %v, want 300ms", took)
		}
		attachment := w.attach(t, id, 1)
		mac := "network/interfaces/macs/" + *w.describe(t, id).MacAddress + "/interface-id"
		if s := w.describe(t, id).Attachment.Status; s != types.AttachmentStatusAttaching {
			t.Errorf("got attachment %s, want attaching", s)
		}
		if got := metadata(t, w.imds, mac); got != "404" {
			t.Errorf("metadata shows %q while attaching, want 404", got)
		}
		time.Sleep(5 * time.Second)
		if s := w.describe(t, id).Attachment.Status; s != types.AttachmentStatusAttached {
			t.Errorf("got attachment %s, want attached", s)
		}
		if got := metadata(t, w.imds, mac); got != id {
			t.Errorf("metadata shows %q, want %s", got, id)
		}
		must(w.ec2.DetachNetworkInterface(t.Context(), &ec2.DetachNetworkInterfaceInput{AttachmentId: &attachment}))(t)
		if s := w.describe(t, id).Attachment.Status; s != types.AttachmentStatusDetaching {
			t.Errorf("got attachment %s, want detaching", s)
		}
		_, err := w.ec2.DeleteNetworkInterface(t.Context(), &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &id})
		wantCode(t, err, "InvalidParameterValue")
		time.Sleep(8 * time.Second)
		if e := w.describe(t, id); e.Attachment != nil || e.Status != types.NetworkInterfaceStatusAvailable {
			t.Errorf("got %s with %v, want available", e.Status, e.Attachment)
		}
	})
}

// TestLag checks that Describe calls and metadata keys show a change after their
// own lags.
func TestLag(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		id := w.create(t)
		w.attach(t, id, 1)
		e, _ := w.ENI(id)
		w.SetLag(enitest.Lag{
			Describe: 3 * time.Second, Metadata: 20 * time.Second, Write: time.Second,
			Keys: map[string]time.Duration{"macs": 5 * time.Second, "local-ipv4s": 10 * time.Second},
		})
		views := func() []string {
			var v []string
			out, err := w.ec2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{
				NetworkInterfaceIds: []string{id},
			})
			if err != nil {
				v = append(v, "no describe")
			} else if len(out.NetworkInterfaces[0].PrivateIpAddresses) > 0 {
				v = append(v, "describe")
			}
			mac := "network/interfaces/macs/" + e.MAC + "/"
			for _, key := range []string{"", "local-ipv4s", "interface-id"} {
				if metadata(t, w.imds, mac+key) != "404" {
					v = append(v, "macs/"+key)
				}
			}
			return v
		}
		_, err := w.ec2.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
			NetworkInterfaceId: &id, SecondaryPrivateIpAddressCount: aws.Int32(1),
		})
		wantCode(t, err, "InvalidNetworkInterfaceID.NotFound")
		var got [][]string
		for _, wait := range []time.Duration{0, 3, 2, 5, 10} {
			time.Sleep(wait * time.Second)
			got = append(got, views())
		}
		want := [][]string{
			{"no describe"},
			{"describe"},
			{"describe"},
			{"describe", "macs/", "macs/local-ipv4s"},
			{"describe", "macs/", "macs/local-ipv4s", "macs/interface-id"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("views after 0, 3, 5, 10, 20 s (-want +got):\n%s", diff)
		}
	})
}

// TestFaults checks each kind of fault on calls that match it.
func TestFaults(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.AddFault(enitest.Fault{Action: "Create*", Skip: 1, Times: 1, Err: &enitest.APIError{Code: "InternalError", Message: "oops"}})
		w.create(t)
		_, err := w.ec2.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet.ID})
		wantCode(t, err, "InternalError")
		w.create(t)

		remove := w.AddFault(enitest.Fault{Action: "CreateNetworkInterface", Drop: true})
		before := len(w.ENIs())
		_, err = w.ec2.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet.ID})
		if !errors.Is(err, io.ErrUnexpectedEOF) || len(w.ENIs()) != before+1 {
			t.Errorf("dropped answer: got error %v and %d new ENIs, want 1", err, len(w.ENIs())-before)
		}
		remove()
		w.create(t)

		w.AddFault(enitest.Fault{Action: "DescribeVpcs", Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		_, err = w.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("hang: got error %v after %v, want a deadline after 1m", err, time.Since(began))
		}

		w.AddFault(enitest.Fault{Action: "DescribeSubnets", Delay: time.Hour, Caller: "AKIATEST"})
		must(w.ec2.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{}))(t)
		if took := time.Since(began); took != time.Hour+time.Minute {
			t.Errorf("delay: hang and delay took %v, want 1h1m", took)
		}

		w.AddFault(enitest.Fault{Action: "meta-data/mac", Times: 1, Err: &enitest.APIError{Status: 404}})
		if got := metadata(t, w.imds, "mac"); got != "404" {
			t.Errorf("metadata fault: got %q, want 404", got)
		}
		if got := metadata(t, w.imds, "mac"); got == "404" {
			t.Error("a metadata fault with Times 1 disturbs a second request")
		}
		var codes []string
		for _, c := range w.Audit() {
			codes = append(codes, c.Action+" "+c.Code)
		}
		want := []string{
			"CreateNetworkInterface ", "CreateNetworkInterface InternalError", "CreateNetworkInterface ", "CreateNetworkInterface ",
			"CreateNetworkInterface ", "DescribeVpcs abandoned", "DescribeSubnets ",
		}
		if diff := cmp.Diff(want, codes); diff != "" {
			t.Errorf("audit log (-want +got):\n%s", diff)
		}
	})
}

// TestThrottle empties the buckets, waits two seconds, and counts the calls that
// pass. A client of the SDK with retries succeeds after its back-off.
func TestThrottle(t *testing.T) {
	bubble(t, setup{config: enitest.Config{Throttle: enitest.AWSThrottle()}}, func(t *testing.T, w *world) {
		passed := func(call func() error) int {
			n := 0
			for range 200 {
				if err := call(); err == nil {
					n++
				} else {
					wantCode(t, err, "RequestLimitExceeded")
				}
			}
			return n
		}
		filtered := func() error {
			_, err := w.ec2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{MaxResults: aws.Int32(5)})
			return err
		}
		unfiltered := func() error {
			_, err := w.ec2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{})
			return err
		}
		attach := func() error {
			_, err := w.ec2.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
				NetworkInterfaceId: aws.String("eni-0"), InstanceId: &w.instance.ID, DeviceIndex: aws.Int32(1),
			})
			if codeOf(err) == "InvalidNetworkInterfaceID.NotFound" {
				return nil
			}
			return err
		}
		got := []int{passed(filtered), passed(unfiltered), passed(attach)}
		time.Sleep(2 * time.Second)
		got = append(got, passed(filtered), passed(unfiltered), passed(attach))
		if diff := cmp.Diff([]int{100, 50, 50, 40, 20, 10}, got); diff != "" {
			t.Errorf("calls that passed (-want +got):\n%s", diff)
		}
		began := time.Now()
		_, err := w.ec2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{}, func(o *ec2.Options) {
			o.Retryer = retry.NewStandard()
		})
		if err != nil || time.Since(began) <= 0 {
			t.Errorf("with retries: got error %v after %v, want success after a back-off", err, time.Since(began))
		}
	})
}

// TestDenied takes a permission from one caller and gives it back.
func TestDenied(t *testing.T) {
	w := newWorld(t, setup{})
	w.Deny("AKIATEST", "Describe*")
	_, err := w.ec2.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{})
	wantCode(t, err, "UnauthorizedOperation")
	w.create(t)
	w.Allow("AKIATEST", "Describe*")
	w.Deny("AKIAOTHER", "*")
	must(w.ec2.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{}))(t)
}

// TestDryRun checks that a dry run changes nothing, and that it reports a missing
// permission.
func TestDryRun(t *testing.T) {
	w := newWorld(t, setup{})
	in := &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet.ID, DryRun: aws.Bool(true)}
	_, err := w.ec2.CreateNetworkInterface(t.Context(), in)
	wantCode(t, err, "DryRunOperation")
	if n := len(w.ENIs()); n != 1 {
		t.Errorf("got %d ENIs after a dry run, want 1", n)
	}
	w.Deny("", "CreateNetworkInterface")
	_, err = w.ec2.CreateNetworkInterface(t.Context(), in)
	wantCode(t, err, "UnauthorizedOperation")
}

// TestClientToken repeats a call with the same client token.
func TestClientToken(t *testing.T) {
	w := newWorld(t, setup{})
	in := &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet.ID, ClientToken: aws.String("one")}
	first := must(w.ec2.CreateNetworkInterface(t.Context(), in))(t)
	w.AddFault(enitest.Fault{Action: "CreateNetworkInterface", Times: 1, Drop: true})
	if _, err := w.ec2.CreateNetworkInterface(t.Context(), in); err == nil {
		t.Error("the answer was not dropped")
	}
	again := must(w.ec2.CreateNetworkInterface(t.Context(), in))(t)
	if a, b := *first.NetworkInterface.NetworkInterfaceId, *again.NetworkInterface.NetworkInterfaceId; a != b || len(w.ENIs()) != 2 {
		t.Errorf("got ENIs %s and %s for one token, and %d in all, want one and 2 in all", a, b, len(w.ENIs()))
	}
	in.Description = aws.String("another")
	_, err := w.ec2.CreateNetworkInterface(t.Context(), in)
	wantCode(t, err, "IdempotentParameterMismatch")
}

// TestHooks makes concurrent calls with a slow hook that reads the cloud. The hook
// must get the events in the order of the changes.
func TestHooks(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		id := w.ENIs()[0].ID
		sizes := []int{}
		w.OnChange(func(e enitest.Event) {
			time.Sleep(time.Second)
			w.describe(t, id)
			sizes = append(sizes, len(e.ENI.Addrs))
		})
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				out, err := w.ec2.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
					NetworkInterfaceId: &id, SecondaryPrivateIpAddressCount: aws.Int32(1),
				})
				if err != nil || len(out.AssignedPrivateIpAddresses) != 1 {
					t.Errorf("got %v and error %v, want one address", out, err)
				}
			})
		}
		wg.Wait()
		if diff := cmp.Diff([]int{1, 2, 3, 4, 5}, sizes); diff != "" {
			t.Errorf("numbers of addresses in the events (-want +got):\n%s", diff)
		}
	})
}
