// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// owners are the names that the pod's host link may have, whatever its mode.
func (p Pod) owners() []string {
	plain := Pod{ContainerID: p.ContainerID, IfName: p.IfName, HostLinkPrefix: p.HostLinkPrefix}
	return []string{plain.HostLink(), HostLinkName(claims.StrictPrefix, p.ContainerID, p.IfName)}
}

// findHostLink finds the pod's host link, under either name if the mode is not
// known.
func (h *Handle) findHostLink(ctx context.Context, p Pod) (rtnl.Link, error) {
	link, err := h.findLink(ctx, p.HostLink())
	if err != nil || link.Index != 0 || !p.Mode.isVeth() {
		return link, err
	}
	return h.findLink(ctx, p.owners()[1])
}

// delMode removes what DelPod leaves of a pod that is more than a veth pair, and
// the pair. What it is, the alias of the host link tells, or those of other links
// on the node and in the sandbox.
func (h *Handle) delMode(ctx context.Context, p Pod, link rtnl.Link, addrs []PodAddr) error {
	found, err := h.aliased(ctx, p.owners()...)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range append(found, link) {
		errs = append(errs, h.delLink(ctx, p, l))
	}
	if link.Index == 0 {
		errs = append(errs, h.leaveAny(ctx, p))
	}
	errs = append(errs, h.purge(ctx, branchRules(p.owners()[1])))
	errs = append(errs, h.delInside(ctx, p, link, addrs))
	if link.Index != 0 {
		errs = append(errs, h.deleteLink(ctx, link.Index))
	}
	return errors.Join(errs...)
}

// delLink removes what one link of the pod stands for.
func (h *Handle) delLink(ctx context.Context, p Pod, l rtnl.Link) error {
	switch aliasIn(l).mode {
	case "eni":
		return h.returnENI(ctx, h, l)
	case "bridge":
		return h.leaveBridge(ctx, p, aliasIn(l))
	case "branch":
		if l.Name != aliasIn(l).link {
			return nil // the veth pair; the VLAN link has the same alias
		}
		if err := h.purge(ctx, branchRules(l.Name)); err != nil {
			return err
		}
		return h.deleteLink(ctx, l.Index)
	}
	return nil
}

// purge deletes all rules that match.
func (h *Handle) purge(ctx context.Context, rules []netstate.Rule) error {
	return h.withConn(ctx, func(c *rtnl.Conn) error { return purgeRules(c, rules, nil) })
}

// branchRules select the rules of packets that come in by a link.
func branchRules(link string) []netstate.Rule {
	var rules []netstate.Rule
	for _, priority := range []int{claims.PriorityBranch, claims.PriorityForged} {
		for _, ipv6 := range []bool{false, true} {
			rules = append(rules, netstate.Rule{IPv6: ipv6, Priority: priority, IIF: link, Protocol: claims.RuleProtocol})
		}
	}
	return rules
}

// leaveBridge removes the routes, neighbours and rules of the pod's addresses, but
// for those that the bridge delivers to another pod by now.
func (h *Handle) leaveBridge(ctx context.Context, p Pod, a alias) error {
	bridge, err := h.findLink(ctx, a.link)
	if err != nil {
		return err
	}
	p.Addrs = a.podAddrs()
	if bridge.Index != 0 {
		err := h.withConn(ctx, func(c *rtnl.Conn) (err error) {
			p.Addrs, err = notDelivered(c, bridge.Index, p)
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := h.Apply(ctx, (&Bridge{Name: a.link}).remains(p)); err != nil {
		return err
	}
	_, err = h.purgeAddrs(ctx, p, 0)
	return err
}

// leaveAny does the same for a pod whose host link is gone, which would tell the
// name of the bridge and the addresses: for the default bridge, or that of p's mode,
// and the addresses that p has or that the bridge delivers to its MAC.
func (h *Handle) leaveAny(ctx context.Context, p Pod) error {
	m := p.Mode.Bridge
	if m == nil {
		m = &Bridge{}
	}
	bridge, err := h.findLink(ctx, m.LinkName())
	if err != nil || bridge.Kind != "bridge" {
		return err
	}
	if len(p.Addrs) > 0 {
		p.Mode.Bridge = m
		return h.leaveBridge(ctx, p, aliasOf(p))
	}
	var addrs []string
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		return c.EachNeighbor(bridge.Index, func(n netstate.Neighbor) {
			if n.MAC == p.SandboxMAC().String() {
				addrs = append(addrs, n.Addr.String())
			}
		})
	})
	if err != nil || len(addrs) == 0 {
		return err
	}
	return h.leaveBridge(ctx, p, alias{link: bridge.Name, addrs: strings.Join(addrs, ",")})
}

// notDelivered returns the addresses of p for which a bridge has no neighbour but
// p's own.
func notDelivered(c *rtnl.Conn, bridge int, p Pod) (addrs []PodAddr, err error) {
	for _, a := range p.Addrs {
		n, found, err := c.NeighborOf(bridge, a.Addr)
		if err != nil {
			return nil, err
		}
		if !found || n.MAC == p.SandboxMAC().String() {
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}

// delInside removes what would stay in a sandbox that lives on: a link that is
// not of the veth pair, and the rules of an interface beyond the first.
func (h *Handle) delInside(ctx context.Context, p Pod, link rtnl.Link, addrs []PodAddr) error {
	if p.Netns == "" {
		return nil
	}
	sandbox, err := openNetns(p.Netns)
	if errors.Is(err, ErrNoSandbox) {
		return nil
	}
	if err != nil {
		return err
	}
	defer sandbox.Close()
	inside := newHandle(sandbox)
	defer func() { _ = inside.closeSockets() }()
	found, err := inside.aliased(ctx, p.owners()...)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range found {
		if aliasIn(l).mode == "eni" {
			errs = append(errs, h.returnENI(ctx, inside, l))
		}
	}
	if aliasIn(link).mode == "ipvlan" || p.Mode.IPVLAN != nil {
		own, err := inside.findLink(ctx, p.IfName)
		errs = append(errs, err)
		if own.Kind == "ipvlan" {
			errs = append(errs, inside.deleteLink(ctx, own.Index))
		}
	}
	var rules []netstate.Rule
	for _, a := range append(addrs, p.Addrs...) {
		rules = append(rules, netstate.Rule{IPv6: a.Addr.Is6(), Priority: claims.PriorityInSandbox, From: netstate.HostPrefix(a.Addr), Protocol: claims.RuleProtocol})
	}
	if p.Index > 0 && len(rules) > 0 {
		errs = append(errs, ignoreGone(inside.purge(ctx, rules)))
	}
	return errors.Join(errs...)
}

// ignoreGone drops an error that says that there is nothing to delete, or no
// such family.
func ignoreGone(err error) error {
	if rtnl.IsGone(err) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return err
}
