// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// SubnetSelector chooses the subnets of new ENIs. Implementations are pure:
// the Manager makes the calls.
type SubnetSelector interface {
	// Query says which subnets to ask EC2 about. ok is false if no question is
	// needed, because only the primary ENI's subnet will do.
	Query(inst Instance) (q SubnetQuery, ok bool)
	// Order returns the candidates that may be used, best first. Without a
	// query the only candidate is the primary ENI's subnet.
	Order(inst Instance, candidates []Subnet) []Subnet
}

// GroupSelector chooses the security groups of an ENI, new or present.
type GroupSelector interface {
	// Groups returns the groups for an ENI in a subnet. nil means that the
	// ENI keeps what it has; a new one then gets the primary ENI's.
	Groups(inst Instance, subnetID string, kind Kind) []string
}

// SubnetQuery restricts a listing of subnets. Empty fields do not restrict;
// all others must match.
type SubnetQuery struct {
	IDs         []string
	VPCID, Zone string
	// Tags must be there with one of the values, or with any if there is none.
	Tags map[string][]string
}

// PrimarySubnet puts every ENI into the primary ENI's subnet. It needs no
// calls.
type PrimarySubnet struct{}

// Query asks for nothing.
func (PrimarySubnet) Query(Instance) (SubnetQuery, bool) { return SubnetQuery{}, false }

// Order returns the candidates as they are.
func (PrimarySubnet) Order(_ Instance, candidates []Subnet) []Subnet { return candidates }

// SubnetsByID uses the subnets listed that are in the instance's zone, in this
// order: a full one is passed over for the next.
type SubnetsByID []string

// Query asks for the subnets by their IDs, so that their zone is known.
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

// Tags of subnets that amazon-vpc-cni-k8s defines.
const (
	// TagSubnetRole says whether a subnet is for pods: "0" forbids it, any
	// other value allows it.
	TagSubnetRole = "kubernetes.io/role/cni"
	// TagSubnetCluster, followed by a cluster's name, keeps a subnet for that
	// cluster, or those, that it is tagged with.
	TagSubnetCluster = "cni.networking.k8s.aws/cluster/"
)

// SubnetsByTag uses the subnets of the instance's VPC and zone that are tagged
// for pods, as amazon-vpc-cni-k8s finds them, the one with most free addresses
// first. The primary ENI's subnet is used without a tag too, unless the tag
// forbids it.
type SubnetsByTag struct {
	// Cluster is the cluster's name. Empty means that subnets are taken
	// whichever cluster they are tagged for.
	Cluster string
	// Tags replaces the role tag: a subnet must carry all of these. Optional.
	Tags map[string]string
}

// Query asks for all subnets of the zone: one call serves every rule.
func (s SubnetsByTag) Query(inst Instance) (SubnetQuery, bool) {
	return SubnetQuery{VPCID: inst.VPCID, Zone: inst.Zone}, true
}

// Order drops what is not tagged for us and sorts by free addresses.
func (s SubnetsByTag) Order(inst Instance, candidates []Subnet) []Subnet {
	out := slices.Clone(candidates)
	out = slices.DeleteFunc(out, func(c Subnet) bool { return !s.allows(inst, c) })
	slices.SortStableFunc(out, func(a, b Subnet) int { return cmp.Or(cmp.Compare(b.Free, a.Free), cmp.Compare(a.ID, b.ID)) })
	return out
}

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

// ownCluster says whether the subnet is tagged for our cluster, or for none.
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

// PrimaryGroups gives every ENI the primary ENI's security groups.
type PrimaryGroups struct{}

// Groups returns the groups of the primary ENI.
func (PrimaryGroups) Groups(inst Instance, _ string, _ Kind) []string { return inst.Groups }

// FixedGroups gives every secondary ENI these security groups.
type FixedGroups []string

// Groups returns the list.
func (f FixedGroups) Groups(Instance, string, Kind) []string { return f }

// KeepGroups leaves the security groups of ENIs alone.
type KeepGroups struct{}

// Groups returns nil.
func (KeepGroups) Groups(Instance, string, Kind) []string { return nil }

// Placement is the subnets, and the security groups, of the pods' ENIs in one
// availability zone.
type Placement struct {
	Subnets []string
	// Groups are the security groups. Optional; default the primary ENI's.
	Groups []string
}

// ByZone places the pods' ENIs by the instance's zone, apart from the node's
// own: what is known as custom networking. It is a SubnetSelector and a
// GroupSelector; the primary ENI keeps its groups. In a zone that is not there
// no ENI can be made.
type ByZone map[string]Placement

// Query asks for the zone's subnets by their IDs.
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
