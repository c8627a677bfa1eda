// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// refused is an error of a provider with its reason.
type refused ipam.Reason

func (r refused) Error() string  { return "EC2 says " + string(r) }
func (r refused) Reason() string { return string(r) }

// TestBackoffFollowsTheReason: the pauses of each reason begin and end where its
// bounds are, and an operation that has not ended is asked about each second.
func TestBackoffFollowsTheReason(t *testing.T) {
	now := time.Now()
	for _, r := range ipam.Reasons() {
		var b backoff
		bounds := pauses(r)
		for range 20 {
			b.fail(refused(r), now, 1)
			if d := b.until.Sub(now); b.reason != r || d < bounds.first/2 || d > bounds.most {
				t.Errorf("%s: paused for %v as %s, want %v to %v", r, d, b.reason, bounds.first/2, bounds.most)
			}
		}
		if d := b.until.Sub(now); d != bounds.most {
			t.Errorf("%s: paused for %v after many failures, want %v", r, d, bounds.most)
		}
	}
	var b backoff
	for range 5 {
		if b.fail(refused(ipam.ReasonInFlight), now, 0); b.until.Sub(now) != time.Second {
			t.Errorf("in flight: paused for %v", b.until.Sub(now))
		}
	}
}
