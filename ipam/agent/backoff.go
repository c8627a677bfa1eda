// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// pause is the time between two tries that fail for the same reason: first after
// the first failure, then doubled up to max.
type pause struct{ first, max time.Duration }

// pauseFor returns the pause for a reason. It is minutes where another node must
// free addresses or an operator must act, and seconds where the cause is likely
// to pass soon.
func pauseFor(r ipam.Reason) pause {
	switch r {
	case ipam.ReasonSubnetFull, ipam.ReasonNoFreePrefix:
		return pause{15 * time.Second, 2 * time.Minute}
	case ipam.ReasonENILimit, ipam.ReasonSlotLimit, ipam.ReasonQuota, ipam.ReasonSafeMode, ipam.ReasonNotManaged:
		return pause{time.Minute, 10 * time.Minute}
	case ipam.ReasonUnauthorized:
		return pause{30 * time.Second, 5 * time.Minute}
	case ipam.ReasonInFlight:
		return pause{time.Second, time.Second}
	case ipam.ReasonThrottled, ipam.ReasonEC2Unreachable, ipam.ReasonNoMetadata, ipam.ReasonLinkNotReady:
		return pause{time.Second, 30 * time.Second}
	default:
		return pause{5 * time.Second, 2 * time.Minute}
	}
}

// backoff is the latest failure of one kind of action, and when to try again.
// The zero value means no failure.
type backoff struct {
	failures int
	failedAt time.Time // the time of the latest failure
	until    time.Time
	reason   ipam.Reason
	evidence string
	// final means that requests need not wait for the next try.
	final bool
}

// fail records the failure of an action that began at the given time. Actions that
// were under way at the same time and fail for the same reason count as one failure.
// rnd is in [0, 1): up to half of the pause is jitter, so that nodes that failed at
// the same time do not retry at the same time.
func (b *backoff) fail(err error, began, now time.Time, rnd float64) {
	reason, after := explain(err)
	switch {
	case reason != b.reason:
		b.failures = 0
	case b.failures > 0 && began.Before(b.failedAt):
		b.failures--
	}
	p := pauseFor(reason)
	d := min(p.max, p.first<<min(b.failures, 10))
	if p.first < p.max {
		d = d/2 + time.Duration(rnd*float64(d/2))
	}
	b.failures++
	b.reason, b.evidence, b.failedAt = reason, err.Error(), now
	var final interface{ Final() bool }
	b.final = errors.As(err, &final) && final.Final()
	b.until = now.Add(max(d, after))
}

func (b *backoff) active(now time.Time) bool { return b.until.After(now) }

// ReasonOf returns the reason of an error of a provider: the result of the
// error's method Reason if that is a value of ipam.Reason,
// ipam.ReasonEC2Unreachable for a timeout, and ipam.ReasonEC2Refused for every
// other error. No other function translates errors into reasons.
func ReasonOf(err error) ipam.Reason {
	var link *linkError
	if errors.As(err, &link) {
		return ipam.ReasonLinkNotReady
	}
	var named interface{ Reason() string }
	if errors.As(err, &named) {
		if r := ipam.Reason(named.Reason()); slices.Contains(ipam.Reasons(), r) {
			return r
		}
	}
	var slow interface{ Timeout() bool }
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &slow) && slow.Timeout() {
		return ipam.ReasonEC2Unreachable
	}
	return ipam.ReasonEC2Refused
}

// explain returns the reason of an error of a provider, and the time that the
// error's method RetryAfter asks to wait; 0 if there is none.
func explain(err error) (reason ipam.Reason, retryAfter time.Duration) {
	var after interface{ RetryAfter() time.Duration }
	if errors.As(err, &after) {
		retryAfter = after.RetryAfter()
	}
	return ReasonOf(err), retryAfter
}

// hadNoEffect reports whether a call that failed for this reason certainly had
// no effect, so that no observation is needed.
func hadNoEffect(r ipam.Reason) bool {
	switch r {
	case ipam.ReasonSubnetFull, ipam.ReasonNoFreePrefix, ipam.ReasonThrottled, ipam.ReasonUnauthorized,
		ipam.ReasonQuota, ipam.ReasonSafeMode, ipam.ReasonInFlight, ipam.ReasonNotManaged:
		return true
	default:
		return false
	}
}

// linkError is a failure of Links.
type linkError struct {
	eni string
	err error
}

func (e *linkError) Error() string { return fmt.Sprintf("link of %s: %v", e.eni, e.err) }
func (e *linkError) Unwrap() error { return e.err }
