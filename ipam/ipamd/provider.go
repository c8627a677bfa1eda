// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// Provider is an [agent.Provider] over an [eni.Manager]. Manager is required. It is safe
// for concurrent use.
type Provider struct {
	Manager *eni.Manager
	// Pool tells whether pods wait for addresses, which makes calls more urgent. Optional.
	Pool *ipam.Pool
	// Links learns all ENIs of each observation at once, so that none is removed as
	// unknown while another one is set up. Optional.
	Links *Links
	// Prefixes assigns /28 prefixes instead of single addresses.
	Prefixes bool
	// PodENI registers the link of the trunk ENI.
	PodENI bool
	// NoPrimary keeps pods off the primary ENI.
	NoPrimary bool
	// MTU is the MTU of the ENIs in bytes. Zero leaves it as it is.
	MTU int
	// Changed is called with the inventory after each call that may have changed it.
	// Optional.
	Changed func(eni.Inventory)

	own *ownPods // nil if there are none
}

var _ agent.Provider = (*Provider)(nil)

// Observe asks EC2 and the metadata service for the ENIs. Lag stays zero, because
// the manager has already considered how far each source may lag behind. Observe
// does not ask for the free addresses of the subnet, which would cost another call:
// EC2 reports when the subnet is full. Observe registers all ENIs with the links at
// once, so that none is removed as unknown while another one is set up.
func (p *Provider) Observe(ctx context.Context) (agent.Observation, error) {
	inv, err := p.Manager.Discover(ctx)
	if err != nil {
		return agent.Observation{}, err
	}
	o := agent.Observation{Source: inv.Source.String(), At: inv.At}
	if o.ENIs, err = p.Register(inv, inv.Source&eni.SourceEC2 != 0); err != nil {
		return agent.Observation{}, err
	}
	p.record()
	return o, nil
}

// Register converts the ENIs of an inventory and registers them with the links. It leaves
// out those of single pods, and with PodENI the trunk ENI, because the pool's limits do not
// count them. confirmed means that the inventory comes from EC2.
func (p *Provider) Register(inv eni.Inventory, confirmed bool) ([]agent.ENI, error) {
	var out []agent.ENI
	links := []agent.ENI(nil)
	for _, e := range inv.ENIs {
		converted, err := p.convert(e)
		switch {
		case err != nil:
			return nil, err
		case isWhole(e) || p.own.has(e.ID): // its link may be in a sandbox
			continue
		case isTrunk(e) && p.PodENI:
			if !e.InFlight {
				converted.NoPods = false
				links = append(links, converted)
			}
			continue
		}
		out, links = append(out, converted), append(links, converted)
	}
	if p.Links != nil {
		p.Links.register(inv.Instance.VPC, links, confirmed)
	}
	return out, nil
}

// record calls Changed.
func (p *Provider) record() {
	if p.Changed != nil {
		p.Changed(p.Manager.Inventory())
	}
}

// CreateENI creates and attaches an ENI.
func (p *Provider) CreateENI(ctx context.Context, in agent.CreateInput) (agent.ENI, error) {
	input := eni.ProvisionInput{Card: in.Card, Slots: in.Slots, Prefixes: p.Prefixes, Singles: p.singles(in.Slots), PodsOnPrimary: !p.NoPrimary}
	if slices.Contains(in.Families, ipam.IPv6) {
		input.Slots6 = 1 // more addresses than a node has pods
	}
	e, err := p.Manager.Provision(p.urgency(ctx), input)
	p.record()
	if err != nil {
		return agent.ENI{}, err
	}
	return p.convert(e)
}

// Assign assigns more blocks to an ENI: for IPv6 always prefixes.
func (p *Provider) Assign(ctx context.Context, in agent.AssignInput) ([]netip.Prefix, error) {
	defer p.record()
	input := eni.AssignInput{ENI: in.ENI, Slots: in.Slots, Prefixes: p.Prefixes, Singles: p.singles(in.Slots), Family: eni.Family(in.Family)}
	if in.Family == ipam.IPv6 {
		input.Prefixes, input.Singles = true, 0
	}
	return p.Manager.Assign(p.urgency(ctx), input)
}

// urgency gives calls for which a pod waits a higher priority than calls that only
// fill the pool.
func (p *Provider) urgency(ctx context.Context) context.Context {
	if p.Pool != nil && len(p.Pool.View().Waiting) > 0 {
		return eni.WithCaller(eni.WithPriority(ctx, eni.PriorityPod), "pod")
	}
	return eni.WithCaller(eni.WithPriority(ctx, eni.PriorityRefill), "refill")
}

// singles returns how many single addresses replace the prefixes if the subnet has
// no whole prefix left.
func (p *Provider) singles(slots int) int {
	if !p.Prefixes {
		return 0
	}
	return slots
}

// Unassign unassigns blocks from an ENI.
func (p *Provider) Unassign(ctx context.Context, id string, blocks []netip.Prefix) error {
	defer p.record()
	return p.Manager.Unassign(eni.WithCaller(eni.WithPriority(ctx, eni.PriorityRelease), "release"), eni.UnassignInput{ENI: id, Blocks: blocks})
}

// DeleteENI detaches and deletes an ENI.
func (p *Provider) DeleteENI(ctx context.Context, id string) error {
	defer p.record()
	return p.Manager.Retire(eni.WithCaller(eni.WithPriority(ctx, eni.PriorityRelease), "release"), id)
}

// convert converts an ENI for package agent.
func (p *Provider) convert(e eni.ENI) (agent.ENI, error) {
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return agent.ENI{}, fmt.Errorf("%s: %w", e.ID, err)
	}
	out := agent.ENI{
		ID: e.ID, Primary: e.Primary, Card: e.Card, Device: e.Device, NoPods: !e.ForPods() || e.Primary && p.NoPrimary,
		MAC: mac, MTU: p.MTU, Blocks: e.Blocks(),
	}
	for _, a := range []struct {
		addr   netip.Addr
		subnet netip.Prefix
	}{{e.Addr, e.Subnet}, {e.Addr6, e.Subnet6}} {
		if a.addr.IsValid() && a.subnet.IsValid() {
			out.Addrs = append(out.Addrs, netip.PrefixFrom(a.addr, a.subnet.Bits()))
			out.Gateways = append(out.Gateways, e.Gateway(eni.FamilyOf(a.addr)))
		}
	}
	return out, nil
}
