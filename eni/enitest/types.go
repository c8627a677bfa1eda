// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"slices"

	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// InstanceType returns the entry of Config.Types with the given name, or else the
// one in the table of package instancetype.
func (c *Cloud) InstanceType(name string) (InstanceType, bool) {
	for _, t := range c.cfg.Types {
		if t.Name == name {
			return t, true
		}
	}
	l, ok := instancetype.Lookup(name)
	return typeOf(l), ok
}

// instanceTypes returns all instance types, sorted by name.
func (c *Cloud) instanceTypes() []InstanceType {
	var names []string
	for l := range instancetype.All() {
		names = append(names, l.Type)
	}
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

func typeOf(l instancetype.Limits) InstanceType {
	t := InstanceType{
		Name: l.Type, ENIs: l.Cards, IPv4PerENI: l.AddrsPerENI, IPv6PerENI: l.AddrsPerENI,
		DefaultCard: l.DefaultCard, BareMetal: l.BareMetal,
		VCPUs: l.VCPUs, MemoryMiB: l.MemoryMiB, EFAs: l.EFAs, Flexible: l.Flexible,
	}
	if firstLine(t.spec("network-info.ipv6-supported")) == "false" {
		t.IPv6PerENI = 0
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

// maxPerENI is the highest limit of addresses of an ENI of any instance type.
const maxPerENI = 64

// limitsFor returns the instance type that limits the addresses of the ENI. For an
// ENI that is not attached it is a type with the highest limits of all types.
func (t *tx) limitsFor(e *ENI) InstanceType {
	if e.Attachment != nil && e.Attachment.Instance != "" {
		return t.typeOf(t.instance(e.Attachment.Instance))
	}
	highest := InstanceType{Hypervisor: "nitro", IPv4PerENI: maxPerENI, IPv6PerENI: maxPerENI}
	for _, it := range t.c.cfg.Types {
		highest.IPv4PerENI, highest.IPv6PerENI = max(highest.IPv4PerENI, it.IPv4PerENI), max(highest.IPv6PerENI, it.IPv6PerENI)
	}
	return highest
}

// typeOf returns the type of an instance. It exists, because run has checked it.
func (t *tx) typeOf(i *Instance) InstanceType {
	it, _ := t.c.InstanceType(i.Type)
	return it
}
