// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// SetRules replaces the address blocks, route tables, network ACLs and security groups
// of the VPC; the blocks add to those of Config.VPC. The rules may name subnets and ENIs
// that do not exist: they apply when these are added. A route to an ENI that is not
// attached drops its packets. Flows that security groups track remain tracked. The caller
// must not change r afterwards.
func (f *Fabric) SetRules(r vpcrules.Rules) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.net == nil {
		return errClosed
	}
	f.rules = r
	if err := f.applyRules(); err != nil {
		return fmt.Errorf("fabric: rules: %w", err)
	}
	return nil
}

// SetAttributes replaces the attributes of an attached ENI.
func (f *Fabric) SetAttributes(id string, a Attributes) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.ports[id]
	if !ok {
		return fmt.Errorf("fabric: %s is not attached: %w", id, os.ErrNotExist)
	}
	p.Unchecked, p.Public, p.Groups = a.Unchecked, a.Public, slices.Clone(a.Groups)
	if err := f.applyRules(); err != nil {
		return fmt.Errorf("fabric: attributes of %s: %w", id, err)
	}
	return nil
}

// applyRules configures the router for the rules and the attached ENIs.
func (f *Fabric) applyRules() error {
	w := f.wanted()
	routes, lookups := f.net.wantedRoutes(w, f.furtherBlocks())
	return errors.Join(f.net.setFilter(w), f.net.setRoutes(routes, lookups))
}

func (f *Fabric) wanted() wanted {
	return wanted{ports: f.ports, network: f.network(), log: f.log != nil}
}

// network returns the network as the rules see it.
func (f *Fabric) network() vpcrules.Network {
	n := vpcrules.Network{Rules: f.rules}
	n.Blocks = append(slices.Clone(f.cfg.VPC), f.furtherBlocks()...)
	for _, p := range f.ports {
		n.ENIs = append(n.ENIs, vpcrules.ENI{ID: p.ID, Subnet: p.Subnet, Owned: p.owned(), Groups: p.Groups, Unchecked: p.Unchecked})
		if p.Public && p.Addr.Is4() {
			n.Public = append(n.Public, p.Addr)
		}
	}
	for _, a := range f.PeerAddrs() {
		n.Peers = append(n.Peers, netip.PrefixFrom(a, a.BitLen()))
	}
	return n
}

// furtherBlocks returns the blocks of the rules that are not in Config.VPC.
func (f *Fabric) furtherBlocks() []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(f.rules.Blocks), func(p netip.Prefix) bool { return slices.Contains(f.cfg.VPC, p) })
}
