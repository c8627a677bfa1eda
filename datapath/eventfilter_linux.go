// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// eventFilter decides whether a report may be about something of ours that has
// become wrong. Pods come and go all the time; a look at everything for each
// would cost more than they do. What a pod that came after the last look wants is
// not known here: of what carries our marks it is a reason to look if it goes, and
// none if it comes.
type eventFilter struct {
	prefix string
	node   Node // with the names of links
	names  rtnl.LinkNames
	seen   map[string]seenLink // links as last seen or reported
	// What the node and its pods want; settings are known by name.
	links    map[string]netstate.Link
	rules    map[netstate.Rule]wanted[netstate.Rule]
	routes   map[netstate.RouteKey]wanted[netstate.Route]
	addrs    map[netstate.AddressKey]bool
	neighs   map[netstate.NeighborKey]wanted[netstate.Neighbor]
	pods     ownership
	settings map[string]string
}

// wanted is an item with the host link of the pod that wants it, none if it is the
// node.
type wanted[T any] struct {
	item  T
	owner string
}

// seenLink is a link as a report tells of it, with the number of the bridge that it
// is a port of instead of the name.
type seenLink struct {
	netstate.Link
	master int
}

func seen(l rtnl.Link) seenLink {
	l.Parent, l.Master = "", ""
	return seenLink{l.Link, l.MasterIndex}
}

// learn takes over what a look has found and what is wanted.
func (f *eventFilter) learn(d Desired, have rtnl.Observation) {
	*f = eventFilter{
		prefix: d.Node.prefix(), names: rtnl.LinkNames{}, seen: map[string]seenLink{}, links: map[string]netstate.Link{},
		rules: map[netstate.Rule]wanted[netstate.Rule]{}, routes: map[netstate.RouteKey]wanted[netstate.Route]{}, addrs: map[netstate.AddressKey]bool{},
		neighs: map[netstate.NeighborKey]wanted[netstate.Neighbor]{}, pods: newOwnership(), settings: map[string]string{},
	}
	f.node, _ = d.Node.Resolve(have.Links)
	for _, l := range have.Indexed {
		f.seen[l.Name] = seen(l)
		f.names[l.Index] = l.Name
	}
	f.want(f.node.State(), "")
	for _, p := range d.Pods {
		host := p.HostState()
		f.want(host, p.HostLink())
		f.pods.add(p, host)
	}
}

// want adds what the node, or the pod with that host link, wants.
func (f *eventFilter) want(s netstate.State, owner string) {
	for _, l := range s.Links {
		f.links[l.Name] = l
	}
	for _, r := range s.Rules {
		f.rules[r] = wanted[netstate.Rule]{r, owner}
	}
	for _, r := range s.Routes {
		f.routes[r.Key()] = wanted[netstate.Route]{r, owner}
	}
	for _, a := range s.Addresses {
		f.addrs[a.Key()] = true
	}
	for _, n := range s.Neighbors {
		f.neighs[n.Key()] = wanted[netstate.Neighbor]{n, owner}
	}
	for _, x := range s.Sysctls {
		f.settings[x.Key] = x.Value
	}
}

// concerns reports whether e is a reason to look.
func (f *eventFilter) concerns(e rtnl.Event) bool {
	if e.Nft {
		return concernsTable(e)
	}
	if len(e.Body) > 0 && e.Body[0] == unix.AF_BRIDGE {
		return false // what a bridge learns; of ports that come and go it tells twice
	}
	switch e.Kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return f.concernsLink(e)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, err := rtnl.ParseAddress(e.Body, f.names)
		return err != nil || f.pods.address(a.Prefix.Addr()) && e.Kind == unix.RTM_NEWADDR || f.node.secondary(a.Link) && !a.Prefix.Addr().IsLinkLocalUnicast() &&
			f.addrs[a.Key()] == (e.Kind == unix.RTM_DELADDR)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return f.concernsNeighbor(e)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return f.concernsRoute(e)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return f.concernsRule(e)
	case unix.RTM_NEWNETCONF:
		return f.concernsSettings(e)
	}
	return false
}

// concernsLink wants to know of ENIs that come, go or change; of links that pods
// share or have beside their host links, if they go; and of changes of all of
// these and of host links for the worse.
func (f *eventFilter) concernsLink(e rtnl.Event) bool {
	l, err := rtnl.ParseLink(e.Body)
	if err != nil {
		return true
	}
	old, before := f.seen[l.Name]
	want, known := f.links[l.Name]
	if e.Kind == unix.RTM_DELLINK {
		delete(f.seen, l.Name)
		delete(f.names, l.Index)
	} else {
		f.names[l.Index] = l.Name
		f.seen[l.Name] = seen(l)
	}
	for _, eni := range f.node.ENIs {
		if l.MAC == eni.MAC.String() || l.Name == eni.Link {
			return e.Kind == unix.RTM_DELLINK || !before || old != seen(l)
		}
	}
	if !known && !strings.HasPrefix(l.Name, f.prefix) || claims.Changing(l.Group) || old.Group == claims.LinkGroupWiring && e.Kind == unix.RTM_NEWLINK {
		return false
	}
	if e.Kind == unix.RTM_DELLINK {
		return want.Virtual()
	}
	if isBridge(l.Link) {
		l.MTU = old.MTU // it follows the ports
	}
	return before && (old.MAC != l.MAC || old.MTU != l.MTU || old.Up && !l.Up || old.Group != l.Group ||
		old.Kind != l.Kind || old.VLAN != l.VLAN || old.Alias != l.Alias ||
		old.master != l.MasterIndex && (old.master != 0 || known && f.names.Of(l.MasterIndex) != want.Master))
}

