// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"slices"
	"testing"

	"github.com/vpcnet/vpcnet/eni"
)

func TestSelectors(t *testing.T) {
	inst := eni.Instance{Zone: "az-a", VPCID: "vpc", PrimarySubnet: eni.Subnet{ID: "primary", Free: -1}, Groups: []string{"sg-node"}}
	role := func(v string, more ...string) map[string]string {
		tags := map[string]string{eni.TagSubnetRole: v}
		for _, cluster := range more {
			tags[eni.TagSubnetCluster+cluster] = "shared"
		}
		return tags
	}
	subnets := []eni.Subnet{
		{ID: "primary", Free: 10},
		{ID: "tagged", Free: 20, Tags: role("1")},
		{ID: "big", Free: 90, Tags: role("yes", "blue")},
		{ID: "theirs", Free: 95, Tags: role("1", "green")},
		{ID: "forbidden", Free: 99, Tags: role("0")},
		{ID: "plain", Free: 99},
	}
	tagged := slices.Clone(subnets)
	tagged[0].Tags = role("0")
	for _, c := range []struct {
		name string
		s    eni.SubnetSelector
		of   []eni.Subnet
		want []string
	}{
		{"primary", eni.DefaultSubnets, subnets[:1], []string{"primary"}},
		{"by ID, in the order of the list", eni.SubnetsByID{"plain", "primary"}, []eni.Subnet{subnets[0], subnets[5]}, []string{"plain", "primary"}},
		{"by tag", eni.SubnetsByTag{Cluster: "blue"}, subnets, []string{"big", "tagged", "primary"}},
		{"by tag, any cluster", eni.SubnetsByTag{}, subnets, []string{"theirs", "big", "tagged", "primary"}},
		{"by tag, the primary subnet forbidden", eni.SubnetsByTag{Cluster: "blue"}, tagged, []string{"big", "tagged"}},
		{"by another tag", eni.SubnetsByTag{Tags: map[string]string{eni.TagSubnetRole: "yes"}}, subnets, []string{"big"}},
		{"by zone", eni.ByZone{"az-a": {Subnets: []string{"big", "plain"}}}, []eni.Subnet{subnets[5], subnets[2]}, []string{"big", "plain"}},
		{"by zone, another zone", eni.ByZone{"az-b": {Subnets: []string{"big"}}}, subnets, nil},
	} {
		var got []string
		for _, s := range c.s.Order(inst, c.of) {
			got = append(got, s.ID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	for _, c := range []struct {
		name string
		g    eni.GroupSelector
		want []string
	}{
		{"primary", eni.DefaultGroups, []string{"sg-node"}},
		{"fixed", eni.FixedGroups{"sg-pod"}, []string{"sg-pod"}},
		{"by zone", eni.ByZone{"az-a": {Groups: []string{"sg-a"}}}, []string{"sg-a"}},
		{"by zone, none given", eni.ByZone{"az-a": {}}, []string{"sg-node"}},
	} {
		if got := c.g.Groups(inst, "subnet", eni.KindInterface); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
