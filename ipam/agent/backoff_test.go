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

// TestBackoffByReason: the pauses of each reason stay within its bounds, and an
// operation in flight is retried every second.
func TestBackoffByReason(t *testing.T) {
	now := time.Now()
	for _, r := range ipam.Reasons() {
		var b backoff
		bounds := pauseFor(r)
		for range 20 {
			b.fail(refused(r), now, now, 1)
			if d := b.until.Sub(now); b.reason != r || d < bounds.first/2 || d > bounds.max {
				t.Errorf("%s: paused for %v as %s, want %v to %v", r, d, b.reason, bounds.first/2, bounds.max)
			}
		}
		if d := b.until.Sub(now); d != bounds.max {
			t.Errorf("%s: paused for %v after many failures, want %v", r, d, bounds.max)
		}
	}
	var b backoff
	for range 5 {
		if b.fail(refused(ipam.ReasonInFlight), now, now, 0); b.until.Sub(now) != time.Second {
			t.Errorf("in flight: paused for %v, want 1s", b.until.Sub(now))
		}
	}
}
