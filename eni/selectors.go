// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// SubnetSelector chooses the subnets of new ENIs. Its methods are pure functions;
// the Manager makes the calls.
type SubnetSelector interface {
	// Query returns which subnets to ask EC2 about. ok is false if EC2 need not be
	// asked, because only the primary ENI's subnet is allowed.
	Query(inst Instance) (q SubnetQuery, ok bool)
	// Order returns the allowed candidates, best first. Without a query the only
	// candidate is the primary ENI's subnet.
	Order(inst Instance, candidates []Subnet) []Subnet
}

// GroupSelector chooses the security groups of new and existing ENIs.
type GroupSelector interface {
	// Groups returns the groups for an ENI in a subnet. nil means that an existing
	// ENI keeps its groups, and that a new one gets those of the primary ENI.
	Groups(inst Instance, subnetID string, kind Kind) []string
}

// SubnetQuery restricts a listing of subnets. A subnet must match all fields that
// are not empty.
type SubnetQuery struct {
	IDs         []string
	VPCID, Zone string
	// Tags are tags that a subnet must have, with one of the values. An empty list
	// allows every value.
	Tags map[string][]string
}

// primarySubnet selects the primary ENI's subnet for every ENI. It needs no calls.
type primarySubnet struct{}

// Query returns false.
func (primarySubnet) Query(Instance) (SubnetQuery, bool) { return SubnetQuery{}, false }

// Order returns the candidates unchanged.
func (primarySubnet) Order(_ Instance, candidates []Subnet) []Subnet { return candidates }

// SubnetsByID lists the IDs of the allowed subnets. The Manager uses those in the
// instance's zone, in this order, and goes to the next one if a subnet is full.
type SubnetsByID []string

// Query returns a query for the subnets in the instance's zone.
func (s SubnetsByID) Query(inst Instance) (SubnetQuery, bool) {
	return SubnetQuery{IDs: s, Zone: inst.Zone}, true
}

// Order returns the candidates in the order of the list.
func (s SubnetsByID) Order(_ Instance, candidates []Subnet) []Subnet {
	out := slices.Clone(candidates)
	slices.SortStableFunc(out, func(a, b Subnet) int {
		return cmp.Compare(slices.Index(s, a.ID), slices.Index(s, b.ID))
	})
	return out
}

// Tag keys of subnets, as amazon-vpc-cni-k8s defines them.
const (
	// TagSubnetRole says whether a subnet is for pods: "0" forbids it, every other
	// value allows it.
	TagSubnetRole = "kubernetes.io/role/cni"
	// TagSubnetCluster, followed by a cluster's name, restricts a subnet to that
	// cluster. A subnet can have such a tag for several clusters.
	TagSubnetCluster = "cni.networking.k8s.aws/cluster/"
)

// SubnetsByTag selects the subnets of the instance's VPC and zone that are tagged
// for pods, as amazon-vpc-cni-k8s does. The subnet with the most free addresses
// comes first. The primary ENI's subnet needs no tag, but a tag can forbid it.
type SubnetsByTag struct {
	// Cluster is the cluster's name. If it is empty, subnets of every cluster are
	// allowed.
	Cluster string
	// Tags replaces the role tag: a subnet must have all of these tags. Optional.
	Tags map[string]string
}

// Query returns a query for all subnets of the zone, so that one call is enough for
// all rules.
func (s SubnetsByTag) Query(inst Instance) (SubnetQuery, bool) {
	return SubnetQuery{VPCID: inst.VPCID, Zone: inst.Zone}, true
}

// Order returns the subnets that the tags allow, sorted by free addresses.
func (s SubnetsByTag) Order(inst Instance, candidates []Subnet) []Subnet {
	out := slices.Clone(candidates)
	out = slices.DeleteFunc(out, func(c Subnet) bool { return !s.allows(inst, c) })
	slices.SortStableFunc(out, func(a, b Subnet) int { return cmp.Or(cmp.Compare(b.Free, a.Free), cmp.Compare(a.ID, b.ID)) })
	return out
}

// allows reports whether the tags of a subnet allow it.
func (s SubnetsByTag) allows(inst Instance, c Subnet) bool {
	if !s.ownCluster(c) {
		return false
	}
	if len(s.Tags) > 0 {
		for k, v := range s.Tags {
			if c.Tags[k] != v {
				return false
			}
		}
		return true
	}
	role := c.Tags[TagSubnetRole]
	return role != "0" && (role != "" || c.ID == inst.PrimarySubnet.ID)
}

// ownCluster reports whether the subnet is tagged for this cluster, or for none.
func (s SubnetsByTag) ownCluster(c Subnet) bool {
	if s.Cluster == "" {
		return true
	}
	others := false
	for k := range maps.Keys(c.Tags) {
		if name, ok := strings.CutPrefix(k, TagSubnetCluster); ok {
			if name == s.Cluster {
				return true
			}
			others = true
		}
	}
	return !others
}

// primaryGroups selects the primary ENI's security groups for every ENI.
type primaryGroups struct{}

// Groups returns the groups of the primary ENI.
func (primaryGroups) Groups(inst Instance, _ string, _ Kind) []string { return inst.Groups }

// FixedGroups lists the security groups of every secondary ENI.
type FixedGroups []string

// Groups returns the list.
func (f FixedGroups) Groups(Instance, string, Kind) []string { return f }

// Placement holds the subnets and security groups of the pods' ENIs in one
// availability zone.
type Placement struct {
	Subnets []string
	// Groups are the security groups. Optional; default those of the primary ENI.
	Groups []string
}

// ByZone holds the subnets and security groups of the pods' ENIs by zone. They can
// differ from those of the node, which is known as custom networking. ByZone is a
// SubnetSelector and a GroupSelector. The primary ENI keeps its groups. In a zone
// that is missing, no ENI can be created.
type ByZone map[string]Placement

// Query returns a query for the zone's subnets.
func (z ByZone) Query(inst Instance) (SubnetQuery, bool) {
	return SubnetsByID(z[inst.Zone].Subnets).Query(inst)
}

// Order returns the candidates in the order given for the zone.
func (z ByZone) Order(inst Instance, candidates []Subnet) []Subnet {
	ids := z[inst.Zone].Subnets
	if len(ids) == 0 {
		return nil // the query had no IDs and so did not restrict
	}
	return SubnetsByID(ids).Order(inst, candidates)
}

// Groups returns the zone's groups.
func (z ByZone) Groups(inst Instance, _ string, _ Kind) []string {
	if g := z[inst.Zone].Groups; len(g) > 0 {
		return g
	}
	return inst.Groups
}
