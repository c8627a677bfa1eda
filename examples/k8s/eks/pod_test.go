// SPDX-License-Identifier: Apache-2.0

package eks_test

import (
	"testing"

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
