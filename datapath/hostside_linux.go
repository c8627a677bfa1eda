// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// wireHost configures the host side. For a pod that has nothing but a new veth pair it needs
// a few system calls, regardless of the number of pods.
func (a *addition) wireHost(ctx context.Context) error {
	if !a.onlyPair() {
		if err := a.ensureHost(ctx); err != nil {
			return err
		}
		a.tryRefuseRouter()
		return nil
	}
	return a.h.withRules(ctx, a.host, func(c *rtnl.Conn) error {
		if err := a.claim(ctx, c); err != nil {
			return err
		}
		return a.replaceRules(c)
	})
}

// setHostSysctls writes those settings of a new host link that the pod needs and that differ
// from the present ones. It also has the link refuse router advertisements where the kernel
// would not accept them at present, or the pod has no IPv6. That is a second line of defence
// behind the node's nftables table, and may fail: /proc/sys may be read-only.
func (a *addition) setHostSysctls(context.Context) error {
	if !a.onlyPair() {
		return nil // wireHost does it
	}
	have := a.link.Sysctls
	want := slices.Clone(a.host.Sysctls)
	if refuse := refuseRouter(a.link.Name); !slices.Contains(want, refuse) {
		want = append(want, refuse)
	}
	err := rtnl.WriteSysctls(a.h.ns, missing(have, want))
	if err == nil {
		return nil
	}
	return rtnl.WriteSysctls(a.h.ns, missing(have, settingsOf(have).effective(a.host).Sysctls))
}

// tryRefuseRouter has the node's link to the pod refuse router advertisements. See
// setHostSysctls for why it may fail.
func (a *addition) tryRefuseRouter() {
	if link := a.mode.nodeLink(a.pod); link != "" && a.unfinished {
		_ = rtnl.WriteSysctls(a.h.ns, []netstate.Sysctl{refuseRouter(link)})
	}
}

// missing returns the settings of want that are not in have.
func missing(have, want []netstate.Sysctl) []netstate.Sysctl {
	return slices.DeleteFunc(slices.Clone(want), func(s netstate.Sysctl) bool { return slices.Contains(have, s) })
}

// claim sets the host link up and adds the routes to the pod's addresses. The kernel accepts
// a route to an address for one link only, so claim fails if another pod has the address.
// Rules do not name their pod and must be added later, when the pod has all its addresses.
func (a *addition) claim(ctx context.Context, c *rtnl.Conn) error {
	if err := a.clearOtherLayout(c); err != nil {
		return err
	}
	var b rtnl.Batch
	b.FindIndex(a.link.Index)
	b.NoLinkLocal(a.link.Index)
	b.SetLink(a.link.Index, netstate.Link{Up: true, NoARP: true})
	for _, n := range a.host.Neighbors {
		b.Neighbor(netstate.OpAdd, a.link.Index, n)
	}
	for _, r := range a.host.Routes {
		b.AddRoute(a.link.Index, r)
	}
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	if err := stillWiring(answers[0]); err != nil {
		return err
	}
	if err := answers[2].Err; err != nil {
		return fmt.Errorf("set %s up: %w", a.link.Name, err)
	}
	for i, n := range a.host.Neighbors {
		if err := answers[3+i].Err; err != nil {
			return fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpAdd, Item: n}, err)
		}
	}
	var occupied []netstate.Route
	for i, r := range a.host.Routes {
		err := answers[3+len(a.host.Neighbors)+i].Err
		switch {
		case errors.Is(err, unix.EEXIST):
			occupied = append(occupied, r)
		case err != nil:
			return fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpAdd, Item: r}, err)
		}
	}
	return a.claimRoutes(ctx, c, occupied)
}

// replaceRules deletes the rules that an earlier pod has left for the addresses, and adds
// the pod's.
func (a *addition) replaceRules(c *rtnl.Conn) error {
	stale := staleRules(a.pod.Addrs)
	var b rtnl.Batch
	for _, r := range stale {
		b.Rule(netstate.OpDelete, r)
	}
	for _, r := range a.host.Rules {
		b.Rule(netstate.OpAdd, r)
	}
	b.FindIndex(a.link.Index)
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	a.looked = answers[len(answers)-1]
	for i, r := range a.host.Rules {
		// If the rule exists again, Watch has just added it.
		if err := answers[len(stale)+i].Err; err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpAdd, Item: r}, err)
		}
	}
	if slices.ContainsFunc(answers[:len(stale)], func(a rtnl.Answer) bool { return a.Err == nil }) {
		// At least one rule was deleted. There may be more like it, and it may have been
		// a new one.
		return purgeRules(c, stale, a.host.Rules)
	}
	return nil
}

// staleRules select the rules that an earlier pod may have left for addresses, in any
// table and with any protocol.
func staleRules(addrs []PodAddr) []netstate.Rule {
	var rules []netstate.Rule
	for _, a := range addrs {
		dst := netstate.HostPrefix(a.Addr)
		rules = append(rules,
			netstate.Rule{IPv6: a.Addr.Is6(), Priority: claims.PriorityToPod, To: dst},
			netstate.Rule{IPv6: a.Addr.Is6(), Priority: claims.PriorityFromPod, From: dst})
	}
	return rules
}

// purgeRules deletes all rules that match stale, and then adds those of keep.
func purgeRules(c *rtnl.Conn, stale, keep []netstate.Rule) error {
	for found := true; found; {
		var b rtnl.Batch
		for _, r := range stale {
			b.Rule(netstate.OpDelete, r)
		}
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		found = false
		for i, a := range answers {
			if a.Err != nil && !rtnl.IsGone(a.Err) {
				return fmt.Errorf("delete rule %s: %w", stale[i], a.Err)
			}
			found = found || a.Err == nil
		}
	}
	var b rtnl.Batch
	for _, r := range keep {
		b.Rule(netstate.OpAdd, r)
	}
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	for i, a := range answers {
		if a.Err != nil && !errors.Is(a.Err, unix.EEXIST) {
			return fmt.Errorf("add rule %s: %w", keep[i], a.Err)
		}
	}
	return nil
}
