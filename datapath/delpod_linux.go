// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// DelPod: see [Handle.DelPod].
func (h *kernel) DelPod(ctx context.Context, p Pod) error {
	return h.delPod(ctx, p, false)
}

// delPod runs the steps of a DEL, in every mode. With retire it retires the links of a pod
// that has nothing but a veth pair. It deletes the links of all other pods.
func (h *kernel) delPod(ctx context.Context, p Pod, retire bool) (err error) {
	d := &deletion{h: h, pod: p}
	defer d.leave()
	done, err := d.unwire(ctx, retire)
	if err != nil || done {
		return err
	}
	if d.onlyPair() {
		return d.end(ctx)
	}
	err = d.release(ctx)
	switch {
	case d.link.Index != 0:
		err = errors.Join(err, h.deleteLink(ctx, d.link.Index))
	case d.peer.Index != 0:
		err = errors.Join(err, d.inside.deleteLink(ctx, d.peer.Index))
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
	// inside is the sandbox, nil if it does not exist, or its path is unknown, or the DEL has
	// not entered it yet. aliasedInside are the links in it that have an alias of the pod.
	inside        *kernel
	aliasedInside []rtnl.Link
	// peer is the sandbox side of the veth pair. Its index is 0 if findPeer has not found it.
	peer rtnl.Link
}

// unwire finds p's host link and addresses and deletes its rules. The kernel deletes routes
// and neighbours together with the link. Rules are deleted first, because only the link
// tells to which pod they belong. unwire also puts the link into the group of ending links,
// so that Watch restores nothing and AddPod does not reuse the link.
//
// With retire, unwire also retires the links, and reports whether it has done so. It does
// this while it has the lock. Otherwise the links of a hundred DELs at once would wait for
// the kernel's lock before the one DEL that deletes its rules, and the others for that one.
func (d *deletion) unwire(ctx context.Context, retire bool) (retired bool, err error) {
	if err := d.findHostLink(ctx); err != nil {
		return false, err
	}
	if d.link.Index != 0 && !claims.Ending(d.link.Group) {
		err := d.h.withConn(ctx, func(c *rtnl.Conn) error { return c.SetLinkGroup(d.link.Index, claims.LinkGroupEnding) })
		if err != nil {
			return false, err
		}
	}
	if d.link.Index == 0 && len(d.pod.Addrs) == 0 {
		return false, nil
	}
	err = d.h.locked(ctx, alone, func() error {
		if err := d.purgeAddrs(ctx); err != nil {
			return err
		}
		retired = retire && d.onlyPair() && d.retire(ctx) == nil
		return nil
	})
	return retired, err
}

// onlyPair reports whether the pod has nothing but a veth pair.
func (d *deletion) onlyPair() bool { return d.link.Index != 0 && aliasIn(d.link).pairOnly() }

// findHostLink finds the pod's host link by its name. A link may have another name: that of
// an earlier configuration, or one that another program has given it. Then its alias, its
// peer in the sandbox or the route to an address leads to it, and its alias or its MAC
// identifies it.
func (d *deletion) findHostLink(ctx context.Context) (err error) {
	for _, name := range d.pod.hostLinkNames() {
		if d.link, err = d.h.findLink(ctx, name); err != nil || d.link.Index != 0 {
			return err
		}
	}
	if d.link, err = d.h.findAdopted(ctx, d.pod); err != nil || d.link.Index != 0 {
		return err
	}
	if err := d.findPeer(ctx); err != nil {
		return err
	}
	return d.h.withConn(ctx, func(c *rtnl.Conn) error {
		found, err := lookupAddrs(c, d.pod.addrs())
		if d.peer.Index != 0 {
			found = append(found, foundUse{link: rtnl.Link{Index: d.peer.PeerIndex}})
			err = errors.Join(err, nameLinks(c, found[len(found)-1:]))
		}
		for _, f := range found {
			if f.link.Kind == "veth" && f.link.MAC == d.pod.HostMAC().String() {
				d.link = f.link
			}
		}
		return err
	})
}

// findPeer enters the sandbox and finds the sandbox side of the veth pair: by its number,
// which the host link tells, or by its name and MAC.
func (d *deletion) findPeer(ctx context.Context) error {
	if err := d.enter(); err != nil || d.inside == nil {
		return err
	}
	return d.inside.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		if d.link.Index != 0 {
			b.FindIndex(d.link.PeerIndex)
		} else {
			b.FindLink(d.pod.IfName)
		}
		answers, err := c.Do(&b)
		if err != nil || rtnl.IsGone(answers[0].Err) {
			return err
		}
		l, err := answers[0].Link()
		if err != nil {
			return fmt.Errorf("look at the pod's link in the sandbox: %w", err)
		}
		ours := l.PeerIndex == d.link.Index
		if d.link.Index == 0 {
			ours = l.MAC == d.pod.SandboxMAC().String()
		}
		if ours && l.Kind == "veth" {
			d.peer = l
		}
		return nil
	})
}

