// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
)

// addBranch gives a pod a branch ENI.
func (o *ownPods) addBranch(ctx context.Context, r *podRecord, a asked) error {
	trunk, err := o.ensureTrunk(ctx)
	if op := (*eni.OpError)(nil); err != nil && !errors.As(err, &op) {
		return &cniplugin.AgentError{Code: cniplugin.CodeTryAgainLater, Reason: string(ipam.ReasonLinkNotReady), Message: "no trunk ENI for the pod", Details: err.Error()}
	}
	if err != nil {
		return refusal("trunk ENI", err)
	}
	e, b, err := o.manager.CreateBranch(podCall(ctx), eni.BranchInput{Trunk: trunk.ID, Groups: a.groups, Addrs6: o.addrs6()})
	if err != nil {
		o.relist()
		return refusal("branch ENI", err)
	}
	r.ENI, r.Branch = e.ID, b
	e.Subnet, e.Subnet6 = trunk.Subnet, trunk.Subnet6
	link, err := o.datapathENI(e)
	if err != nil {
		return err
	}
	carrier, err := o.datapathENI(trunk)
	if err != nil {
		return err
	}
	o.respond(r, e, datapath.Mode{Branch: &datapath.Branch{ENI: link, Trunk: carrier, VLAN: b.VLANID, Enforcement: o.enforcement}})
	return r.wants(o.cfg.Families)
}

// ensureTrunk returns the trunk ENI of the node with its link set up. It creates one if
// there is none.
func (o *ownPods) ensureTrunk(ctx context.Context) (eni.ENI, error) {
	select {
	case o.turn <- struct{}{}:
	case <-ctx.Done():
		return eni.ENI{}, ctx.Err()
	}
	defer func() { <-o.turn }()
	trunk, found := trunkOf(o.manager.Inventory())
	if !found {
		var err error
		if trunk, err = o.manager.Provision(ctx, eni.ProvisionInput{Card: o.limits.DefaultCard, Kind: eni.KindTrunk}); err != nil {
			return trunk, err
		}
		o.log.Info("trunk ENI created", "eni", trunk.ID)
	}
	o.mu.Lock()
	ready := o.trunk == trunk.ID
	o.mu.Unlock()
	if ready {
		return trunk, nil
	}
	link, err := (&Provider{MTU: o.cfg.ENIMTU}).convert(trunk)
	if err != nil {
		return trunk, err
	}
	if err := o.links.awaitLink(ctx, link.MAC); err != nil {
		return trunk, fmt.Errorf("link of the trunk %s: %w", trunk.ID, err)
	}
	if err := o.links.Ensure(ctx, link); err != nil {
		return trunk, fmt.Errorf("link of the trunk %s: %w", trunk.ID, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.trunk = trunk.ID
	return trunk, nil
}

// trunkOf returns the trunk ENI that the node manages.
func trunkOf(inv eni.Inventory) (eni.ENI, bool) {
	i := slices.IndexFunc(inv.ENIs, func(e eni.ENI) bool { return isTrunk(e) && !e.InFlight })
	if i < 0 {
		return eni.ENI{}, false
	}
	return inv.ENIs[i], true
}

// findBranches drops the branch ENIs of the trunk that have no pod, once for each process
// and after each failure to create one. Every ADD under way may have created one.
func (o *ownPods) findBranches(ctx context.Context) error {
	o.mu.Lock()
	listed := o.listed
	o.mu.Unlock()
	trunk, found := trunkOf(o.manager.Inventory())
	if listed || !found {
		return nil
	}
	// An unfinished operation may create one still.
	if err := o.manager.Resume(ctx); err != nil {
		return err
	}
	branches, err := o.manager.Branches(ctx, trunk.ID)
	if err != nil {
		return err
	}
	held, busy := o.heldENIs()
	if busy {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.listed = true
	for _, b := range branches {
		if !held[b.ENI] && !slices.ContainsFunc(o.dropped, func(d eni.Branch) bool { return d.ENI == b.ENI }) {
			o.dropped = append(o.dropped, b)
		}
	}
	return nil
}
