// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
)

// suspectTime is how long a pod must be without sandbox and link before it counts as ended.
const suspectTime = 10 * time.Second

// run creates the trunk ENI and the routes to the node's prefixes, deletes the ENIs of pods
// that have ended, and ends pods after their sandboxes have ended without a DEL, until ctx
// ends.
func (o *ownPods) run(ctx context.Context) error {
	tick := time.NewTicker(auditEvery)
	defer tick.Stop()
	for {
		if o.cfg.PodENI && o.limits.Trunk {
			if _, err := o.ensureTrunk(ctx); err != nil && ctx.Err() == nil {
				o.log.Warn("no trunk ENI yet", "err", err)
			}
		}
		if err := o.route(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("the VPC has no route to the pods of the node's bridge yet", "err", err)
		}
		if err := o.reclaim(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("pods whose sandboxes have ended cannot be found yet", "err", err)
		}
		if err := o.collect(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("ENIs of pods that have ended are not deleted yet", "err", err)
		}
		cooled := time.NewTimer(o.nextCooled(ctx))
		select {
		case <-tick.C:
		case <-o.work:
		case <-cooled.C:
		case <-ctx.Done():
		}
		cooled.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// nextCooled returns the time until the cooldown of a branch ENI ends, or a suspect can be
// ended.
func (o *ownPods) nextCooled(ctx context.Context) time.Duration {
	next := auditEvery
	if len(o.suspects) > 0 {
		next = suspectTime
	}
	open, err := o.manager.Unfinished(ctx)
	if err != nil {
		return next
	}
	for _, in := range open {
		if left := time.Until(in.NotBefore); in.Op == eni.OpRetireBranch && left > 0 {
			next = min(next, left)
		}
	}
	return next
}

// collect deletes the ENIs that were created for one pod and have none, and finishes the
// deletion of branch ENIs that have cooled.
func (o *ownPods) collect(ctx context.Context) error {
	ctx = eni.WithCaller(eni.WithPriority(ctx, eni.PriorityRelease), "release")
	errs := []error{o.findBranches(ctx)}
	o.mu.Lock()
	dropped := o.dropped
	o.dropped = nil
	o.mu.Unlock()
	for _, b := range dropped {
		err := o.manager.RetireBranch(ctx, b)
		if errors.Is(err, eni.ErrNotManaged) {
			o.log.Info("branch ENI of another program is left alone", "eni", b.ENI, "vlan", b.VLANID)
			continue
		}
		if err != nil {
			errs = append(errs, err)
			o.mu.Lock()
			o.dropped = append(o.dropped, b)
			o.mu.Unlock()
			continue
		}
		o.log.Info("branch ENI cools", "eni", b.ENI, "vlan", b.VLANID)
	}
	held, busy := o.heldENIs()
	for _, e := range o.manager.Inventory().ENIs {
		if isWhole(e) && e.Managed && !e.InFlight && !held[e.ID] && !busy {
			errs = append(errs, o.retireWhole(ctx, e))
		}
	}
	open, err := o.manager.Unfinished(ctx)
	errs = append(errs, err)
	cooled := func(in eni.Intent) bool { return in.Op == eni.OpRetireBranch && !time.Now().Before(in.NotBefore) }
	if slices.ContainsFunc(open, cooled) {
		errs = append(errs, o.manager.Resume(ctx))
	}
	return errors.Join(errs...)
}

// retireWhole deletes a whole ENI that no record names. If this process has not seen its pod
// end, the record may be lost, and the ENI is deleted only if its link is on the node: that
// of a running pod is in the sandbox, and comes back when the pod ends.
func (o *ownPods) retireWhole(ctx context.Context, e eni.ENI) error {
	o.mu.Lock()
	ended := o.endedENIs[e.ID]
	o.mu.Unlock()
	if !ended {
		links, err := o.links.path.Links(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(links, func(k netstate.Link) bool { return k.MAC == e.MAC }) {
			return fmt.Errorf("%s: no record names its pod, and its link is not on the node; a pod may use it", e.ID)
		}
	}
	if err := o.manager.Retire(ctx, e.ID); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.endedENIs, e.ID)
	return nil
}

// heldENIs returns the ENIs of pods, and whether an ADD may have created another one.
func (o *ownPods) heldENIs() (held map[string]bool, busy bool) {
	o.mu.Lock()
	busy = len(o.adding) > 0
	o.mu.Unlock()
	held = map[string]bool{}
	for _, r := range o.records.list() {
		held[r.ENI] = true
	}
	return held, busy
}

// reclaim ends the pods that two looks in a row have found without sandbox and link.
func (o *ownPods) reclaim(ctx context.Context) error {
	all := slices.DeleteFunc(o.records.list(), func(r podRecord) bool {
		// The agent of the pool ends pods with its addresses.
		return !r.complete() || r.Kind == kindIPVLAN
	})
	if len(all) == 0 {
		return nil
	}
	links, err := o.links.path.HostLinks(ctx)
	if err != nil {
		return err
	}
	dead := map[ipam.Attachment]time.Time{}
	var errs []error
	for _, r := range all {
		p := r.wiring()
		if links[p.HostLink()] || !sandboxEnded(ipam.Allocation{Netns: r.Netns, Sandbox: r.Sandbox}) {
			continue
		}
		since := cmp.Or(o.suspects[r.Attachment], time.Now())
		if time.Since(since) < suspectTime {
			dead[r.Attachment] = since
			continue
		}
		errs = append(errs, o.reclaimOne(ctx, r, p))
	}
	o.suspects = dead
	return errors.Join(errs...)
}

func (o *ownPods) reclaimOne(ctx context.Context, r podRecord, p datapath.Pod) error {
	p.Netns = "" // the sandbox has ended
	if err := o.links.path.DelPod(ctx, p); err != nil {
		return err
	}
	released, err := o.release(r)
	if err == nil {
		o.log.Info("released: sandbox ended without DEL", "attachment", r.Attachment, "eni", r.ENI, "sandbox", r.Netns)
		o.ended(released)
	}
	return err
}
