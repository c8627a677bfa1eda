// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// nodePrefixes has the state of the prefixes of which pods on the bridge get addresses. Its
// fields are guarded by the mutex of ownPods.
type nodePrefixes struct {
	// last is the last address that was given, and reserved has those of ADDs under way.
	last     map[netip.Prefix]netip.Addr
	reserved map[netip.Addr]ipam.Attachment
	// routed means that the VPC has routes to the node for all prefixes, and routeErr is
	// why it has not.
	routed   bool
	routeErr error
}

// validNodePrefixes returns an error for prefixes that pods cannot have addresses of.
func validNodePrefixes(prefixes []netip.Prefix) error {
	seen := map[ipam.Family]bool{}
	for _, p := range prefixes {
		const fewest = 3 // bits for addresses
		f := ipam.FamilyOf(p.Addr())
		switch {
		case !p.IsValid() || p != p.Masked() || p.Addr().Is4In6():
			return fmt.Errorf("%v is not a prefix", p)
		case p.Addr().BitLen()-p.Bits() < fewest:
			return fmt.Errorf("%v has %d bits for addresses, want at least %d", p, p.Addr().BitLen()-p.Bits(), fewest)
		case seen[f]:
			return fmt.Errorf("%v is a second prefix of %v, want one of each family", p, f)
		}
		seen[f] = true
	}
	return nil
}

// route has the VPC send packets for the prefixes of the node to it.
func (o *ownPods) route(ctx context.Context) error {
	o.mu.Lock()
	routed := o.prefixes.routed
	o.mu.Unlock()
	if routed || len(o.cfg.NodePrefixes) == 0 {
		return nil
	}
	var errs []error
	for _, p := range o.cfg.NodePrefixes {
		errs = append(errs, o.manager.RoutePrefix(ctx, p, o.cfg.RouteTables))
	}
	err := errors.Join(errs...)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.prefixes.routed, o.prefixes.routeErr = err == nil, err
	return err
}

// awaitRoutes waits for the first attempt to create the routes, and returns its error.
func (o *ownPods) awaitRoutes(ctx context.Context) error {
	for {
		o.mu.Lock()
		routed, err := o.prefixes.routed, o.prefixes.routeErr
		o.mu.Unlock()
		if err != nil {
			return &cniplugin.AgentError{Code: cniplugin.CodeTryAgainLater, Reason: string(agent.ReasonOf(err)), Message: "the VPC has no route to the pods of the node's bridge", Details: err.Error(), RetryAfter: auditEvery}
		}
		if routed {
			return nil
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// addBridge gives a pod addresses of the node's prefixes.
func (o *ownPods) addBridge(ctx context.Context, r *podRecord) error {
	if err := o.awaitRoutes(ctx); err != nil {
		return err
	}
	primary := ""
	for _, e := range o.links.Node().ENIs {
		if e.Primary() {
			primary = e.ID
		}
	}
	for _, p := range o.cfg.NodePrefixes {
		a, err := o.freeAddr(ctx, p, r.Attachment)
		if err != nil {
			return err
		}
		r.Response.Addresses = append(r.Response.Addresses, cniplugin.Address{Addr: a, ENI: primary, Table: datapath.Table(0, 0)})
	}
	o.settle(r, datapath.Mode{Bridge: &datapath.Bridge{Name: o.cfg.Bridge}})
	return nil
}

// freeAddr reserves an address of a prefix that neither a pod nor the kernel has, until the
// ADD ends.
func (o *ownPods) freeAddr(ctx context.Context, p netip.Prefix, at ipam.Attachment) (netip.Addr, error) {
	for range maxBridgeAddrs {
		a, ok := o.reserveAddr(p, at)
		if !ok {
			break
		}
		uses, err := o.links.path.LookupAddrs(ctx, []netip.Addr{a})
		if err != nil {
			return a, err
		}
		if len(uses) == 0 {
			return a, nil
		}
	}
	return netip.Addr{}, &cniplugin.AgentError{
		Code: cniplugin.CodeTryAgainLater, Reason: string(ipam.ReasonAllInUse), Message: fmt.Sprintf("no %v address for the pod", ipam.FamilyOf(p.Addr())),
		Details: fmt.Sprintf("all addresses of the node's prefix %v are in use", p),
	}
}

// maxBridgeAddrs bounds a search in a prefix of the node: more than a node has pods.
const maxBridgeAddrs = 1 << 14

// reserveAddr reserves the next address of a prefix that no pod has, and goes round, so that
// a released address rests for as long as possible. It leaves out the first two addresses
// and the last one of IPv4, which other programs take for those of the network, the bridge
// and all hosts.
func (o *ownPods) reserveAddr(p netip.Prefix, at ipam.Attachment) (netip.Addr, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	used := map[netip.Addr]bool{}
	for _, r := range o.records.list() {
		for _, a := range r.Response.Addresses {
			used[a.Addr] = true
		}
	}
	first := p.Addr().Next().Next()
	a := o.prefixes.last[p]
	for range maxBridgeAddrs {
		if a.IsValid() {
			a = a.Next()
		}
		if !p.Contains(a) || a.Is4() && !p.Contains(a.Next()) {
			a = first
		}
		if _, busy := o.prefixes.reserved[a]; !busy && !used[a] {
			o.prefixes.last[p], o.prefixes.reserved[a] = a, at
			return a, true
		}
	}
	return a, false
}

// unreserveLocked ends the reservations of an ADD. The caller holds the mutex.
func (o *ownPods) unreserveLocked(at ipam.Attachment) {
	for a, by := range o.prefixes.reserved {
		if by == at {
			delete(o.prefixes.reserved, a)
		}
	}
}
