// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// owners are the names that the pod's host link may have, whatever its mode.
func (p Pod) owners() []string {
	plain := Pod{ContainerID: p.ContainerID, IfName: p.IfName, HostLinkPrefix: p.HostLinkPrefix}
	return []string{plain.HostLink(), HostLinkName(strictPrefix, p.ContainerID, p.IfName)}
}

// findHostLink finds the pod's host link, under either name if the mode is not
// known.
func (h *Handle) findHostLink(ctx context.Context, p Pod) (kernelLink, error) {
	link, err := h.findLink(ctx, p.HostLink())
	if err != nil || link.index != 0 || !p.Mode.isVeth() {
		return link, err
	}
	return h.findLink(ctx, p.owners()[1])
}

// delMode removes what DelPod leaves of a pod that is more than a veth pair, and
// the pair. What it is, the alias of the host link tells, or those of other links
// on the node and in the sandbox.
func (h *Handle) delMode(ctx context.Context, p Pod, link kernelLink, addrs []PodAddr) error {
	found, err := h.aliased(ctx, p.owners()...)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range append(found, link) {
		errs = append(errs, h.delLink(ctx, p, l))
	}
	if link.index == 0 {
		errs = append(errs, h.leaveAny(ctx, p))
	}
	errs = append(errs, h.purge(ctx, branchRules(p.owners()[1])))
	errs = append(errs, h.delInside(ctx, p, link, addrs))
	if link.index != 0 {
		errs = append(errs, h.deleteLink(ctx, link.index))
	}
	return errors.Join(errs...)
}

// delLink removes what one link of the pod stands for.
func (h *Handle) delLink(ctx context.Context, p Pod, l kernelLink) error {
	switch l.alias.mode {
	case "eni":
		return h.returnENI(ctx, h, l)
	case "bridge":
		return h.leaveBridge(ctx, p, l.alias)
	case "branch":
		if l.Name != l.alias.link {
			return nil // the veth pair; the VLAN link has the same alias
		}
		if err := h.purge(ctx, branchRules(l.Name)); err != nil {
			return err
		}
		return h.deleteLink(ctx, l.index)
	}
	return nil
}

// purge deletes all rules that match.
func (h *Handle) purge(ctx context.Context, rules []Rule) error {
	return h.withConn(ctx, func(c *conn) error { return purgeRules(c, rules, nil) })
}

// branchRules select the rules of packets that come in by a link.
func branchRules(link string) []Rule {
	var rules []Rule
	for _, priority := range []int{PriorityBranch, PriorityForged} {
		for _, ipv6 := range []bool{false, true} {
			rules = append(rules, Rule{IPv6: ipv6, Priority: priority, IIF: link, Protocol: ruleProtocol})
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
	if bridge.index != 0 {
		err := h.withConn(ctx, func(c *conn) (err error) {
			p.Addrs, err = notDelivered(c, bridge.index, p)
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
	bridge, err := h.findLink(ctx, m.name())
	if err != nil || bridge.Kind != "bridge" {
		return err
	}
	if len(p.Addrs) > 0 {
		p.Mode.Bridge = m
		return h.leaveBridge(ctx, p, aliasOf(p))
	}
	var addrs []string
	err = h.withConn(ctx, func(c *conn) error {
		var b batch
		b.add(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, make([]byte, 12), func() { b.attr32(unix.NDA_IFINDEX, uint32(bridge.index)) })
		return c.dump(&b, func(body []byte) error {
			n, permanent, err := parseNeighbor(body, names{bridge.index: bridge.Name})
			if permanent && n.Link == bridge.Name && n.MAC == p.SandboxMAC().String() {
				addrs = append(addrs, n.Addr.String())
			}
			return err
		})
	})
	if err != nil || len(addrs) == 0 {
		return err
	}
	return h.leaveBridge(ctx, p, alias{link: bridge.Name, addrs: strings.Join(addrs, ",")})
}

// notDelivered returns the addresses of p for which a bridge has no neighbour but
// p's own.
func notDelivered(c *conn, bridge int, p Pod) (addrs []PodAddr, err error) {
	var b batch
	for _, a := range p.Addrs {
		header := make([]byte, 12)
		header[0] = familyOf(a.Addr)
		binary.NativeEndian.PutUint32(header[4:], uint32(bridge))
		b.add(unix.RTM_GETNEIGH, ack, header, func() { b.attr(unix.NDA_DST, a.Addr.AsSlice()) })
	}
	answers, err := c.do(&b)
	if err != nil {
		return nil, err
	}
	for i, a := range answers {
		if a.err == nil {
			n, permanent, err := parseNeighbor(a.data, names{})
			if err != nil {
				return nil, err
			}
			if permanent && n.MAC != p.SandboxMAC().String() {
				continue
			}
		}
		addrs = append(addrs, p.Addrs[i])
	}
	return addrs, nil
}

// delInside removes what would stay in a sandbox that lives on: a link that is
// not of the veth pair, and the rules of an interface beyond the first.
func (h *Handle) delInside(ctx context.Context, p Pod, link kernelLink, addrs []PodAddr) error {
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
	defer func() { _ = inside.drain() }()
	found, err := inside.aliased(ctx, p.owners()...)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range found {
		if l.alias.mode == "eni" {
			errs = append(errs, h.returnENI(ctx, inside, l))
		}
	}
	if link.alias.mode == "ipvlan" || p.Mode.IPVLAN != nil {
		own, err := inside.findLink(ctx, p.IfName)
		errs = append(errs, err)
		if own.Kind == "ipvlan" {
			errs = append(errs, inside.deleteLink(ctx, own.index))
		}
	}
	var rules []Rule
	for _, a := range append(addrs, p.Addrs...) {
		rules = append(rules, Rule{IPv6: a.Addr.Is6(), Priority: priorityInSandbox, From: hostPrefix(a.Addr), Protocol: ruleProtocol})
	}
	if p.Index > 0 && len(rules) > 0 {
		errs = append(errs, ignoreGone(inside.purge(ctx, rules)))
	}
	return errors.Join(errs...)
}

// ignoreGone drops an error that says that there is nothing to delete, or no
// such family.
func ignoreGone(err error) error {
	if isGone(err) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return err
}
