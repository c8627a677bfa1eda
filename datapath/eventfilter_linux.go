// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// eventFilter decides whether a report may be about something of ours that has
// become wrong. Pods come and go all the time; a look at everything for each
// would cost more than they do.
type eventFilter struct {
	prefix string
	node   Node // with the names of links
	names  names
	links  map[string]Link // as last seen or reported
	rules  map[Rule]bool   // wanted by the node or a pod, as are the following
	routes map[routeKey]Route
	addrs  map[linkPrefix]bool
	neighs map[linkAddr]Neighbor
}

// learn takes over what a look has found and what is wanted.
func (f *eventFilter) learn(d Desired, have observation) {
	*f = eventFilter{
		prefix: d.Node.prefix(), names: names{}, links: map[string]Link{},
		rules: map[Rule]bool{}, routes: map[routeKey]Route{}, addrs: map[linkPrefix]bool{}, neighs: map[linkAddr]Neighbor{},
	}
	f.node, _ = d.Node.resolve(have.Links)
	for _, l := range have.links {
		f.links[l.Name] = l.Link
		f.names[l.index] = l.Name
	}
	f.want(f.node.State())
	for _, p := range d.Pods {
		f.want(p.HostState())
	}
}

func (f *eventFilter) want(s State) {
	for _, r := range s.Rules {
		f.rules[r] = true
	}
	for _, r := range s.Routes {
		f.routes[r.key()] = r
	}
	for _, a := range s.Addresses {
		f.addrs[a.key()] = true
	}
	for _, n := range s.Neighbors {
		f.neighs[n.key()] = n
	}
}

// concerns reports whether e is a reason to look.
func (f *eventFilter) concerns(e event) bool {
	if e.nft {
		return concernsTable(e)
	}
	switch e.kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return f.concernsLink(e)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, err := parseAddress(e.body, f.names)
		return err != nil || f.node.secondary(a.Link) && !a.Prefix.Addr().IsLinkLocalUnicast() &&
			f.addrs[a.key()] == (e.kind == unix.RTM_DELADDR)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return f.concernsNeighbor(e)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return f.concernsRoute(e)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return f.concernsRule(e)
	case unix.RTM_NEWNETCONF:
		return true
	}
	return false
}

// concernsLink wants to know of ENIs that come, go or change, and of changes of
// host links other than coming up.
func (f *eventFilter) concernsLink(e event) bool {
	l, err := parseLink(e.body)
	if err != nil {
		return true
	}
	old, known := f.links[l.Name]
	if e.kind == unix.RTM_DELLINK {
		delete(f.links, l.Name)
		delete(f.names, l.index)
	} else {
		f.names[l.index] = l.Name
		f.links[l.Name] = l.Link
	}
	if strings.HasPrefix(l.Name, f.prefix) {
		return e.kind == unix.RTM_NEWLINK && known &&
			(old.MAC != l.MAC || old.MTU != l.MTU || old.Up && !l.Up || old.Group != l.Group)
	}
	for _, eni := range f.node.ENIs {
		if l.MAC == eni.MAC.String() || l.Name == eni.Link {
			return e.kind == unix.RTM_DELLINK || !known || old != l.Link
		}
	}
	return false
}

// concernsNeighbor looks at the entries of pods.
func (f *eventFilter) concernsNeighbor(e event) bool {
	n, permanent, err := parseNeighbor(e.body, f.names)
	if err != nil {
		return true
	}
	if len(e.body) >= 8 && n.Link == "" {
		n.Link = f.names.of(int(binary.NativeEndian.Uint32(e.body[4:])))
	}
	if !strings.HasPrefix(n.Link, f.prefix) {
		return false
	}
	if e.kind == unix.RTM_DELNEIGH || !permanent {
		return true
	}
	want, ok := f.neighs[n.key()]
	return ok && want != n
}

func (f *eventFilter) concernsRoute(e event) bool {
	r, ok, err := parseRoute(e.body, f.names)
	if err != nil {
		return true
	}
	if !ok || linkScoped(r) {
		return false
	}
	want, wanted := f.routes[r.key()]
	if e.kind == unix.RTM_DELROUTE {
		_, there := f.links[r.Link]
		return wanted || there && f.node.podRoute(r)
	}
	if wanted {
		return want != r
	}
	return f.node.ownsRoute(r)
}

func (f *eventFilter) concernsRule(e event) bool {
	r, err := parseRule(e.body)
	if err != nil {
		return true
	}
	if e.kind == unix.RTM_DELRULE {
		return f.rules[r] || ownedRule(r)
	}
	return ownedRule(r) && !f.rules[r] && (!podRule(r) || f.node.layout() == Flat)
}

// concernsTable reports whether an nftables report is about our table. The one at
// the end of a transaction is about none.
func concernsTable(e event) bool {
	if len(e.body) < 4 || e.kind == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
		return false
	}
	for kind, v := range attributes(e.body[4:]) {
		// In every report on tables, chains, rules, maps and elements the first
		// attribute is the table's name.
		if kind == unix.NFTA_TABLE_NAME && text(v) == FilterTable {
			return true
		}
	}
	return false
}
