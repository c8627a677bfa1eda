// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"slices"

	"github.com/vpcnet/vpcnet/eni"
)

// InstanceType returns what the Cloud knows about a type: what Config.Types
// says, or the table of package eni.
func (c *Cloud) InstanceType(name string) (InstanceType, bool) {
	for _, t := range c.cfg.Types {
		if t.Name == name {
			return t, true
		}
	}
	l, ok := eni.LimitsOf(name)
	return typeOf(l), ok
}

// instanceTypes are all types that the Cloud knows, by name.
func (c *Cloud) instanceTypes() []InstanceType {
	names := eni.InstanceTypes()
	for _, t := range c.cfg.Types {
		names = append(names, t.Name)
	}
	slices.Sort(names)
	var all []InstanceType
	for _, name := range slices.Compact(names) {
		t, _ := c.InstanceType(name)
		all = append(all, t)
	}
	return all
}

func typeOf(l eni.Limits) InstanceType {
	t := InstanceType{
		Name: l.Type, ENIs: l.Cards, IPv4PerENI: l.AddrsPerENI, IPv6PerENI: l.AddrsPerENI,
		DefaultCard: l.DefaultCard, BareMetal: l.BareMetal,
	}
	switch {
	case l.BareMetal:
	case l.Nitro:
		t.Hypervisor = "nitro"
	default:
		t.Hypervisor = "xen"
	}
	if l.Trunk {
		t.Branches = l.Branches
	}
	return t
}

// maxPerENI is the most addresses that an ENI of any instance type has.
const maxPerENI = 64

// room is the limit of the ENI's addresses: its instance type's, or for an ENI
// that is attached to nothing the most that any type permits.
func (t *tx) room(e *ENI) InstanceType {
	if e.Attachment != nil {
		return t.typeOf(t.instance(e.Attachment.Instance))
	}
	most := InstanceType{Hypervisor: "nitro", IPv4PerENI: maxPerENI, IPv6PerENI: maxPerENI}
	for _, it := range t.c.cfg.Types {
		most.IPv4PerENI, most.IPv6PerENI = max(most.IPv4PerENI, it.IPv4PerENI), max(most.IPv6PerENI, it.IPv6PerENI)
	}
	return most
}

// typeOf is the type of an instance, which was looked up when it began.
func (t *tx) typeOf(i *Instance) InstanceType {
	it, _ := t.c.InstanceType(i.Type)
	return it
}
