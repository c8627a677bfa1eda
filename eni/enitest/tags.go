// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxTags is the maximum number of tags of a resource.
const maxTags = 50

// tagsFor returns the tags that a call gives to new resources of the given type.
// The call can also create resources of the other types.
func tagsFor(resource string, specs []tagSpecParam, others ...string) (map[string]string, error) {
	tags := map[string]string{}
	for _, s := range specs {
		if s.ResourceType != resource && !slices.Contains(others, s.ResourceType) {
			return nil, invalidValue("'%s' is not a valid taggable resource type for this operation.", s.ResourceType)
		}
		if s.ResourceType != resource {
			continue
		}
		if err := checkTags(s.Tags); err != nil {
			return nil, err
		}
		for _, tag := range s.Tags {
			tags[tag.Key] = tag.value()
		}
	}
	if len(tags) > maxTags {
		return nil, errTagLimit()
	}
	return tags, nil
}

func (p tagParam) value() string {
	if p.Value == nil {
		return ""
	}
	return *p.Value
}

// checkTags checks tags against the restrictions in
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions.
func checkTags(tags []tagParam) error {
	keys := map[string]bool{}
	for _, tag := range tags {
		switch {
		case tag.Key == "" || utf8.RuneCountInString(tag.Key) > 128:
			return invalidValue("Tag keys must be between 1 and 128 characters in length.")
		case utf8.RuneCountInString(tag.value()) > 256:
			return invalidValue("Tag values must be no longer than 256 characters.")
		case strings.HasPrefix(strings.ToLower(tag.Key), "aws:"):
			return invalidValue("Tag keys starting with 'aws:' are reserved for internal use")
		case keys[tag.Key]:
			return invalidValue("Duplicate tag key '%s' specified.", tag.Key)
		}
		keys[tag.Key] = true
	}
	return nil
}

