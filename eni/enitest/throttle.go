// SPDX-License-Identifier: Apache-2.0

package enitest

import "time"

// Throttle is the rate of calls that the API takes: a token bucket for each
// action, whose size depends on the action's class.
type Throttle struct {
	// Classes are the buckets by class; a class that is missing is not limited.
	Classes map[Class]Bucket
	// Actions are the buckets of single actions that differ from their class.
	Actions map[string]Bucket
	// PerClass makes all actions of a class share one bucket.
	PerClass bool
}

// Bucket is a token bucket. Each call takes a token; at Rate tokens a second it
// fills up to Size.
type Bucket struct {
	Size int
	Rate float64
}

// Class is a class of API actions with a request rate of its own.
type Class string

// The classes of https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html.
const (
	// NonMutating are Describe and Get calls with a filter, IDs or MaxResults.
	NonMutating Class = "non-mutating"
	// Unfiltered are Describe and Get calls that ask for everything at once.
	Unfiltered Class = "unfiltered"
	// Mutating are the calls that change something.
	Mutating Class = "mutating"
	// ResourceIntensive are the calls that cost the service most.
	ResourceIntensive Class = "resource-intensive"
)

// AWSThrottle is the rate that AWS documents for a new account.
func AWSThrottle() *Throttle {
	return &Throttle{
		Classes: map[Class]Bucket{
			NonMutating:       {Size: 100, Rate: 20},
			Unfiltered:        {Size: 50, Rate: 10},
			Mutating:          {Size: 50, Rate: 5},
			ResourceIntensive: {Size: 50, Rate: 5},
		},
	}
}

// SetThrottle changes the rate of calls; nil takes the limit away. All buckets
// are full again.
func (c *Cloud) SetThrottle(t *Throttle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.throttle = t
	clear(c.bucket)
}

type bucket struct {
	tokens float64
	filled time.Time
}

// admit takes a token for a call, or says that there is none.
func (c *Cloud) admit(action string, class Class) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.throttle == nil {
		return nil
	}
	key := action + "/" + string(class)
	limit, ok := c.throttle.Actions[action]
	if !ok {
		if limit, ok = c.throttle.Classes[class]; !ok {
			return nil
		}
		if c.throttle.PerClass {
			key = string(class)
		}
	}
	now := time.Now()
	b := c.bucket[key]
	if b == nil {
		b = &bucket{tokens: float64(limit.Size), filled: now}
		c.bucket[key] = b
	}
	b.tokens = min(float64(limit.Size), b.tokens+limit.Rate*now.Sub(b.filled).Seconds())
	b.filled = now
	if b.tokens < 1 {
		return errorf("RequestLimitExceeded", "Request limit exceeded.")
	}
	b.tokens--
	return nil
}
