// SPDX-License-Identifier: Apache-2.0

package enitest

// instanceTypes is the built-in table plus the given types.
func instanceTypes(more []InstanceType) map[string]InstanceType {
	all := map[string]InstanceType{}
	for _, t := range []InstanceType{
		{Name: "t3.small", ENIs: []int{3}, IPv4PerENI: 4, IPv6PerENI: 4, Hypervisor: "nitro"},
		{Name: "t3.medium", ENIs: []int{3}, IPv4PerENI: 6, IPv6PerENI: 6, Hypervisor: "nitro"},
		{Name: "t3.large", ENIs: []int{3}, IPv4PerENI: 12, IPv6PerENI: 12, Hypervisor: "nitro"},
		{Name: "t2.medium", ENIs: []int{3}, IPv4PerENI: 6, IPv6PerENI: 6, Hypervisor: "xen"},
		{Name: "m5.large", ENIs: []int{3}, IPv4PerENI: 10, IPv6PerENI: 10, Hypervisor: "nitro", Branches: 9},
		{Name: "m5.xlarge", ENIs: []int{4}, IPv4PerENI: 15, IPv6PerENI: 15, Hypervisor: "nitro", Branches: 18},
		{Name: "c5.large", ENIs: []int{3}, IPv4PerENI: 10, IPv6PerENI: 10, Hypervisor: "nitro", Branches: 9},
		{Name: "c6in.32xlarge", ENIs: []int{8, 8}, IPv4PerENI: 50, IPv6PerENI: 50, Hypervisor: "nitro", Branches: 106},
		{Name: "p4d.24xlarge", ENIs: []int{15, 15, 15, 15}, IPv4PerENI: 50, IPv6PerENI: 50, Hypervisor: "nitro", Branches: 62},
	} {
		all[t.Name] = t
	}
	for _, t := range more {
		all[t.Name] = t
	}
	return all
}