// isPassing reports whether a link is a host link that an ADD or DEL is at work on: it
// makes its routes, neighbours and rules, or takes them away.
func (f *eventFilter) isPassing(link string) bool { return claims.Changing(f.seen[link].Group) }

// concernsNeighbor looks at the entries of pods, and those that someone makes for
// good on ENIs.
func (f *eventFilter) concernsNeighbor(e rtnl.Event) bool {
	n, permanent, err := rtnl.ParseNeighbor(e.Body, f.names)
	if err != nil {
		return true
	}
	n.Link = f.names.Of(int(binary.NativeEndian.Uint32(e.Body[4:])))
	for kind, v := range rtnl.Attributes(e.Body[12:]) {
		if kind == unix.NDA_DST {
			n.Addr = rtnl.ParseAddr(v)
		}
	}
	want, ok := f.neighs[n.Key()]
	if f.isPassing(n.Link) || f.isPassing(want.owner) {
		return false
	}
	if ok {
		return e.Kind == unix.RTM_DELNEIGH || !permanent || want.item != n
	}
	if permanent && e.Kind == unix.RTM_NEWNEIGH && f.node.secondary(n.Link) {
		return true
	}
	multicast := binary.NativeEndian.Uint16(e.Body[8:])&unix.NUD_NOARP != 0
	return strings.HasPrefix(n.Link, f.prefix) && !f.seen[n.Link].Virtual() && !multicast && (e.Kind == unix.RTM_DELNEIGH || !permanent)
}

func (f *eventFilter) concernsRoute(e rtnl.Event) bool {
	r, ok, err := rtnl.ParseRoute(e.Body, f.names)
	if err != nil {
		return true
	}
	want, known := f.routes[r.Key()]
	if !ok || rtnl.LinkScoped(r) || f.isPassing(r.Link) || f.isPassing(want.owner) {
		return false
	}
	if e.Kind == unix.RTM_DELROUTE {
		_, there := f.seen[r.Link]
		return known || there && f.node.podRoute(r) || slices.ContainsFunc(f.node.ENIs, func(e ENI) bool { return e.Primary() && e.isDefault6(r) })
	}
	if known {
		return want.item != r
	}
	return f.node.ownsRoute(r)
}

func (f *eventFilter) concernsRule(e rtnl.Event) bool {
	r, err := rtnl.ParseRule(e.Body)
	if err != nil {
		return true
	}
	want, known := f.rules[r]
	if f.isPassing(want.owner) {
		return false
	}
	if e.Kind == unix.RTM_DELRULE {
		return known || claims.OwnedRule(r)
	}
	return claims.OwnedRule(r) && !known && (!podRule(r) || f.node.layout() == Flat)
}

// From linux/netconf.h: the size of struct netconfmsg with its padding, attributes,
// and the number that stands for all links.
const (
	netconfHeader     = 4
	netconfIndex      = 1
	netconfForwarding = 2
	netconfRPFilter   = 3
	netconfAll        = -1
)

// concernsSettings wants to know of changed settings of all links, and of settings
// of ours with another value. It hears of each new link as well.
func (f *eventFilter) concernsSettings(e rtnl.Event) bool {
	if len(e.Body) < netconfHeader {
		return true
	}
	family := "ipv4"
	if e.Body[0] == unix.AF_INET6 {
		family = "ipv6"
	}
	values := map[uint16]int{}
	for kind, v := range rtnl.Attributes(e.Body[netconfHeader:]) {
		values[kind] = int(int32(rtnl.Number(v)))
	}
	if values[netconfIndex] == netconfAll {
		return true
	}
	link := f.names[values[netconfIndex]]
	for kind, key := range map[uint16]string{netconfForwarding: "forwarding", netconfRPFilter: "rp_filter"} {
		value, reported := values[kind]
		want, wanted := f.settings[netstate.LinkSysctl(family, link, key, "").Key]
		if reported && wanted && want != fmt.Sprint(value) {
			return true
		}
	}
	return false
}

// concernsTable reports whether an nftables report is about our table. The one at
// the end of a transaction is about none.
func concernsTable(e rtnl.Event) bool {
	if len(e.Body) < 4 || e.Kind == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
		return false
	}
	for kind, v := range rtnl.Attributes(e.Body[4:]) {
		// In every report on tables, chains, rules, maps and elements the first
		// attribute is the table's name.
		if kind == unix.NFTA_TABLE_NAME && rtnl.Text(v) == netstate.FilterTable {
			return true
		}
	}
	return false
}
