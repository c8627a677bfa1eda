// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"testing"
	"time"
)

func TestSweepKeepReason(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	in := SweepInput{VPCID: "vpc-1", Owner: "vpcnet", Cluster: "blue", MinAge: 10 * time.Minute}
	leaked := func(change func(e *ENI)) ENI {
		e := ENI{ID: "eni-1", VPCID: "vpc-1", Status: "available", Tags: map[string]string{
			TagOwner: "vpcnet", TagCluster: "blue", TagInstance: "i-1", TagCreated: now.Add(-time.Hour).Format(time.RFC3339),
		}}
		change(&e)
		return e
	}
	tag := func(key, value string) func(*ENI) { return func(e *ENI) { e.Tags[key] = value } }
	for _, c := range []struct {
		name, instance string
		change         func(e *ENI)
		want           string
	}{
		{"leaked", "", func(*ENI) {}, ""},
		{"leaked by this instance", "i-1", func(*ENI) {}, ""},
		{"leaked by another instance", "i-2", func(*ENI) {}, "of another instance"},
		{"no owner", "", tag(TagOwner, ""), "of another owner"},
		{"another owner", "", tag(TagOwner, "else"), "of another owner"},
		{"another VPC", "", func(e *ENI) { e.VPCID = "vpc-2" }, "in another VPC"},
		{"another cluster", "", tag(TagCluster, "green"), "of another cluster"},
		{"no cluster", "", tag(TagCluster, ""), "of another cluster"},
		{"not to be managed", "", tag(TagNoManage, "true"), "tagged " + TagNoManage},
		{"of a service", "", func(e *ENI) { e.ManagedBy = "eks.amazonaws.com" }, "managed by eks.amazonaws.com"},
		{"attached", "", func(e *ENI) { e.Attachment = "attach-1" }, "in use"},
		{"a branch", "", func(e *ENI) { e.Status = "in-use" }, "in use"},
		{"being attached", "", func(e *ENI) { e.Status = "attaching" }, "in use"},
		{"no creation time", "", tag(TagCreated, ""), "creation time is invalid"},
		{"creation time in another format", "", tag(TagCreated, "yesterday"), "creation time is invalid"},
		{"just created", "", tag(TagCreated, now.Add(-9*time.Minute).Format(time.RFC3339)), "too young"},
		{"created in the future", "", tag(TagCreated, now.Add(time.Hour).Format(time.RFC3339)), "too young"},
	} {
		in.Instance = c.instance
		if got := in.keepReason(leaked(c.change), now); got != c.want {
			t.Errorf("%s: keep reason %q, want %q", c.name, got, c.want)
		}
	}
}
