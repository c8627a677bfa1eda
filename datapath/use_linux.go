// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// InUse: see [Handle.InUse].
func (h *kernel) InUse(ctx context.Context, within []netip.Prefix) ([]Use, error) {
	var uses []Use
	err := h.withConn(ctx, func(c *rtnl.Conn) error {
		for range rounds {
			o, err := c.ObserveUses()
			if err != nil {
				return err
			}
			uses = usesOf(o.State, within)
			if !misses(o, uses) {
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("addresses in use: %w", err)
	}
	return uses, nil
}

// misses reports whether a use is on a link that was created after the links were read.
func misses(o rtnl.Observation, uses []Use) bool {
	for _, u := range uses {
		if _, ok := o.Link(u.Link); !ok && strings.HasPrefix(u.Link, rtnl.UnnamedLink) {
			return true
		}
	}
	return false
}

// LookupAddrs: see [Handle.LookupAddrs].
func (h *kernel) LookupAddrs(ctx context.Context, addrs []netip.Addr) ([]Use, error) {
	var uses []Use
	err := h.withConn(ctx, func(c *rtnl.Conn) error {
		for part := addrs; len(part) > 0; {
			n := min(len(part), lookupSize)
			found, err := lookupAddrs(c, part[:n])
			if err != nil {
				return err
			}
			for _, f := range found {
				if !claims.Ending(f.link.Group) {
					uses = append(uses, f.Use)
				}
			}
			part = part[n:]
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up addresses: %w", err)
	}
	return sortedUses(uses), nil
}

// lookupSize bounds the addresses of one system call. The kernel uses a page for each
// answer, and all answers must fit into the socket's buffer of 208 KiB.
const lookupSize = 24

// foundUse is a use with its link.
type foundUse struct {
	Use
	link rtnl.Link
}

// lookupAddrs looks up at most lookupSize addresses. Its answer includes uses on links
// that DelPod or RetirePod has marked.
func lookupAddrs(c *rtnl.Conn, addrs []netip.Addr) ([]foundUse, error) {
	var b rtnl.Batch
	for _, a := range addrs {
		b.MatchRoute(a, claims.MarkPrimary)
	}
	answers, err := c.Do(&b)
	if err != nil {
		return nil, err
	}
	var found []foundUse
	for i, a := range answers {
		if !a.Found() {
			continue // there is no route, or one that refuses packets
		}
		r, err := a.Route()
		if err != nil {
			return nil, err
		}
		local := r.Type == "local" && r.Dst == netstate.HostPrefix(addrs[i])
		if local || leadsToOne(r.Route) {
			found = append(found, foundUse{Use{Addr: addrs[i], Link: r.Link, Local: local}, rtnl.Link{Index: r.LinkIndex}})
		}
	}
	return found, nameLinks(c, found)
}

// nameLinks fills in the links of uses. A link that does not exist any more counts as
// marked by DelPod.
func nameLinks(c *rtnl.Conn, found []foundUse) error {
	var b rtnl.Batch
	for _, f := range found {
		b.FindIndex(f.link.Index)
	}
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	for i, a := range answers {
		f := &found[i]
		if rtnl.IsGone(a.Err) {
			f.link.Group = claims.LinkGroupEnding
			continue
		}
		if a.Err != nil {
			return fmt.Errorf("look at link %d: %w", f.link.Index, a.Err)
		}
		if f.link, err = a.Link(); err != nil {
			return err
		}
		f.Use.Link = f.link.Name
	}
	return nil
}

// HostLinks: see [Handle.HostLinks].
func (h *kernel) HostLinks(ctx context.Context) (map[string]bool, error) {
	found := map[string]bool{}
	err := h.withConn(ctx, func(c *rtnl.Conn) error {
		return c.EachLink(func(l rtnl.Link) {
			if claims.Ending(l.Group) {
				return
			}
			found[l.Name] = true
			if a := aliasIn(l); a.adopted() {
				found[a.owner] = true
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return found, nil
}

// Links: see [Handle.Links].
func (h *kernel) Links(ctx context.Context) (links []netstate.Link, err error) {
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		return c.EachLink(func(l rtnl.Link) { links = append(links, l.Link) })
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return links, nil
}
