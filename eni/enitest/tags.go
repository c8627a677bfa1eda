// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"maps"
	"slices"
	"strings"
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
		case tag.Key == "" || len(tag.Key) > 128:
			return invalidValue("Tag keys must be between 1 and 128 characters in length.")
		case len(tag.value()) > 256:
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
		merged := maps.Clone(t.tagsOf(id))
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
		if strings.HasPrefix(id, kindENI.prefix) {
			if _, err := t.findENI(id); err != nil {
				return err
			}
		}
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

// kindOf returns the kind of an existing resource, as DescribeTags names it.
func (t *tx) kindOf(id string) (string, error) {
	s := &t.c.state
	for _, k := range []struct {
		kind  kind
		name  string
		found bool
	}{
		{kindENI, "network-interface", t.eni(id) != nil},
		{kindInstance, "instance", t.instance(id) != nil},
		{kindSubnet, "subnet", t.subnet(id) != nil},
		{kindVPC, "vpc", s.vpcs[id] != nil},
		{kindGroup, "security-group", s.groups[id] != nil},
		{kindRouteTable, "route-table", s.routeTables[id] != nil},
		{kindACL, "network-acl", s.acls[id] != nil},
		{kindAddress, "elastic-ip", s.addresses[id] != nil},
	} {
		if !strings.HasPrefix(id, k.kind.prefix) {
			continue
		}
		if !k.found {
			return "", k.kind.unknown(id)
		}
		return k.name, nil
	}
	return "", errorf("InvalidID", "The ID '%s' is not valid", id)
}

func (t *tx) tagsOf(id string) map[string]string {
	switch kind, _ := t.kindOf(id); kind {
	case "network-interface":
		return t.eni(id).Tags
	case "instance":
		return t.instance(id).Tags
	case "subnet":
		return t.subnet(id).Tags
	case "vpc":
		return t.c.state.vpcs[id].Tags
	case "security-group":
		return t.c.state.groups[id].Tags
	case "route-table":
		return t.c.state.routeTables[id].Tags
	case "network-acl":
		return t.c.state.acls[id].Tags
	case "elastic-ip":
		return t.c.state.addresses[id].Tags
	}
	return nil
}

// retag changes the tags of a resource.
func (t *tx) retag(id string, f func(map[string]string)) error {
	kind, err := t.kindOf(id)
	if err != nil {
		return err
	}
	tags := maps.Clone(t.tagsOf(id))
	if tags == nil {
		tags = map[string]string{}
	}
	f(tags)
	switch kind {
	case "network-interface":
		e := t.eni(id).clone()
		e.Tags = tags
		t.put(e)
	case "instance":
		i := t.instance(id).clone()
		i.Tags = tags
		t.putInstance(i)
	case "subnet":
		s := t.subnet(id).clone()
		s.Tags = tags
		t.putSubnet(s)
	case "vpc":
		t.c.state.vpcs[id].Tags = tags
	case "security-group":
		t.c.state.groups[id].Tags = tags
	case "route-table":
		t.c.state.routeTables[id].Tags = tags
	case "network-acl":
		t.c.state.acls[id].Tags = tags
	case "elastic-ip":
		t.c.state.addresses[id].Tags = tags
	}
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
		id: func(d wireTagDescription) string { return d.ResourceID + "\x00" + d.Key },
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
	for _, e := range t.allENIs(t.view) {
		add(e.ID, "network-interface", e.Tags)
	}
	for _, i := range existing(t.c.state.instances, t.view) {
		add(i.ID, "instance", i.Tags)
	}
	for _, s := range existing(t.c.state.subnets, t.view) {
		add(s.ID, "subnet", s.Tags)
	}
	for _, v := range t.c.state.vpcs {
		add(v.ID, "vpc", v.Tags)
	}
	for _, g := range t.c.state.groups {
		add(g.ID, "security-group", g.Tags)
	}
	for _, r := range t.c.state.routeTables {
		add(r.ID, "route-table", r.Tags)
	}
	for _, a := range t.c.state.acls {
		add(a.ID, "network-acl", a.Tags)
	}
	for _, a := range t.c.state.addresses {
		add(a.ID, "elastic-ip", a.Tags)
	}
	slices.SortFunc(all, func(a, b wireTagDescription) int {
		return strings.Compare(a.ResourceID+"\x00"+a.Key, b.ResourceID+"\x00"+b.Key)
	})
	return all
}
