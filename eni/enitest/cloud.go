// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"cmp"
	"maps"
	"sync"
	"time"
)

// Cloud is a region of EC2 with its metadata services. It is safe for
// concurrent use. Create it with [New].
type Cloud struct {
	cfg Config

	// delivering holds one token while a goroutine passes events to the hooks.
	delivering chan struct{}

	mu     sync.Mutex
	lag    Lag
	delays Delays
	state  state
	hooks  []func(Event)
	events []Event
	calls  map[string]int
	audit  []Call
	faults []*fault
	denied map[denial]bool
	bucket map[string]*bucket
	// throttle is nil while calls are not limited.
	throttle *Throttle
	tokens   map[tokenKey]tokenEntry
	sessions map[string]session
	// requests is the number of requests so far; request IDs derive from it.
	requests uint64
}

// state holds everything that calls can change.
type state struct {
	// serial is the number of IDs, MACs and public addresses given out so far.
	serial    uint64
	vpcs      table[VPC]
	groups    table[SecurityGroup]
	subnets   table[Subnet]
	spaces    map[string]*space
	instances table[Instance]

	routeTables table[RouteTable]
	acls        table[NetworkACL]
	addresses   table[Address]
	templates   table[LaunchTemplate]
	// hideManaged means that answers leave out managed resources.
	hideManaged bool

	enis table[ENI]
	// everAttached is an index of the ENIs that are or were attached to an
	// instance, by instance ID.
	everAttached map[string]map[string]bool
	// deleteAt is when an ENI is deleted together with its instance, by ENI ID.
	deleteAt map[string]time.Time
}

// New returns a Cloud without any VPC. A test that uses it in a synctest bubble
// must also call New in that bubble.
func New(cfg Config) *Cloud {
	cfg.Region = cmp.Or(cfg.Region, "us-west-2")
	cfg.Account = cmp.Or(cfg.Account, "123456789012")
	cfg.AuditSize = cmp.Or(max(cfg.AuditSize, 0), auditSize)
	c := &Cloud{
		cfg:        cfg,
		delivering: make(chan struct{}, 1),
		lag:        cfg.Lag,
		delays:     cfg.Delays,
		throttle:   cfg.Throttle,
		calls:      map[string]int{},
		denied:     map[denial]bool{},
		bucket:     map[string]*bucket{},
		tokens:     map[tokenKey]tokenEntry{},
		sessions:   map[string]session{},
		state: state{
			vpcs:      table[VPC]{},
			groups:    table[SecurityGroup]{},
			subnets:   table[Subnet]{},
			spaces:    map[string]*space{},
			instances: table[Instance]{},
			enis:      table[ENI]{},
			deleteAt:  map[string]time.Time{},

			routeTables: table[RouteTable]{},
			acls:        table[NetworkACL]{},
			addresses:   table[Address]{},
			templates:   table[LaunchTemplate]{},
			hideManaged: cfg.HideManaged,

			everAttached: map[string]map[string]bool{},
		},
	}
	return c
}

// Region returns the name of the region.
func (c *Cloud) Region() string { return c.cfg.Region }

// Zones returns the names of the region's zones, in order.
func (c *Cloud) Zones() []string {
	t := c.begin()
	defer t.end()
	return byID(t.zones())
}

// SetLag changes the time by which answers lag behind the state.
func (c *Cloud) SetLag(l Lag) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lag = Lag{Describe: l.Describe, Write: l.Write, Metadata: l.Metadata, Keys: maps.Clone(l.Keys)}
}

// SetDelays changes the durations of operations that begin after the call.
func (c *Cloud) SetDelays(d Delays) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.delays = d
}

// ENI returns the ENI as it is now, without any lag.
func (c *Cloud) ENI(id string) (ENI, bool) {
	t := c.begin()
	defer t.end()
	if e := t.eni(id); e != nil {
		return *e.clone(), true
	}
	return ENI{}, false
}

// ENIs returns all ENIs as they are now, by ID.
func (c *Cloud) ENIs() []ENI {
	t := c.begin()
	defer t.end()
	var all []ENI
	for _, e := range t.allENIs(t.now) {
		all = append(all, *e.clone())
	}
	return all
}

// Instance returns the instance as it is now.
func (c *Cloud) Instance(id string) (Instance, bool) {
	t := c.begin()
	defer t.end()
	if i := t.instance(id); i != nil {
		return *i.clone(), true
	}
	return Instance{}, false
}

// Instances returns all instances as they are now, by ID.
func (c *Cloud) Instances() []Instance {
	t := c.begin()
	defer t.end()
	var all []Instance
	for _, i := range existing(t.c.state.instances, t.now) {
		all = append(all, *i.clone())
	}
	return all
}

// Subnet returns the subnet as it is now.
func (c *Cloud) Subnet(id string) (Subnet, bool) {
	t := c.begin()
	defer t.end()
	if s := t.subnet(id); s != nil {
		return *s.clone(), true
	}
	return Subnet{}, false
}

// Subnets returns all subnets as they are now, by ID.
func (c *Cloud) Subnets() []Subnet {
	t := c.begin()
	defer t.end()
	var all []Subnet
	for _, s := range existing(t.c.state.subnets, t.now) {
		all = append(all, *s.clone())
	}
	return all
}

// VPCs returns all VPCs, by ID.
func (c *Cloud) VPCs() []VPC {
	t := c.begin()
	defer t.end()
	var all []VPC
	for _, v := range c.state.vpcs.all(t.now) {
		all = append(all, *v.clone())
	}
	return all
}

// SecurityGroups returns all security groups, by ID.
func (c *Cloud) SecurityGroups() []SecurityGroup {
	t := c.begin()
	defer t.end()
	var all []SecurityGroup
	for _, g := range c.state.groups.all(t.now) {
		all = append(all, *g.clone())
	}
	return all
}
