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

// InUse returns every address within the prefixes that the kernel says something
// uses, sorted and without duplicates. These count, whichever program made them:
//   - a unicast route to the single address in any table, directly on a link: to a
//     pod of ours in either layout, to a pod of another CNI plugin;
//   - a permanent neighbour entry on a virtual link, such as a pod's host link or a
//     bridge;
//   - an address on a link of this namespace (Use.Local).
//
// A link that DelPod or RetirePod has marked does not count with what is on it. The namespace knows nothing of a pod with a
// [WholeENI]: its addresses are not reported. InUse reads all routes, a few
// milliseconds on a full node; [Handle.LookupAddrs] is the fast form.
func (h *Handle) InUse(ctx context.Context, within []netip.Prefix) ([]Use, error) {
	var uses []Use
	err := h.withConn(ctx, func(c *rtnl.Conn) error {
		for range rounds {
			o, err := rtnl.ObserveRoutes(c)
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

// misses reports whether a use is of a link that came after the links were read.
func misses(o rtnl.Observation, uses []Use) bool {
	for _, u := range uses {
		if _, ok := o.Link(u.Link); !ok && strings.HasPrefix(u.Link, rtnl.UnnamedLink) {
			return true
		}
	}
	return false
}

// LookupAddrs returns which of the addresses lead to a link by a route to the
// single address, or are on a link of this namespace, sorted. It is asked before an
// address is given to a pod and costs a few microseconds an address, however many
// pods there are: the kernel looks each address up, as for a packet that shall leave
// by the primary ENI. So it sees table main and, in the flat layout, that of pods,
// and neither tables that only a packet from a certain link is looked up in, as those
// of pods with a [Branch] under [Strict], nor neighbour entries: [Handle.InUse] does.
// Links that end do not count, as there.
func (h *Handle) LookupAddrs(ctx context.Context, addrs []netip.Addr) ([]Use, error) {
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

// lookupSize bounds the addresses of one system call. The kernel takes a page for each
// answer, and all must fit into the socket's buffer of 208 KiB.
const lookupSize = 24

// foundUse is a use with its link.
type foundUse struct {
	Use
	link rtnl.Link
}

// lookupAddrs looks up to lookupSize addresses up. Uses of links that end are among
// the answers.
func lookupAddrs(c *rtnl.Conn, addrs []netip.Addr) ([]foundUse, error) {
	var b rtnl.Batch
	for _, a := range addrs {
		b.FibMatch(a, claims.MarkPrimary)
	}
	answers, err := c.Do(&b)
	if err != nil {
		return nil, err
	}
	var found []foundUse
	for i, a := range answers {
		if a.Err != nil || a.Data == nil {
			continue // no route, or one that refuses
		}
		r, err := rtnl.ParseFibMatch(a.Data)
		if err != nil {
			return nil, err
		}
		local := r.Type == "local" && r.Dst == netstate.HostPrefix(addrs[i])
		if local || leadsToOne(r.Route) {
			found = append(found, foundUse{Use{addrs[i], r.Link, local}, rtnl.Link{Index: r.Index}})
		}
	}
	return found, nameLinks(c, found)
}

// nameLinks fills in the links of what was found. One that is gone meanwhile ended.
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
		if f.link, err = rtnl.ParseLink(a.Data); err != nil {
			return err
		}
		f.Use.Link = f.link.Name
	}
	return nil
}

// HostLinks returns the names of all links of the namespace but those that
// DelPod or RetirePod has marked. A pod whose [Pod.HostLink] is not among them has no
// network any more.
func (h *Handle) HostLinks(ctx context.Context) (map[string]bool, error) {
	found := map[string]bool{}
	err := h.withConn(ctx, func(c *rtnl.Conn) error {
		return rtnl.EachLink(c, func(l rtnl.Link) {
			if !claims.Ending(l.Group) {
				found[l.Name] = true
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return found, nil
}
