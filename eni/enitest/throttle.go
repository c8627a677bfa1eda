// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Throttle is the rate of calls that the API takes. Each action has a token
// bucket of its own, shared by all callers.
type Throttle struct {
	// Classes are the buckets by class; a class that is missing is not limited.
	Classes map[Class]Bucket
	// Actions are the buckets of actions that differ from their class.
	Actions map[string]Bucket
	// Resources are second buckets, out of which RunInstances and
	// TerminateInstances take a token for each instance.
	Resources map[string]Bucket
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
	// NonMutating are the Describe and Get calls.
	NonMutating Class = "non-mutating"
	// Unfiltered are the DescribeInstances, DescribeNetworkInterfaces and
	// DescribeSecurityGroups calls that name neither a filter nor a page size.
	Unfiltered Class = "unfiltered"
	// Mutating are the calls that change something.
	Mutating Class = "mutating"
)

// AWSThrottle returns the rates that AWS documents for an account.
func AWSThrottle() *Throttle {
	usual, tags, reservations := Bucket{Size: 100, Rate: 5}, Bucket{Size: 100, Rate: 10}, Bucket{Size: 5, Rate: 1}
	return &Throttle{
		Classes: map[Class]Bucket{
			NonMutating: {Size: 100, Rate: 20},
			Unfiltered:  {Size: 50, Rate: 10},
			Mutating:    {Size: 50, Rate: 5},
		},
		Actions: map[string]Bucket{
			"AssignIpv6Addresses":             usual,
			"AssignPrivateIpAddresses":        usual,
			"CreateNetworkInterface":          usual,
			"CreateSubnetCidrReservation":     reservations,
			"CreateTags":                      tags,
			"DeleteNetworkInterface":          usual,
			"DeleteSubnetCidrReservation":     reservations,
			"DeleteTags":                      tags,
			"ModifyNetworkInterfaceAttribute": usual,
			"RunInstances":                    {Size: 5, Rate: 2},
			"TerminateInstances":              usual,
			"UnassignPrivateIpAddresses":      usual,
		},
		Resources: map[string]Bucket{
			"RunInstances":       {Size: 1000, Rate: 2},
			"TerminateInstances": {Size: 1000, Rate: 20},
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

// bucket is the state of a Bucket.
type bucket struct {
	tokens float64
	filled time.Time
}

// admit takes the tokens for a call, or says that there are none.
func (c *Cloud) admit(action string, class Class, form url.Values) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.throttle == nil {
		return nil
	}
	limit, ok := c.throttle.Actions[action]
	if !ok {
		limit, ok = c.throttle.Classes[class]
	}
	if ok && !c.takeTokens(action+" "+string(class), limit, 1) {
		return errorf("RequestLimitExceeded", "Request limit exceeded.")
	}
	if limit, ok := c.throttle.Resources[action]; ok && !c.takeTokens(action, limit, resources(form)) {
		return errorf("RequestLimitExceeded", "Request limit exceeded.")
	}
	return nil
}

// takeTokens takes n tokens out of the bucket, all or none.
func (c *Cloud) takeTokens(name string, limit Bucket, n int) bool {
	now := time.Now()
	b := c.bucket[name]
	if b == nil {
		b = &bucket{tokens: float64(limit.Size), filled: now}
		c.bucket[name] = b
	}
	b.tokens = min(float64(limit.Size), b.tokens+limit.Rate*now.Sub(b.filled).Seconds())
	b.filled = now
	if b.tokens < float64(n) {
		return false
	}
	b.tokens -= float64(n)
	return true
}

// resources is how many instances a call is about.
func resources(form url.Values) int {
	n, _ := strconv.Atoi(form.Get("MaxCount"))
	for name := range form {
		if strings.HasPrefix(name, "InstanceId.") {
			n++
		}
	}
	return max(n, 1)
}

// hasUnfiltered are the actions that cost more without a filter or page size.
var hasUnfiltered = map[string]bool{
	"DescribeInstances": true, "DescribeNetworkInterfaces": true, "DescribeSecurityGroups": true,
}

// classOf is the class of one call.
func classOf(name string, act action, form url.Values) Class {
	if !hasUnfiltered[name] || form.Has("MaxResults") {
		return act.class
	}
	for parameter := range form {
		if strings.HasPrefix(parameter, "Filter.") {
			return act.class
		}
	}
	return Unfiltered
}
