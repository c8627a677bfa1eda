// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Throttle limits the rate of calls. Each action has its own token bucket, which
// all callers share.
type Throttle struct {
	// Classes are the buckets of the actions of each class. The actions of a
	// missing class are not limited.
	Classes map[Class]Bucket
	// Actions are the buckets of actions that differ from their class.
	Actions map[string]Bucket
	// Resources are additional buckets, from which RunInstances and
	// TerminateInstances take a token for each instance.
	Resources map[string]Bucket
}

// Bucket is a token bucket. Each call takes a token. The bucket holds at most Size
// tokens and is refilled with Rate tokens a second.
type Bucket struct {
	Size int
	Rate float64
}

// Class is a class of API actions with the same rate limit.
type Class string

// The classes of https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html.
const (
	// NonMutating are the Describe and Get calls.
	NonMutating Class = "non-mutating"
	// Unfiltered are the DescribeInstances, DescribeNetworkInterfaces and
	// DescribeSecurityGroups calls that name neither a filter nor a page size.
	Unfiltered Class = "unfiltered"
	// Mutating are the calls that change resources.
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

// SetThrottle replaces the limits of the rate of calls and fills all buckets. Nil
// removes the limits.
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

// admit takes the tokens for a call, or returns EC2's error if there are too few.
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

// takeTokens takes n tokens from the bucket, all or none, and reports whether it
// took them.
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

// resources returns the number of instances that a call concerns.
func resources(form url.Values) int {
	n, _ := strconv.Atoi(form.Get("MaxCount"))
	for name := range form {
		if strings.HasPrefix(name, "InstanceId.") {
			n++
		}
	}
	return max(n, 1)
}

// hasUnfiltered are the actions that have the class Unfiltered if a call has
// neither a filter nor a page size.
var hasUnfiltered = map[string]bool{
	"DescribeInstances": true, "DescribeNetworkInterfaces": true, "DescribeSecurityGroups": true,
}

// classOf returns the class of one call.
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
