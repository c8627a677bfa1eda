// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// addOnGarbage adds a pod where dead pods and other programs have left items that are in
// its way.
func (w *world) addOnGarbage() {
	p := w.newPod()
	if p == nil {
		return
	}
	all := w.garbage(*p)
	for range 1 + w.choose(3) {
		w.within(all[w.choose(len(all))])
	}
	w.mustAdd(*p)
	w.dirty = true // Ensure removes the garbage that was not in the way
}

// addOnNode adds a pod with an address that is on a link of the node. AddPod refuses that,
// because the node may need the address. Then the address is removed and the ADD repeated.
func (w *world) addOnNode() {
	p := w.newPod()
	if p == nil {
		return
	}
	a := p.Addrs[0].Addr
	addr := &netlink.Addr{IPNet: ipNet(netstate.HostPrefix(a)), Flags: unix.IFA_F_NODAD}
	w.within(func(h *netlink.Handle) error {
		link, err := h.LinkByName(w.linkOf(0))
		if err == nil {
			err = h.AddrAdd(link, addr)
		}
		for err == nil { // an IPv6 address takes a moment to be in use
			routes, _ := h.RouteGet(a.AsSlice())
			if len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
				return nil
			}
		}
		return err
	})
	if _, err := w.h.AddPod(w.t.Context(), *p); !errors.Is(err, ErrAddressTaken) {
		w.t.Fatalf("AddPod %s = %v, want ErrAddressTaken", p.ContainerID, err)
	}
	w.within(func(h *netlink.Handle) error {
		link, err := h.LinkByName(w.linkOf(0))
		if err != nil {
			return err
		}
		return h.AddrDel(link, addr)
	})
	w.mustAdd(*p)
}

// garbage returns functions that each make some garbage in the way of p.
func (w *world) garbage(p Pod) []func(*netlink.Handle) error {
	return []func(*netlink.Handle) error{
		func(h *netlink.Handle) error { // half a veth pair, with another MAC
			if p.Mode.Whole != nil {
				return nil
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.HardwareAddr = p.HostLink(), net.HardwareAddr{2, 0, 0, 0, 2, 1}
			return exists(h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "half" + p.HostLink()[3:10]}))
		},
		func(h *netlink.Handle) error { // a retired link of the same name
			if p.Mode.Whole != nil {
				return nil
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.HardwareAddr, attrs.Group = p.HostLink(), p.HostMAC(), claims.LinkGroupRetired
			return exists(h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "old" + p.HostLink()[3:10]}))
		},
		func(h *netlink.Handle) error { // routes of a pod that is retired
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.Group = claims.DefaultHostLinkPrefix+"retired", claims.LinkGroupRetired
			if err := exists(h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "retired"})); err != nil {
				return err
			}
			link, err := h.LinkByName(attrs.Name)
			if err == nil {
				err = h.LinkSetUp(link)
			}
			for _, a := range p.Addrs {
				for _, table := range []int{claims.TablePods, netstate.TableMain} {
					if err != nil {
						return err
					}
					err = h.RouteReplace(&netlink.Route{
						LinkIndex: link.Attrs().Index, Dst: ipNet(netstate.HostPrefix(a.Addr)), Table: table, Protocol: claims.RouteProtocol, Scope: unix.RT_SCOPE_LINK,
					})
				}
			}
			return err
		},
		func(h *netlink.Handle) error { // rules
			for _, a := range p.Addrs {
				for _, priority := range []int{claims.PriorityToPod, claims.PriorityFromPod} {
					for table, protocol := range map[int]uint8{7: claims.RuleProtocol, 3: claims.RuleProtocol, 8: unix.RTPROT_STATIC} {
						r := netlink.NewRule()
						r.Priority, r.Table, r.Protocol, r.Family = priority, table, protocol, nl.GetIPFamily(a.Addr.AsSlice())
						if priority == claims.PriorityToPod {
							r.Dst = ipNet(netstate.HostPrefix(a.Addr))
						} else {
							r.Src = ipNet(netstate.HostPrefix(a.Addr))
						}
						if err := exists(h.RuleAdd(r)); err != nil {
							return err
						}
					}
				}
			}
			return nil
		},
		func(h *netlink.Handle) error { // a link of the bridge's name that is not a bridge
			if p.Mode.Bridge == nil || w.hasBridge() {
				return nil
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name = defaultBridge
			return exists(h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "nobridge"}))
		},
	}
}

func (w *world) hasBridge() bool {
	_, ok := w.base.Link(defaultBridge)
	return ok
}

// exists ignores EEXIST: the garbage exists already, or the pod has the address.
func exists(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// damage changes something on the node that belongs to this package, as a hostile program
// would.
func (w *world) damage() {
	w.dirty = true
	links := []string{w.linkOf(1), w.linkOf(2)}
	for _, p := range w.live {
		if p.Mode.Whole == nil {
			links = append(links, p.HostLink())
		}
	}
	if slices.ContainsFunc(w.live, func(p Pod) bool { return p.Mode.Bridge != nil }) {
		links = append(links, defaultBridge)
	}
	name := links[w.choose(len(links))]
	if name == defaultBridge {
		defer w.ensure() // while there is a pod that has it
	}
	which := w.choose(8)
	w.within(func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		switch which {
		case 0:
			return h.LinkSetDown(link)
		case 1:
			return h.LinkSetMTU(link, 1300)
		case 2:
			if !strings.HasPrefix(name, claims.DefaultHostLinkPrefix) {
				return nil // an ENI may be in any group
			}
			return h.LinkSetGroup(link, 7)
		case 3:
			return flushRoutes(h, link)
		case 4:
			return flushRules(h)
		case 5:
			if name == defaultBridge && slices.ContainsFunc(w.remains, func(p Pod) bool { return p.Mode.Bridge != nil }) {
				return nil // a DEL without addresses knows them from the neighbours
			}
			return flushNeighbors(h, link)
		case 6:
			c, err := nftables.New()
			if err != nil {
				return err
			}
			c.FlushRuleset()
			return c.Flush()
		}
		if name == defaultBridge {
			return nil // a pod that Desired does not know may have the neighbour
		}
		return h.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: net.IPv4(10, 0, 0, 100), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 2, 2}, State: netlink.NUD_PERMANENT,
		})
	})
}

func flushRoutes(h *netlink.Handle, link netlink.Link) error {
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: link.Attrs().Index, Protocol: claims.RouteProtocol}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	for _, r := range routes {
		if err == nil {
			err = h.RouteDel(&r)
		}
	}
	return err
}

func flushRules(h *netlink.Handle) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := h.RuleList(family)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if r.Priority == 0 || r.Priority > claims.PriorityFromENI {
				continue
			}
			r.Family = family
			if err := h.RuleDel(&r); err != nil {
				return err
			}
		}
	}
	return nil
}

func flushNeighbors(h *netlink.Handle, link netlink.Link) error {
	neighs, err := h.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
	for _, n := range neighs {
		if err == nil && n.State&netlink.NUD_PERMANENT != 0 {
			err = h.NeighDel(&n)
		}
	}
	return err
}
