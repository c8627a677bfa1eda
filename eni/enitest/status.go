// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"slices"
	"strconv"
)

type describeStatusIn struct {
	query
	includeManaged
	IDs []string `ec2:"InstanceId"`
	All bool     `ec2:"IncludeAllInstances"`
}

type describeStatusOut struct {
	Statuses list[wireInstanceStatus] `xml:"instanceStatusSet"`
	Next     string                   `xml:"nextToken,omitempty"`
}

type wireInstanceStatus struct {
	Zone     string       `xml:"availabilityZone"`
	ZoneID   string       `xml:"availabilityZoneId"`
	ID       string       `xml:"instanceId"`
	State    wireState    `xml:"instanceState"`
	System   wireCheck    `xml:"systemStatus"`
	Instance wireCheck    `xml:"instanceStatus"`
	Operator wireOperator `xml:"operator"`
}

type wireCheck struct {
	Status  string                `xml:"status"`
	Details list[wireCheckDetail] `xml:"details"`
}

type wireCheckDetail struct {
	Name   string `xml:"name"`
	Status string `xml:"status"`
}

// describeInstanceStatus shows the running instances, or all if the call says so.
// All checks of a running instance have passed.
func (t *tx) describeInstanceStatus(in describeStatusIn) (describeStatusOut, error) {
	one := func(f func(*Instance) string) func(*Instance) []string {
		return func(i *Instance) []string { return []string{f(i)} }
	}
	status := one(func(i *Instance) string { return t.checkOf(i).Status })
	reachability := one(func(i *Instance) string {
		if d := t.checkOf(i).Details.Items; len(d) > 0 {
			return d[0].Status
		}
		return ""
	})
	r := resource[*Instance]{
		kind: kindInstance, idsParam: "instancesSet",
		id:   func(i *Instance) string { return i.ID },
		tags: func(i *Instance) map[string]string { return i.Tags },
		filters: map[string]func(*Instance) []string{
			"availability-zone":            one(func(i *Instance) string { return i.Zone }),
			"availability-zone-id":         one(func(i *Instance) string { return t.zoneID(i.Zone) }),
			"application-status.status":    none[*Instance],
			"attached-ebs-status.status":   none[*Instance],
			"event.code":                   none[*Instance],
			"event.description":            none[*Instance],
			"event.instance-event-id":      none[*Instance],
			"event.not-after":              none[*Instance],
			"event.not-before":             none[*Instance],
			"event.not-before-deadline":    none[*Instance],
			"instance-state-code":          one(func(i *Instance) string { return strconv.Itoa(stateOf(i.State(t.view)).Code) }),
			"instance-state-name":          one(func(i *Instance) string { return i.State(t.view) }),
			"instance-status.reachability": reachability,
			"instance-status.status":       status,
			"operator.managed":             one(func(i *Instance) string { return strconv.FormatBool(i.Operator != "") }),
			"operator.principal":           one(func(i *Instance) string { return i.Operator }),
			"system-status.reachability":   reachability,
			"system-status.status":         status,
		},
	}
	all := slices.DeleteFunc(t.c.state.instances.all(t.view), func(i *Instance) bool {
		return t.hides(in.includeManaged, i.Operator)
	})
	if !in.All && len(in.IDs) == 0 {
		all = slices.DeleteFunc(all, func(i *Instance) bool { return i.State(t.view) != "running" })
	}
	page, next, err := r.find(all, in.IDs, in.query)
	if err != nil {
		return describeStatusOut{}, err
	}
	if !in.All {
		page = slices.DeleteFunc(page, func(i *Instance) bool { return i.State(t.view) != "running" })
	}
	return describeStatusOut{listOf(page, func(i *Instance) wireInstanceStatus {
		c := t.checkOf(i)
		return wireInstanceStatus{i.Zone, t.zoneID(i.Zone), i.ID, stateOf(i.State(t.view)), c, c, wireOperator{i.Operator != "", i.Operator}}
	}), next}, nil
}