// purgeAddrs finds the addresses of the pod and removes its rules.
func (d *deletion) purgeAddrs(ctx context.Context) error {
	return d.h.withConn(ctx, func(c *rtnl.Conn) (err error) {
		if d.addrs, err = podAddrs(c, d.pod, d.link.Index); err != nil || len(d.addrs) == 0 {
			return err
		}
		return purgeRules(c, ownRules(d.addrs), nil)
	})
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
		if slices.ContainsFunc(addrs, func(b PodAddr) bool { return a.Addr == b.Addr }) {
			continue
		}
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
	errs := []error{d.enter()}
	if d.inside != nil {
		var err error
		d.aliasedInside, err = d.inside.aliased(ctx, d.pod.owners()...)
		errs = append(errs, err)
	}
	for _, m := range d.pod.everyMode() {
		errs = append(errs, m.release(ctx, d))
	}
	return errors.Join(append(errs, d.purgeInside(ctx))...)
}

// enter opens the sandbox, if it exists and is not open yet.
func (d *deletion) enter() error {
	if d.pod.Netns == "" || d.inside != nil {
		return nil
	}
	inside, err := openKernel(d.pod.Netns)
	if errors.Is(err, ErrNoSandbox) {
		return nil
	}
	d.inside = inside
	return err
}

// leave closes the sandbox.
func (d *deletion) leave() {
	if d.inside != nil {
		_ = d.inside.Close() // its sockets have nothing left to report
	}
}

// end deletes the host link of a pod that has nothing but a veth pair.
func (d *deletion) end(ctx context.Context) error {
	return errors.Join(d.enter(), d.purgeInside(ctx), d.h.deleteLink(ctx, d.link.Index))
}

// allAddrs returns the addresses of the pod that are known and those that the caller named,
// each once.
func (d *deletion) allAddrs() []PodAddr {
	all := slices.Clone(d.addrs)
	for _, a := range d.pod.Addrs {
		if !slices.ContainsFunc(all, func(b PodAddr) bool { return a.Addr == b.Addr }) {
			all = append(all, a)
		}
	}
	return all
}

// purgeInside deletes the rules of a second or later interface from the sandbox.
func (d *deletion) purgeInside(ctx context.Context) error {
	if d.inside == nil {
		return nil
	}
	return d.inside.withConn(ctx, func(c *rtnl.Conn) error {
		rules, err := d.rulesInside(c)
		if err != nil || len(rules) == 0 {
			return err
		}
		return purgeRules(c, rules, nil)
	})
}

// rulesInside returns the rules of a second or later interface that are in the sandbox: those
// that select packets from an address of the pod, and the last ones for the same tables.
func (d *deletion) rulesInside(c *rtnl.Conn) (rules []netstate.Rule, err error) {
	var present []netstate.Rule
	for family := range netstate.Families() {
		err := c.EachRule(family, func(r netstate.Rule) { present = append(present, r) })
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, fmt.Errorf("list rules of the sandbox: %w", err)
		}
	}
	return sandboxRules(present, d.allAddrs()), nil
}

// RetirePod: see [Handle.RetirePod].
func (h *kernel) RetirePod(ctx context.Context, p Pod) error {
	return h.delPod(ctx, p, true)
}

