// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/vpcnet/vpcnet/eni"
)

// DefaultNetwork is the name of the placement that [Networks] uses if there is none for
// the zone.
const DefaultNetwork = "default"

// Networks are placements of the pods' ENIs by name: subnets and security groups that
// differ from those of the node, as custom networking of amazon-vpc-cni-k8s has them. A
// node uses the placement Name, or if Name is empty the one with the name of its
// availability zone, or else the one named default. Without a placement no ENI can be
// created. Networks is an eni.SubnetSelector and an eni.GroupSelector.
type Networks struct {
	Name   string
	ByName map[string]eni.Placement
}

var (
	_ eni.SubnetSelector = Networks{}
	_ eni.GroupSelector  = Networks{}
)

// zone returns the placement of an instance, as a placement of its zone.
func (n Networks) zone(inst eni.Instance) eni.ByZone {
	return eni.ByZone{inst.Zone: n.ByName[n.choose(inst.Zone)]}
}

// choose returns the name of the placement of an instance in a zone.
func (n Networks) choose(zone string) string {
	if n.Name != "" {
		return n.Name
	}
	if _, ok := n.ByName[zone]; ok {
		return zone
	}
	return DefaultNetwork
}

// Query returns a query for the subnets of the placement.
func (n Networks) Query(inst eni.Instance) (eni.SubnetQuery, bool) { return n.zone(inst).Query(inst) }

// Order returns the candidates in the order of the placement.
func (n Networks) Order(inst eni.Instance, candidates []eni.Subnet) []eni.Subnet {
	return n.zone(inst).Order(inst, candidates)
}

// Groups returns the groups of the placement, or those of the primary ENI.
func (n Networks) Groups(inst eni.Instance, subnet string, kind eni.Kind) []string {
	return n.zone(inst).Groups(inst, subnet, kind)
}

// ParseNetworks parses placements as JSON:
//
//	{"us-west-2a": {"subnets": ["subnet-0a"], "groups": ["sg-0a"]}, "default": {"subnets": ["subnet-0b"]}}
//
// Subnets are tried in their order. Groups are optional.
func ParseNetworks(text []byte) (map[string]eni.Placement, error) {
	var in map[string]struct{ Subnets, Groups []string }
	if err := json.Unmarshal(text, &in); err != nil {
		return nil, fmt.Errorf(`networks of pods, want JSON such as {"us-west-2a":{"subnets":["subnet-0a"],"groups":["sg-0a"]}}: %w`, err)
	}
	if len(in) == 0 {
		return nil, errors.New("networks of pods: there is none, want a name with subnets")
	}
	out := map[string]eni.Placement{}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if len(in[name].Subnets) == 0 {
			return nil, fmt.Errorf("networks of pods: %q has no subnets", name)
		}
		out[name] = eni.Placement{Subnets: in[name].Subnets, Groups: in[name].Groups}
	}
	return out, nil
}
