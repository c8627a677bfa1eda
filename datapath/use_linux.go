// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
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
	err := h.withConn(ctx, func(c *conn) error {
		for range rounds {
			o, err := observeRoutes(c)
			if err != nil {
				return err
			}
			uses = usesOf(o.State, within)
			if !o.misses(uses) {
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
func (o observation) misses(uses []Use) bool {
	for _, u := range uses {
		if _, ok := o.link(u.Link); !ok && strings.HasPrefix(u.Link, unnamedLink) {
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
	err := h.withConn(ctx, func(c *conn) error {
		for part := addrs; len(part) > 0; {
			n := min(len(part), lookupSize)
			found, err := lookupAddrs(c, part[:n])
			if err != nil {
				return err
			}
			for _, f := range found {
				if !f.link.ended() {
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
	link kernelLink
}

// lookupAddrs looks up to lookupSize addresses up. Uses of links that end are among
// the answers.
func lookupAddrs(c *conn, addrs []netip.Addr) ([]foundUse, error) {
	var b batch
	for _, a := range addrs {
		b.fibMatch(a)
	}
	answers, err := c.do(&b)
	if err != nil {
		return nil, err
	}
	var found []foundUse
	for i, a := range answers {
		if a.err != nil || a.data == nil {
			continue // no route, or one that refuses
		}
		r, err := parseFibMatch(a.data)
		if err != nil {
			return nil, err
		}
		local := r.Type == "local" && r.Dst == hostPrefix(addrs[i])
		if local || r.leadsToOne() {
			found = append(found, foundUse{Use{addrs[i], r.Link, local}, kernelLink{index: r.index}})
		}
	}
	return found, nameLinks(c, found)
}

// fibMatch asks for the route itself that the kernel finds for an address, and not
// for the packet's way. The mark leads past whatever is not for all packets.
func (b *batch) fibMatch(a netip.Addr) {
	header := make([]byte, 12)
	header[0], header[1] = familyOf(a), uint8(a.BitLen())
	binary.NativeEndian.PutUint32(header[8:], unix.RTM_F_FIB_MATCH)
	b.add(unix.RTM_GETROUTE, ack, header, func() {
		b.attr(unix.RTA_DST, a.AsSlice())
		b.attr32(unix.RTA_MARK, MarkPrimary)
	})
}

// fibMatch is the answer to fibMatch: a route with the number of its link.
type fibMatch struct {
	Route
	index int
}

func parseFibMatch(body []byte) (fibMatch, error) {
	r, _, err := parseRoute(body, names{})
	if err != nil {
		return fibMatch{}, err
	}
	m := fibMatch{Route: r}
	for kind, v := range attributes(body[12:]) {
		if kind == unix.RTA_OIF {
			m.index = number(v)
		}
	}
	return m, nil
}

// nameLinks fills in the links of what was found. One that is gone meanwhile ended.
func nameLinks(c *conn, found []foundUse) error {
	var b batch
	for _, f := range found {
		b.lookAt(f.link.index)
	}
	answers, err := c.do(&b)
	if err != nil {
		return err
	}
	for i, a := range answers {
		f := &found[i]
		if isGone(a.err) {
			f.link.Group = linkGroupEnding
			continue
		}
		if a.err != nil {
			return fmt.Errorf("look at link %d: %w", f.link.index, a.err)
		}
		if f.link, err = parseLink(a.data); err != nil {
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
	err := h.withConn(ctx, func(c *conn) error {
		return eachLink(c, func(l kernelLink) {
			if !l.ended() {
				found[l.Name] = true
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return found, nil
}
