// SPDX-License-Identifier: Apache-2.0

package eks_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/examples/k8s/eks"
)

// TestNeedsAddress checks which pods are demand for addresses of the pool.
func TestNeedsAddress(t *testing.T) {
	for _, c := range []struct {
		pod  eks.Pod
		want bool
	}{
		{eks.Pod{Namespace: "default", Name: "web"}, true},
		{eks.Pod{HostNetwork: true}, false},
		{eks.Pod{Ended: true}, false},
		{eks.Pod{Deleted: true}, false},
		{eks.Pod{BranchENI: true}, false},
	} {
		if got := c.pod.NeedsAddress(); got != c.want {
			t.Errorf("%+v: %t, want %t", c.pod, got, c.want)
		}
	}
}

// TestComplete checks what annotations add to a request, and that the request of the runtime
// counts first.
func TestComplete(t *testing.T) {
	const nic = "k8s.amazonaws.com/nicConfig"
	type m = map[string]string
	runtime := cniplugin.AddRequest{Annotations: m{nic: "runtime"}}
	for _, c := range []struct {
		annotations m
		req         cniplugin.AddRequest
		want        string
	}{
		{nil, cniplugin.AddRequest{}, "map[] [] <nil>"},
		{m{nic: "multi-nic-attachment"}, cniplugin.AddRequest{}, "map[k8s.amazonaws.com/nicConfig:multi-nic-attachment] [] <nil>"},
		{m{nic: "multi-nic-attachment"}, runtime, "map[k8s.amazonaws.com/nicConfig:runtime] [] <nil>"},
		{m{eks.AddressAnnotation: "10.0.0.1, fd00::1"}, cniplugin.AddRequest{}, "map[] [10.0.0.1 fd00::1] <nil>"},
		{m{eks.AddressAnnotation: "x"}, cniplugin.AddRequest{}, `map[] [] annotation vpcnet.dev/addresses is "x", want addresses with commas`},
	} {
		req, err := eks.Pod{Annotations: c.annotations}.Complete(c.req)
		if got := fmt.Sprint(req.Annotations, req.Addrs, err); got != c.want {
			t.Errorf("%v: %s, want %s", c.annotations, got, c.want)
		}
	}
}

// TestEvent checks the events for errors of an ADD.
func TestEvent(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&cniplugin.AgentError{Reason: "subnet-full", Message: "no address", Details: "0 free"}, "SubnetFull no address: 0 free"},
		{&cniplugin.AgentError{Message: "no address"}, "FailedNetwork no address"},
		{errors.New("broken"), "FailedNetwork broken"},
	} {
		reason, message := eks.Event(c.err)
		if got := reason + " " + message; got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}
