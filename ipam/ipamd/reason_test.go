// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"fmt"
	"testing"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// TestReasonsOfENIs checks that each reason of package eni reaches a pod as the same
// word, except the two that only EC2's own text explains.
func TestReasonsOfENIs(t *testing.T) {
	other := map[eni.Reason]ipam.Reason{
		eni.ReasonInvalid: ipam.ReasonEC2Refused,
		eni.ReasonUnknown: ipam.ReasonEC2Refused,
	}
	for _, r := range eni.Reasons() {
		want, ok := other[r]
		if !ok {
			want = ipam.Reason(r)
		}
		err := fmt.Errorf("start: %w", eni.NewOpError("provision", r, nil))
		if got := agent.ReasonOf(err); got != want {
			t.Errorf("%s reaches a pod as %s, want %s", r, got, want)
		}
		if got := reasonOf(err); got != want {
			t.Errorf("%s is reported as %s while the agent starts, want %s", r, got, want)
		}
	}
}