// retire takes everything from the veth pair of a pod: both ends go down and get reserved
// names, so that neither a name nor an address nor a route of the pod is left, and the host
// link joins the group of retired links. It fails for example if another link has the
// reserved name; then the DEL deletes the pair.
func (d *deletion) retire(ctx context.Context) error {
	if err := d.vacate(ctx); err != nil {
		return err
	}
	return d.retireHost(ctx)
}

// vacate takes the pod's name, addresses, routes and rules from the sandbox, in one system
// call that nothing interrupts. When a link goes down, the kernel deletes its routes and
// neighbours.
func (d *deletion) vacate(ctx context.Context) error {
	if err := d.findPeer(ctx); err != nil || d.inside == nil {
		return err
	}
	return d.inside.withConn(ctx, func(c *rtnl.Conn) error {
		rules, err := d.rulesInside(c)
		if err != nil {
			return err
		}
		var b rtnl.Batch
		if d.peer.Index != 0 {
			for _, a := range d.allAddrs() {
				b.Address(netstate.OpDelete, d.peer.Index, netstate.Address{Prefix: netstate.HostPrefix(a.Addr)})
			}
			b.SetLink(d.peer.Index, netstate.Link{})
			b.Rename(d.peer.Index, d.pod.retiredName(d.peer.Index))
		}
		for _, r := range rules {
			b.Rule(netstate.OpDelete, r)
		}
		return doAll(c, &b)
	})
}

// retireHost takes the routes, neighbours and name from the host link and puts it into the
// group of retired links, in one system call.
func (d *deletion) retireHost(ctx context.Context) error {
	return d.h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.SetLink(d.link.Index, netstate.Link{Kind: "veth", Group: claims.LinkGroupRetired})
		b.Rename(d.link.Index, d.pod.retiredName(d.link.Index))
		return doAll(c, &b)
	})
}

// doAll sends the requests of a batch and returns the first error, except those about items
// that are gone, because the sandbox may end at the same time, and about addresses of a
// family that the kernel no longer has, which lead nowhere.
func doAll(c *rtnl.Conn, b *rtnl.Batch) error {
	answers, err := c.Do(b)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if a.Err != nil && !rtnl.IsGone(a.Err) && !rtnl.LacksFamily(a.Err) {
			return a.Err
		}
	}
	return nil
}

// Sweep: see [Handle.Sweep].
func (h *kernel) Sweep(ctx context.Context) error {
	err := h.withConn(ctx, func(c *rtnl.Conn) error {
		if err := h.retireEnding(c); err != nil {
			return err
		}
		return c.DeleteLinkGroup(claims.LinkGroupRetired)
	})
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

// endingTime is how long a link may be in the group of ending links until Sweep takes the
// process of its DEL for dead. A DEL takes milliseconds, or seconds on a busy node.
const endingTime = time.Minute

// retireEnding puts the links of DELs that were killed into the group of retired links: those
// that Sweep has seen in the group of ending links for endingTime. A link with an alias stays
// for the next DEL, which needs the alias.
func (h *kernel) retireEnding(c *rtnl.Conn) error {
	ending, now := map[int]time.Time{}, time.Now()
	err := c.EachLink(func(l rtnl.Link) {
		if l.Group == claims.LinkGroupEnding && aliasIn(l).pairOnly() {
			ending[l.Index] = now
		}
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	var dead []int
	for index := range ending {
		if since, ok := h.ending[index]; ok {
			ending[index] = since
		}
		if now.Sub(ending[index]) >= endingTime {
			dead = append(dead, index)
		}
	}
	h.ending = ending
	h.mu.Unlock()
	for _, index := range dead {
		if err := c.SetLinkGroup(index, claims.LinkGroupRetired); err != nil {
			return err
		}
	}
	return nil
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
		names := rtnl.LinkNames{}
		if slices.ContainsFunc(rules, func(r netstate.Rule) bool { return r.IIF != "" }) {
			if err := c.EachLink(func(l rtnl.Link) { names[l.Index] = l.Name }); err != nil {
				return nil, err
			}
		}
		var routes []netstate.Route
		if err := c.EachRoute(family, names, func(r netstate.Route) { routes = append(routes, r) }); err != nil {
			return nil, err
		}
		changes = append(changes, orphansOf(rules, routes)...)
	}
	return changes, nil
}