func (t *tx) checkOf(i *Instance) wireCheck {
	switch i.State(t.view) {
	case "running":
		return wireCheck{"ok", list[wireCheckDetail]{[]wireCheckDetail{{"reachability", "passed"}}}}
	case "pending":
		return wireCheck{"initializing", list[wireCheckDetail]{[]wireCheckDetail{{"reachability", "initializing"}}}}
	}
	return wireCheck{Status: "not-applicable"}
}

type describeRegionsIn struct {
	Filters []filterParam `ec2:"Filter"`
	Names   []string      `ec2:"RegionName"`
	All     bool          `ec2:"AllRegions"`
}

type wireRegion struct {
	Name     string `xml:"regionName"`
	Endpoint string `xml:"regionEndpoint"`
	OptIn    string `xml:"optInStatus"`
}

type describeRegionsOut struct {
	Regions list[wireRegion] `xml:"regionInfo"`
}

// regionNames are the regions that need no opt-in, by partition.
var regionNames = map[string][]string{
	"aws": {
		"ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1", "ap-southeast-1", "ap-southeast-2", "ca-central-1",
		"eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2", "eu-west-3", "sa-east-1", "us-east-1", "us-east-2", "us-west-1", "us-west-2",
	},
	"aws-cn":     {"cn-north-1", "cn-northwest-1"},
	"aws-us-gov": {"us-gov-east-1", "us-gov-west-1"},
}

// describeRegions lists the regions of the partition that need no opt-in, and the
// region of the Cloud.
func (t *tx) describeRegions(in describeRegionsIn) (describeRegionsOut, error) {
	names := append(slices.Clone(regionNames[t.partition().name]), t.c.cfg.Region)
	slices.Sort(names)
	endpoint := func(name string) string { return "ec2." + name + "." + t.partition().domain }
	r := resource[string]{
		kind: kind{notFound: "InvalidParameterValue", noun: "region"},
		id:   func(name string) string { return name },
		filters: map[string]func(string) []string{
			"endpoint":      func(name string) []string { return []string{endpoint(name)} },
			"opt-in-status": func(string) []string { return []string{"opt-in-not-required"} },
			"region-name":   func(name string) []string { return []string{name} },
		},
	}
	found, _, err := r.find(slices.Compact(names), in.Names, query{Filters: in.Filters})
	if err != nil {
		return describeRegionsOut{}, err
	}
	return describeRegionsOut{listOf(found, func(name string) wireRegion {
		return wireRegion{name, endpoint(name), "opt-in-not-required"}
	})}, nil
}

type describeENIAttributeIn struct {
	ID        string `ec2:"NetworkInterfaceId"`
	Attribute string `ec2:"Attribute"`
}

type wireValue[T any] struct {
	Value T `xml:"value"`
}

type describeENIAttributeOut struct {
	ID          string             `xml:"networkInterfaceId"`
	Attachment  *wireAttachment    `xml:"attachment"`
	Description *wireValue[string] `xml:"description"`
	Groups      *list[wireGroup]   `xml:"groupSet"`
	Check       *wireValue[bool]   `xml:"sourceDestCheck"`
	Public      *bool              `xml:"associatePublicIpAddress"`
}

// describeNetworkInterfaceAttribute shows one attribute of an ENI.
func (t *tx) describeNetworkInterfaceAttribute(in describeENIAttributeIn) (describeENIAttributeOut, error) {
	var none describeENIAttributeOut
	if in.ID == "" {
		return none, missing("networkInterfaceId")
	}
	found := t.eniCandidates([]string{in.ID})
	if len(found) == 0 {
		return none, kindENI.unknown(in.ID)
	}
	e := t.wireInterface(found[0], t.view)
	out := describeENIAttributeOut{ID: in.ID}
	switch in.Attribute {
	case "attachment":
		out.Attachment = e.Attachment
	case "description":
		out.Description = &wireValue[string]{e.Description}
	case "groupSet":
		out.Groups = &e.Groups
	case "sourceDestCheck":
		out.Check = &wireValue[bool]{e.SourceDestCheck}
	case "associatePublicIpAddress":
		public := e.Association != nil
		out.Public = &public
	case "":
		return none, missing("attribute")
	default:
		return none, invalidValue("Value (%s) for parameter attribute is invalid. Unknown attribute.", in.Attribute)
	}
	return out, nil
}