func errTagLimit() error {
	return errorf("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
}

type tagsIn struct {
	IDs  []string   `ec2:"ResourceId"`
	Tags []tagParam `ec2:"Tag"`
}

func (t *tx) createTags(in tagsIn) (wireReturn, error) {
	if err := t.checkTagged(in); err != nil {
		return wireReturn{}, err
	}
	if len(in.Tags) == 0 {
		return wireReturn{}, missing("tagSet")
	}
	if err := checkTags(in.Tags); err != nil {
		return wireReturn{}, err
	}
	for _, id := range in.IDs {
		k, err := t.kindOf(id)
		if err != nil {
			return wireReturn{}, err
		}
		merged := maps.Clone(k.tags(id))
		if merged == nil {
			merged = map[string]string{}
		}
		for _, tag := range in.Tags {
			merged[tag.Key] = tag.value()
		}
		if len(merged) > maxTags {
			return wireReturn{}, errTagLimit()
		}
	}
	return wireReturn{true}, t.retagAll(in.IDs, func(have map[string]string) {
		for _, tag := range in.Tags {
			have[tag.Key] = tag.value()
		}
	})
}

// deleteTags deletes the given tags. A tag that is given with a value is deleted
// only if it has that value. Without given tags all tags are deleted.
func (t *tx) deleteTags(in tagsIn) (wireReturn, error) {
	if err := t.checkTagged(in); err != nil {
		return wireReturn{}, err
	}
	if err := checkTags(in.Tags); err != nil {
		return wireReturn{}, err
	}
	return wireReturn{true}, t.retagAll(in.IDs, func(have map[string]string) {
		if len(in.Tags) == 0 {
			clear(have)
		}
		for _, tag := range in.Tags {
			if tag.Value == nil || have[tag.Key] == *tag.Value {
				delete(have, tag.Key)
			}
		}
	})
}

// checkTagged checks that every resource exists, so that the call changes all of
// them or none.
func (t *tx) checkTagged(in tagsIn) error {
	if len(in.IDs) == 0 {
		return missing("resourceIdSet")
	}
	for _, id := range in.IDs {
		if _, err := t.kindOf(id); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) retagAll(ids []string, f func(map[string]string)) error {
	for _, id := range ids {
		if err := t.retag(id, f); err != nil {
			return err
		}
	}
	return nil
}

// tagged is one kind of resources with tags.
type tagged struct {
	kind kind
	// name is the resource type, as DescribeTags names it.
	name string
	// found reports whether a call that names the ID finds the resource.
	found func(id string) bool
	// tags returns the tags of the resource with the ID, and retag replaces them.
	tags  func(id string) map[string]string
	retag func(id string, tags map[string]string)
	// shown returns the tags of all resources as the transaction shows them, by ID.
	shown func() map[string]map[string]string
}

// taggedIn returns the kind of the resources in a table. The function of returns the
// field of the tags.
func taggedIn[T any](t *tx, k kind, name string, tb table[T], of func(*T) *map[string]string) tagged {
	return tagged{
		kind: k, name: name,
		found: func(id string) bool { return tb.found(t, id) != nil },
		tags:  func(id string) map[string]string { return *of(tb.at(id, t.now)) },
		retag: func(id string, tags map[string]string) {
			d := *tb.at(id, t.now)
			*of(&d) = tags
			tb.set(t, id, &d)
		},
		shown: func() map[string]map[string]string {
			all := map[string]map[string]string{}
			for id, h := range tb {
				if v := h.at(t.view); v != nil {
					all[id] = *of(v)
				}
			}
			return all
		},
	}
}

// taggedKinds returns the kinds of resources with tags.
func (t *tx) taggedKinds() []tagged {
	s := &t.c.state
	return []tagged{
		taggedIn(t, kindTemplate, "launch-template", s.templates, func(l *LaunchTemplate) *map[string]string { return &l.Tags }),
		taggedIn(t, kindENI, "network-interface", s.enis, func(e *ENI) *map[string]string { return &e.Tags }),
		taggedIn(t, kindInstance, "instance", s.instances, func(i *Instance) *map[string]string { return &i.Tags }),
		taggedIn(t, kindSubnet, "subnet", s.subnets, func(s *Subnet) *map[string]string { return &s.Tags }),
		taggedIn(t, kindVPC, "vpc", s.vpcs, func(v *VPC) *map[string]string { return &v.Tags }),
		taggedIn(t, kindGroup, "security-group", s.groups, func(g *SecurityGroup) *map[string]string { return &g.Tags }),
		taggedIn(t, kindRouteTable, "route-table", s.routeTables, func(r *RouteTable) *map[string]string { return &r.Tags }),
		taggedIn(t, kindACL, "network-acl", s.acls, func(a *NetworkACL) *map[string]string { return &a.Tags }),
		taggedIn(t, kindAddress, "elastic-ip", s.addresses, func(a *Address) *map[string]string { return &a.Tags }),
	}
}

// kindOf returns the kind of the resource with the ID, or EC2's error if the call does
// not find the resource.
func (t *tx) kindOf(id string) (tagged, error) {
	for _, k := range t.taggedKinds() {
		if !strings.HasPrefix(id, k.kind.prefix) {
			continue
		}
		if !k.found(id) {
			return tagged{}, k.kind.unknown(id)
		}
		return k, nil
	}
	return tagged{}, errorf("InvalidID", "The ID '%s' is not valid", id)
}

// retag changes the tags of a resource.
func (t *tx) retag(id string, f func(map[string]string)) error {
	k, err := t.kindOf(id)
	if err != nil {
		return err
	}
	tags := maps.Clone(k.tags(id))
	if tags == nil {
		tags = map[string]string{}
	}
	f(tags)
	k.retag(id, tags)
	return nil
}

type describeTagsIn struct {
	query
}

type describeTagsOut struct {
	Tags list[wireTagDescription] `xml:"tagSet"`
	Next string                   `xml:"nextToken,omitempty"`
}

func (t *tx) describeTags(in describeTagsIn) (describeTagsOut, error) {
	r := resource[wireTagDescription]{
		id:   func(d wireTagDescription) string { return d.ResourceID + "\x00" + d.Key },
		tags: func(d wireTagDescription) map[string]string { return map[string]string{d.Key: d.Value} },
		filters: map[string]func(wireTagDescription) []string{
			"key":           func(d wireTagDescription) []string { return []string{d.Key} },
			"value":         func(d wireTagDescription) []string { return []string{d.Value} },
			"resource-id":   func(d wireTagDescription) []string { return []string{d.ResourceID} },
			"resource-type": func(d wireTagDescription) []string { return []string{d.ResourceType} },
		},
	}
	page, next, err := r.find(t.allTags(), nil, in.query)
	if err != nil {
		return describeTagsOut{}, err
	}
	return describeTagsOut{list[wireTagDescription]{page}, next}, nil
}

// allTags returns the tags of all resources, sorted by resource and key.
func (t *tx) allTags() []wireTagDescription {
	var all []wireTagDescription
	add := func(id, kind string, tags map[string]string) {
		for key, value := range tags {
			all = append(all, wireTagDescription{id, kind, key, value})
		}
	}
	for _, k := range t.taggedKinds() {
		for id, tags := range k.shown() {
			add(id, k.name, tags)
		}
	}
	slices.SortFunc(all, func(a, b wireTagDescription) int {
		return strings.Compare(a.ResourceID+"\x00"+a.Key, b.ResourceID+"\x00"+b.Key)
	})
	return all
}
