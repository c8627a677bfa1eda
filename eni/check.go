// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of EC2 that no account can exceed.
const (
	// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions
	maxTags     = 50
	maxTagKey   = 128
	maxTagValue = 256
	// https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html: 5 by
	// default, 16 with a higher quota.
	maxGroups = 16
)

// check returns an error for tags or security groups that EC2 would refuse at every
// new ENI.
func (c Config) check() error {
	tags := ownTags(c)
	for k, v := range tags {
		switch {
		case k == "" || utf8.RuneCountInString(k) > maxTagKey:
			return fmt.Errorf("tag key %q has %d characters, want 1 to %d", k, utf8.RuneCountInString(k), maxTagKey)
		case strings.HasPrefix(strings.ToLower(k), "aws:"):
			return fmt.Errorf("tag key %q begins with aws:, which is reserved for AWS", k)
		case utf8.RuneCountInString(v) > maxTagValue:
			return fmt.Errorf("value of tag %q has %d characters, want at most %d", k, utf8.RuneCountInString(v), maxTagValue)
		}
	}
	if len(tags) > maxTags {
		return fmt.Errorf("%d tags for an ENI with those of this package, want at most %d", len(tags), maxTags)
	}
	return checkGroups(c.Groups)
}

// checkGroups checks the lists of security groups of a selector of this package.
func checkGroups(s GroupSelector) error {
	var lists [][]string
	switch s := s.(type) {
	case FixedGroups:
		lists = [][]string{s}
	case ByZone:
		for _, p := range s {
			lists = append(lists, p.Groups)
		}
	}
	for _, groups := range lists {
		if len(groups) > maxGroups {
			return fmt.Errorf("%d security groups for an ENI, want at most %d", len(groups), maxGroups)
		}
		if i := slices.IndexFunc(groups, func(g string) bool { return !strings.HasPrefix(g, "sg-") }); i >= 0 {
			return fmt.Errorf("security group %q is not an ID, want one such as sg-0a1b2c3d", groups[i])
		}
	}
	return nil
}
