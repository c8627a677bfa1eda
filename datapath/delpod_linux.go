// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// DelPod removes everything of p that AddPod made. It needs ContainerID and
// IfName and finds the rest by the host link's name: the sandbox may be gone and
// the addresses unknown. It succeeds when nothing is left, and never touches what
// belongs to another pod that has got one of the addresses since.
func (h *Handle) DelPod(ctx context.Context, p Pod) error {
	link, addrs, err := h.unwire(ctx, p)
	if err != nil {
		return err
	}
	if link.Index == 0 || aliasIn(link) != (alias{}) || p.Index > 0 {
		return h.delMode(ctx, p, link, addrs)
	}
	return h.deleteLink(ctx, link.Index)
}

// unwire removes p's rules and finds its host link and addresses. Routes and
// neighbours go with the link; rules go first, because without the link nobody
// would know whose they are. The mark on the link keeps Watch from bringing
// anything back meanwhile, and AddPod from taking the link for whole.
func (h *Handle) unwire(ctx context.Context, p Pod) (link rtnl.Link, addrs []PodAddr, err error) {
	if link, err = h.findHostLink(ctx, p); err != nil {
		return link, nil, err
	}
	if link.Index != 0 && !claims.Ending(link.Group) {
		err := h.withConn(ctx, func(c *rtnl.Conn) error { return rtnl.SetGroup(c, link.Index, claims.LinkGroupEnding) })
		if err != nil {
			return link, nil, err
		}
	}
	addrs, err = h.purgeAddrs(ctx, p, link.Index)
	return link, addrs, err
}

// purgeAddrs removes the rules of p, whose link has that number, and returns its
// addresses.
func (h *Handle) purgeAddrs(ctx context.Context, p Pod, index int) (addrs []PodAddr, err error) {
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

// ownRules are staleRules with our protocol: DEL has no business with others.
func ownRules(addrs []PodAddr) []netstate.Rule {
	rules := staleRules(Pod{Addrs: addrs})
	for i := range rules {
		rules[i].Protocol = claims.RuleProtocol
	}
	return rules
}

// podAddrs returns the addresses whose rules are p's: those that lead to its
// link, and those that the caller named, unless they lead to another pod's link
// by now.
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

// addrsBehind finds a pod's addresses by the routes that lead to its link. A link
// that has gone meanwhile has none.
func addrsBehind(c *rtnl.Conn, index int) ([]PodAddr, error) {
	var addrs []PodAddr
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
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

// leadsElsewhere reports whether an address is on a link of the node, or a route for
// it alone leads to another link than that of the number.
func leadsElsewhere(c *rtnl.Conn, a netip.Addr, index int) (bool, error) {
	found, err := lookupAddrs(c, []netip.Addr{a})
	if err != nil {
		return false, err
	}
	return len(found) > 0 && found[0].link.Index != index, nil
}
