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

// delPod runs the steps of a DEL, in every mode. It calls end for the host link of a pod that
// has nothing but a veth pair, and deletes the links of all other pods.
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

// deletion is a DEL in progress.
type deletion struct {
	h   *kernel
	pod Pod
	// link is the host link. Its index is 0 if the link does not exist.
	link rtnl.Link
	// addrs are the pod's addresses that are known from its link or from the caller.
	addrs []PodAddr
	// aliased are the links on the node that have an alias of the pod, the host link
	// included.
	aliased []rtnl.Link
	// inside is the sandbox, nil if it does not exist or its path is unknown.
	// aliasedInside are the links in it that have an alias of the pod.
	inside        *kernel
	aliasedInside []rtnl.Link
}

// unwire finds p's host link and addresses and deletes its rules. The kernel deletes routes
// and neighbours together with the link. Rules are deleted first, because only the link
// tells to which pod they belong. unwire also puts the link into the group of ending links,
// so that Watch restores nothing and AddPod does not reuse the link.
func (h *kernel) unwire(ctx context.Context, p Pod) (*deletion, error) {
	link, err := h.findHostLink(ctx, p)
	if err != nil {
		return nil, err
	}
	if link.Index != 0 && !claims.Ending(link.Group) {
		err := h.withConn(ctx, func(c *rtnl.Conn) error { return c.SetLinkGroup(link.Index, claims.LinkGroupEnding) })
		if err != nil {
			return nil, err
		}
	}
	addrs, err := h.purgeAddrs(ctx, p, link.Index)
	return &deletion{h: h, pod: p, link: link, addrs: addrs}, err
}

// findHostLink finds the pod's host link. The index of the result is 0 if there is none.
func (h *kernel) findHostLink(ctx context.Context, p Pod) (link rtnl.Link, err error) {
	for _, name := range p.hostLinkNames() {
		if link, err = h.findLink(ctx, name); err != nil || link.Index != 0 {
			break
		}
	}
	return link, err
}

// purgeAddrs removes the rules of p and returns its addresses. index is the number of
// p's host link, 0 if the link does not exist.
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

// ownRules returns staleRules with our protocol, so that DEL does not delete rules of other
// programs.
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

// addrsBehind returns the addresses of a pod, from the routes that lead to its link. It
// returns none if the link no longer exists.
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

// release removes what the pod has in addition to its veth pair, in any mode. The aliases
// of links on the node and in the sandbox record what that is.
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

// enter opens the sandbox, if it exists. The caller closes d.inside.
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

// purgeInside deletes the rules of a second or later interface from the sandbox.
func (d *deletion) purgeInside(ctx context.Context) error {
	if d.inside == nil || d.pod.Index == 0 {
		return nil
	}
	var rules []netstate.Rule
	for _, a := range append(d.addrs, d.pod.Addrs...) {
		r := d.pod.sandboxRule(a.Addr)
		r.Table = 0 // in any table
		rules = append(rules, r)
	}
	err := d.inside.purge(ctx, rules)
	if rtnl.IsGone(err) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return err
}

// RetirePod: see [Handle.RetirePod].
func (h *kernel) RetirePod(ctx context.Context, p Pod) error {
	return h.delPod(ctx, p, h.retire)
}

// retire takes routes and neighbours from the host link of a pod and puts it into the
// group of retired links.
func (h *kernel) retire(ctx context.Context, d *deletion) error {
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.Group(d.link.Index, claims.LinkGroupRetired)
		for _, a := range d.addrs {
			for _, table := range []int{claims.TablePods, netstate.TableMain} {
				b.DeleteRoute(d.link.Index, netstate.Route{Dst: netstate.HostPrefix(a.Addr), Table: table, Protocol: claims.RouteProtocol})
			}
			b.Neighbor(netstate.OpDelete, d.link.Index, netstate.Neighbor{Addr: a.Addr})
		}
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		for _, a := range answers {
			// Items that are gone went with the sandbox. An address of a family that the kernel
			// no longer has led nowhere.
			if a.Err != nil && !rtnl.IsGone(a.Err) && !rtnl.LacksFamily(a.Err) {
				return fmt.Errorf("retire %s: %w", d.link.Name, a.Err)
			}
		}
		return nil
	})
}

// Sweep: see [Handle.Sweep].
func (h *kernel) Sweep(ctx context.Context) error {
	err := h.withConn(ctx, func(c *rtnl.Conn) error { return c.DeleteLinkGroup(claims.LinkGroupRetired) })
	if err != nil {
		return fmt.Errorf("retired links: %w", err)
	}
	orphans, err := h.orphanRules(ctx)
	if err != nil || len(orphans) == 0 {
		return err
	}
	return h.locked(ctx, alone, func() error {
		if orphans, err = h.orphanRules(ctx); err != nil {
			return err
		}
		return h.Apply(ctx, orphans)
	})
}

// orphanRules returns the deletion of rules of pods to which no route leads. AddPod makes
// the route first, so the rules are listed first. Without the lock, a rule may belong to a
// new pod by the time that it is deleted.
func (h *kernel) orphanRules(ctx context.Context) (changes []netstate.Change, err error) {
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		changes, err = listOrphans(c)
		return err
	})
	return changes, err
}

func listOrphans(c *rtnl.Conn) ([]netstate.Change, error) {
	var changes []netstate.Change
	for family := range netstate.Families() {
		var rules []netstate.Rule
		err := c.EachRule(family, func(r netstate.Rule) {
			if claims.OwnedRule(r) && podRule(r) {
				rules = append(rules, r)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		if len(rules) == 0 {
			continue
		}
		var routes []netstate.Route
		if err := c.EachRoute(family, nil, func(r netstate.Route) { routes = append(routes, r) }); err != nil {
			return nil, err
		}
		changes = append(changes, orphansOf(rules, routes)...)
	}
	return changes, nil
}
