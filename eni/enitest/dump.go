// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
)

// dumpVersion is the version of the format of Dump.
const dumpVersion = 1

// dump is the state as JSON. It contains no faults, permissions and logs, and no
// earlier states, which a lag would still show.
type dump struct {
	Version         int
	Region, Account string
	// Serial is the number of IDs given out so far, so that none is given out
	// again.
	Serial         uint64
	VPCs           []VPC
	SecurityGroups []SecurityGroup
	Subnets        []Subnet
	Instances      []Instance
	ENIs           []ENI
	RouteTables    []RouteTable `json:",omitzero"`
	NetworkACLs    []NetworkACL `json:",omitzero"`
	Addresses      []Address    `json:",omitzero"`

	LaunchTemplates []LaunchTemplate `json:",omitzero"`
	HideManaged     bool             `json:",omitzero"`
}

// Dump writes the state as JSON.
func (c *Cloud) Dump(w io.Writer) error {
	d := dump{
		Version: dumpVersion, Region: c.cfg.Region, Account: c.cfg.Account,
		VPCs: c.VPCs(), SecurityGroups: c.SecurityGroups(), Subnets: c.Subnets(), Instances: c.Instances(), ENIs: c.ENIs(),
		RouteTables: c.RouteTables(), NetworkACLs: c.NetworkACLs(), Addresses: c.Addresses(),
		LaunchTemplates: c.LaunchTemplates(),
	}
	c.mu.Lock()
	d.Serial, d.HideManaged = c.state.serial, c.state.hideManaged
	c.mu.Unlock()
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(d)
}

// Load returns a Cloud with the state that Dump has written. The dump overrides
// the region and the account of cfg. Hooks get no events for loaded resources.
func Load(cfg Config, r io.Reader) (*Cloud, error) {
	var d dump
	if err := json.NewDecoder(r).Decode(&d); err != nil {
		return nil, fmt.Errorf("load state: %w", err)
	}
	if d.Version != dumpVersion {
		return nil, fmt.Errorf("load state: version %d, want %d", d.Version, dumpVersion)
	}
	cfg.Region, cfg.Account = d.Region, d.Account
	c := New(cfg)
	t := c.begin()
	defer t.end()
	if err := t.load(d); err != nil {
		return nil, fmt.Errorf("load state: %w", err)
	}
	return c, nil
}

func (t *tx) load(d dump) error {
	s := &t.c.state
	s.serial = d.Serial
	for _, v := range d.VPCs {
		if len(v.Prefixes) == 0 {
			return fmt.Errorf("%s has no prefix", v.ID)
		}
		s.vpcs.set(t, v.ID, v.clone())
	}
	for _, g := range d.SecurityGroups {
		if s.vpcs.at(g.VPC, t.now) == nil {
			return fmt.Errorf("%s is in the unknown VPC %q", g.ID, g.VPC)
		}
		s.groups.set(t, g.ID, g.clone())
	}
	for _, sub := range d.Subnets {
		if err := t.loadSubnet(sub); err != nil {
			return err
		}
	}
	for _, i := range d.Instances {
		if _, ok := t.c.InstanceType(i.Type); !ok {
			return fmt.Errorf("%s has the unknown type %q", i.ID, i.Type)
		}
		if sub := t.subnet(i.Subnet); sub == nil || sub.VPC != i.VPC {
			return fmt.Errorf("%s is in the unknown subnet %q", i.ID, i.Subnet)
		}
		t.putInstance(i.clone())
	}
	for _, e := range d.ENIs {
		if err := t.loadENI(e.clone()); err != nil {
			return err
		}
	}
	if err := t.loadRouting(d); err != nil {
		return err
	}
	for id := range s.subnets {
		t.recount(t.now, id)
	}
	return nil
}

// loadRouting loads the route tables, network ACLs and Elastic IP addresses. A dump
// without them is from an earlier version, and each VPC gets the default ones.
func (t *tx) loadRouting(d dump) error {
	s := &t.c.state
	for _, r := range d.RouteTables {
		if s.vpcs.at(r.VPC, t.now) == nil {
			return fmt.Errorf("%s is in the unknown VPC %q", r.ID, r.VPC)
		}
		s.routeTables.set(t, r.ID, r.clone())
	}
	for _, a := range d.NetworkACLs {
		if s.vpcs.at(a.VPC, t.now) == nil {
			return fmt.Errorf("%s is in the unknown VPC %q", a.ID, a.VPC)
		}
		s.acls.set(t, a.ID, a.clone())
	}
	for _, a := range d.Addresses {
		s.addresses.set(t, a.ID, a.clone())
	}
	for _, l := range d.LaunchTemplates {
		if l.Default < 1 || l.Default > len(l.Versions) {
			return fmt.Errorf("%s has %d versions and the default version %d", l.ID, len(l.Versions), l.Default)
		}
		s.templates.set(t, l.ID, l.clone())
	}
	s.hideManaged = d.HideManaged
	for _, v := range s.vpcs.all(t.now) {
		if d.RouteTables == nil {
			t.addMainTable(v)
		}
		if d.NetworkACLs == nil {
			t.addDefaultACL(v)
		}
	}
	if d.NetworkACLs == nil {
		for _, sub := range existing(s.subnets, t.now) {
			t.associateDefaultACL(sub)
		}
	}
	return nil
}

func (t *tx) loadSubnet(s Subnet) error {
	v := t.c.state.vpcs.at(s.VPC, t.now)
	if v == nil {
		return fmt.Errorf("%s is in the unknown VPC %q", s.ID, s.VPC)
	}
	if err := t.checkSubnet(v, SubnetInput{Prefix: s.Prefix, IPv6: s.IPv6}); err != nil {
		return fmt.Errorf("%s: %w", s.ID, err)
	}
	space := newSpace(s.Prefix, s.IPv6)
	space.reserve(s.Reservations)
	t.c.state.spaces[s.ID] = space
	t.putSubnet(s.clone())
	return space.takeAll(s.ID, selectAddrs(0, s.Occupied).exact)
}

func (t *tx) loadENI(e *ENI) error {
	space := t.c.state.spaces[e.Subnet]
	if space == nil {
		return fmt.Errorf("%s is in the unknown subnet %q", e.ID, e.Subnet)
	}
	for _, g := range e.Groups {
		if t.c.state.groups.at(g, t.now) == nil {
			return fmt.Errorf("%s has the unknown security group %q", e.ID, g)
		}
	}
	if a := e.Attachment; a != nil && a.InstanceOwner == "" {
		i := t.instance(a.Instance)
		if i == nil {
			return fmt.Errorf("%s is attached to the unknown instance %q", e.ID, a.Instance)
		}
		a.Primary = a.Device == 0 && a.Card == t.typeOf(i).DefaultCard
		if a.DeleteOnTermination && !i.TerminatedAt.IsZero() {
			t.c.state.deleteAt[e.ID] = i.TerminatedAt
		}
	}
	t.put(e)
	return space.takeAll(e.ID, e.owned())
}

// takeAll takes addresses and prefixes. It returns an error if one is not free.
func (s *space) takeAll(owner string, all []netip.Prefix) error {
	for _, p := range all {
		if !s.contains(p) || s.awsOwned(p) || s.busy(p) {
			return fmt.Errorf("%s has %v, which is not free in its subnet", owner, p)
		}
		s.take(p)
	}
	return nil
}
