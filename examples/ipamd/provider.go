// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// provider is an [agent.Provider] over an [eni.Manager].
type provider struct {
	manager  *eni.Manager
	pool     *ipam.Pool
	links    *links
	prefixes bool // assign /28 prefixes
	mtu      int
	memory   *memory
}

// Observe asks EC2 and the metadata service what there is. The manager has
// weighed how far either may be behind, so Lag stays zero. What is left in the
// subnet costs a call of its own to learn, so it is left out: EC2 says when it is
// full. The links learn of all ENIs at once, so that none of them is taken for a
// left-over while another is set up.
func (p *provider) Observe(ctx context.Context) (agent.Observation, error) {
	inv, err := p.manager.Discover(ctx)
	if err != nil {
		return agent.Observation{}, err
	}
	o := agent.Observation{Source: inv.Source.String(), At: inv.At}
	if o.ENIs, err = p.know(inv, inv.Source&eni.SourceEC2 != 0); err != nil {
		return agent.Observation{}, err
	}
	p.remember()
	return o, nil
}

// know converts the ENIs of an inventory and tells the links of them.
func (p *provider) know(inv eni.Inventory, sure bool) ([]agent.ENI, error) {
	var out []agent.ENI
	for _, e := range inv.ENIs {
		converted, err := p.convert(e)
		if err != nil {
			return nil, err
		}
		out = append(out, converted)
	}
	p.links.know(inv.Instance.VPC, out, sure)
	return out, nil
}

// remember writes down what a call has changed. That it cannot be written makes
// the next start slower, not wrong, so the outcome of the call counts.
func (p *provider) remember() { _ = p.memory.store(p.manager.Inventory()) }

// CreateENI creates and attaches an ENI.
func (p *provider) CreateENI(ctx context.Context, in agent.CreateInput) (agent.ENI, error) {
	e, err := p.manager.Provision(p.urgency(ctx), eni.ProvisionInput{
		Card: in.Card, Slots: in.Slots, Prefixes: p.prefixes, Singles: p.singles(in.Slots),
	})
	p.remember()
	if err != nil {
		return agent.ENI{}, err
	}
	return p.convert(e)
}

// Assign puts more blocks on an ENI.
func (p *provider) Assign(ctx context.Context, in agent.AssignInput) ([]netip.Prefix, error) {
	defer p.remember()
	return p.manager.Assign(p.urgency(ctx), eni.AssignInput{
		ENI: in.ENI, Slots: in.Slots, Prefixes: p.prefixes, Singles: p.singles(in.Slots), Family: eni.Family(in.Family),
	})
}

// urgency puts calls that a pod waits for before those that only fill the pool.
func (p *provider) urgency(ctx context.Context) context.Context {
	if len(p.pool.View().Waiting) > 0 {
		return eni.WithCaller(eni.WithPriority(ctx, eni.PriorityPod), "pod")
	}
	return eni.WithCaller(eni.WithPriority(ctx, eni.PriorityRefill), "refill")
}

// singles is how many single addresses do instead of prefixes where a subnet has
// no whole prefix left.
func (p *provider) singles(slots int) int {
	if !p.prefixes {
		return 0
	}
	return slots
}

// Unassign takes blocks off an ENI.
func (p *provider) Unassign(ctx context.Context, id string, blocks []netip.Prefix) error {
	defer p.remember()
	return p.manager.Unassign(eni.WithCaller(eni.WithPriority(ctx, eni.PriorityRelease), "release"), eni.UnassignInput{ENI: id, Blocks: blocks})
}

// DeleteENI detaches and deletes an ENI.
func (p *provider) DeleteENI(ctx context.Context, id string) error {
	defer p.remember()
	return p.manager.Retire(eni.WithCaller(eni.WithPriority(ctx, eni.PriorityRelease), "release"), id)
}

// convert puts an ENI into the agent's words.
func (p *provider) convert(e eni.ENI) (agent.ENI, error) {
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return agent.ENI{}, fmt.Errorf("%s: %w", e.ID, err)
	}
	out := agent.ENI{
		ID: e.ID, Primary: e.Primary, Card: e.Card, Device: e.Device, NoPods: !e.ForPods(),
		MAC: mac, MTU: p.mtu, Blocks: e.Blocks(),
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
