// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// DelPod: see [Handle.DelPod].
func (h *kernel) DelPod(ctx context.Context, p Pod) error {
	return h.delPod(ctx, p, func(ctx context.Context, d *deletion) error { return h.deleteLink(ctx, d.link.Index) })
}

// delPod is the way of every DEL, whatever the mode. end ends the host link of a pod with
// nothing but a veth pair; the links of all others are deleted.
func (h *kernel) delPod(ctx context.Context, p Pod, end func(context.Context, *deletion) error) error {
	d, err := h.unwire(ctx, p)
	if err != nil {
		return err
	}
	if d.link.Index != 0 && aliasIn(d.link) == (alias{}) && p.Index == 0 {
		return end(ctx, d)
	}
	err = d.release(ctx)
	if d.link.Index != 0 {
		err = errors.Join(err, h.deleteLink(ctx, d.link.Index))
	}
	return err
}

// deletion is a DEL at work.
type deletion struct {
	h   *kernel
	pod Pod
	// link is the host link, with index 0 if it is gone.
	link rtnl.Link
	// addrs are the pod's addresses, as far as its link or the caller told them.
	addrs []PodAddr
	// aliased are the links on the node that have an alias of the pod, the host link
	// included.
	aliased []rtnl.Link
	// inside is the sandbox, nil if it is gone or not known, and aliasedInside are the
	// links in it that have an alias of the pod.
	inside        *kernel
	aliasedInside []rtnl.Link
}

// unwire removes p's rules and finds its host link and addresses. Routes and neighbours
// go with the link. Rules go first, because without the link nothing would tell to which
// pod they belong. The link group keeps Watch from restoring anything meanwhile, and
// AddPod from taking the link for whole.
func (h *kernel) unwire(ctx context.Context, p Pod) (*deletion, error) {
	link, err := h.findHostLink(ctx, p)
	if err != nil {
		return nil, err
	}
	if link.Index != 0 && !claims.Ending(link.Group) {
		err := h.withConn(ctx, func(c *rtnl.Conn) error { return rtnl.SetGroup(c, link.Index, claims.LinkGroupEnding) })
		if err != nil {
			return nil, err
		}
	}
	addrs, err := h.purgeAddrs(ctx, p, link.Index)
	return &deletion{h: h, pod: p, link: link, addrs: addrs}, err
}

// findHostLink finds the pod's host link. If it is gone, the link has index 0.
func (h *kernel) findHostLink(ctx context.Context, p Pod) (link rtnl.Link, err error) {
	for _, name := range p.hostLinkNames() {
		if link, err = h.findLink(ctx, name); err != nil || link.Index != 0 {
			break
		}
	}
	return link, err
}

// purgeAddrs removes the rules of p and returns its addresses. index is the number of
// p's host link, 0 if that is gone.
func (h *kernel) purgeAddrs(ctx context.Context, p Pod, index int) (addrs []PodAddr, err error) {
	if index == 0 && len(p.Addrs) == 0 {
		return nil, nil
	}
	err = h.locked(ctx, alone, func() error {
		return h.withConn(ctx, func(c *rtnl.Conn) (err error) {
			if addrs, err = podAddrs(c, p, index); err != nil || len(addrs) == 0 {
				return err
			}
			return purgeRules(c, ownRules(addrs), nil)
		})
	})
	return addrs, err
}

// ownRules are staleRules with our protocol: DEL leaves the rules of other programs.
func ownRules(addrs []PodAddr) []netstate.Rule {
	rules := staleRules(addrs)
	for i := range rules {
		rules[i].Protocol = claims.RuleProtocol
	}
	return rules
}

// podAddrs returns the addresses that are p's: those that lead to its link, and those
// that the caller named, unless they lead to another pod's link by now.
func podAddrs(c *rtnl.Conn, p Pod, index int) ([]PodAddr, error) {
	var addrs []PodAddr
	if index != 0 {
		found, err := addrsBehind(c, index)
		if err != nil {
			return nil, err
		}
		addrs = found
	}
	for _, a := range p.Addrs {
		taken, err := leadsElsewhere(c, a.Addr, index)
		if err != nil {
			return nil, err
		}
		if !taken {
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}

// addrsBehind finds a pod's addresses by the routes that lead to its link. A link that
// has gone meanwhile has none.
func addrsBehind(c *rtnl.Conn, index int) ([]PodAddr, error) {
	var addrs []PodAddr
	for family := range netstate.Families() {
		err := c.EachRouteOver(index, family, func(r netstate.Route) {
			if r.Protocol == claims.RouteProtocol && r.Dst.IsSingleIP() {
				addrs = append(addrs, PodAddr{Addr: r.Dst.Addr()})
			}
		})
		if err != nil && !rtnl.IsGone(err) {
			return nil, fmt.Errorf("list routes: %w", err)
		}
	}
	return addrs, nil
}

// leadsElsewhere reports whether an address is on a link of the node, or a route to that
// single address leads to another link than the one with that number.
func leadsElsewhere(c *rtnl.Conn, a netip.Addr, index int) (bool, error) {
	found, err := lookupAddrs(c, []netip.Addr{a})
	if err != nil {
		return false, err
	}
	return len(found) > 0 && found[0].link.Index != index, nil
}

// purge deletes all rules that match.
func (h *kernel) purge(ctx context.Context, rules []netstate.Rule) error {
	return h.withConn(ctx, func(c *rtnl.Conn) error { return purgeRules(c, rules, nil) })
}

// release removes what the pod has beside its veth pair, in any mode. The aliases of
// links on the node and in the sandbox tell what that is.
func (d *deletion) release(ctx context.Context) (err error) {
	if d.aliased, err = d.h.aliased(ctx, d.pod.owners()...); err != nil {
		return err
	}
	if d.link.Index != 0 {
		d.aliased = append(d.aliased, d.link)
	}
	errs := []error{d.enter(ctx)}
	if d.inside != nil {
		defer d.inside.Close()
	}
	for _, m := range d.pod.everyMode() {
		errs = append(errs, m.release(ctx, d))
	}
	return errors.Join(append(errs, d.purgeInside(ctx))...)
}

// enter opens the sandbox, if there still is one. The caller closes d.inside.
func (d *deletion) enter(ctx context.Context) error {
	if d.pod.Netns == "" {
		return nil
	}
	inside, err := openKernel(d.pod.Netns)
	if errors.Is(err, ErrNoSandbox) {
		return nil
	}
	if err != nil {
		return err
	}
	d.inside = inside
	d.aliasedInside, err = inside.aliased(ctx, d.pod.owners()...)
	return err
}

// purgeInside deletes the rules of an interface beyond the first from a sandbox that
// lives on.
func (d *deletion) purgeInside(ctx context.Context) error {
	if d.inside == nil || d.pod.Index == 0 {
		return nil
	}
	var rules []netstate.Rule
	for _, a := range append(d.addrs, d.pod.Addrs...) {
		r := d.pod.sandboxRule(a.Addr)
		r.Table = 0 // any
		rules = append(rules, r)
	}
	err := d.inside.purge(ctx, rules)
	if rtnl.IsGone(err) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return err
}
