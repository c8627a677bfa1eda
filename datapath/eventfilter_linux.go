// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// eventFilter decides whether a report of the kernel is a reason to look: whether it
// may be about an object of this package that is not as it should be. Pods come and go
// all the time, and a look at everything for each would cost more than they do. The
// filter does not know what a pod needs that was added after the last look. So it takes
// the deletion of an object with marks of this package for a reason to look, and its
// creation for none, until Watch looks because of the new pod.
type eventFilter struct {
	prefix string
	node   Node // with the names of its links
	names  rtnl.LinkNames
	seen   map[string]seenLink // links as last seen or reported
	// The desired objects of the node and its pods, and the values of settings by key.
	links    map[string]desiredLink
	rules    map[netstate.Rule]desiredItem[netstate.Rule]
	routes   map[netstate.RouteKey]desiredItem[netstate.Route]
	addrs    map[netstate.AddressKey]bool
	neighs   map[netstate.NeighborKey]desiredItem[netstate.Neighbor]
	pods     ownership
	settings map[string]string
	// fresh means that the ADD of a pod has ended that the filter did not know.
	fresh bool
}

// desiredItem is an item with the host link of the pod that it belongs to. The items of
// the node have no owner.
type desiredItem[T any] struct {
	item  T
	owner string
}

// desiredLink has what the filter needs of a link of the node or of a pod.
type desiredLink struct {
	virtual bool
	master  string
}

// seenLink is a link as a report describes it: with the number of the bridge that it is
// a port of instead of the name.
type seenLink struct {
	netstate.Link
	master int
}

func seenAs(l rtnl.Link) seenLink {
	l.Parent, l.Master = "", ""
	return seenLink{l.Link, l.MasterIndex}
}

// reset makes f a filter for what was observed and what is desired now.
func (f *eventFilter) reset(d Desired, have rtnl.Observation) {
	f.prefix, f.pods = d.Node.prefix(), newOwnership()
	f.names, f.seen, f.links = emptied(f.names), emptied(f.seen), emptied(f.links)
	f.rules, f.routes, f.addrs = emptied(f.rules), emptied(f.routes), emptied(f.addrs)
	f.neighs, f.settings, f.fresh = emptied(f.neighs), emptied(f.settings), false
	f.node, _ = d.Node.on(have.State).Resolve(have.Links)
	for _, l := range have.Indexed {
		f.seen[l.Name] = seenAs(l)
		f.names[l.Index] = l.Name
	}
	f.add(f.node.State(), "")
	for _, p := range d.resolved(have.Links).Pods {
		host := p.HostState()
		f.add(host, p.HostLink())
		f.pods.add(p, host)
	}
}

// emptied returns m without its elements, or a new map. Each look fills the maps with about as
// many elements as the one before.
func emptied[M ~map[K]V, K comparable, V any](m M) M {
	if m == nil {
		return M{}
	}
	clear(m)
	return m
}

// add adds the desired state of the node, or of the pod with the host link owner.
func (f *eventFilter) add(s netstate.State, owner string) {
	for _, l := range s.Links {
		f.links[l.Name] = desiredLink{l.Virtual(), l.Master}
	}
	for _, r := range s.Rules {
		f.rules[r] = desiredItem[netstate.Rule]{r, owner}
	}
	for _, r := range s.Routes {
		f.routes[r.Key()] = desiredItem[netstate.Route]{r, owner}
	}
	for _, a := range s.Addresses {
		f.addrs[a.Key()] = true
	}
	for _, n := range s.Neighbors {
		f.neighs[n.Key()] = desiredItem[netstate.Neighbor]{n, owner}
	}
	for _, x := range s.Sysctls {
		f.settings[x.Key] = x.Value
	}
}

// concerns reports whether e is a reason to look. A report that could not be decoded
// is one.
func (f *eventFilter) concerns(e rtnl.Event) bool {
	if e.Err != nil {
		return true
	}
	switch s := e.Subject.(type) {
	case rtnl.Link:
		return f.concernsLink(s, e.Deleted)
	case rtnl.Address:
		return f.concernsAddress(s.Address, e.Deleted)
	case rtnl.Neighbor:
		return f.concernsNeighbor(s, e.Deleted)
	case rtnl.Route:
		return f.concernsRoute(s, e.Deleted)
	case rtnl.Rule:
		return f.concernsRule(s.Rule, e.Deleted)
	case rtnl.LinkSettings:
		return f.concernsSettings(s)
	case rtnl.Table:
		return s.Name == netstate.FilterTable || s.Name == netstate.FlowsTable && e.Deleted
	}
	return false
}

// concernsLink selects ENIs that come, go or change; links that pods share or have
// besides their host links, if they go; and changes for the worse of these and of host
// links.
func (f *eventFilter) concernsLink(l rtnl.Link, deleted bool) bool {
	old, before := f.seen[l.Name]
	want, known := f.links[l.Name]
	if deleted {
		delete(f.seen, l.Name)
		delete(f.names, l.Index)
	} else {
		f.names[l.Index] = l.Name
		f.seen[l.Name] = seenAs(l)
	}
	if !known && !deleted && old.Group == claims.LinkGroupWiring && !claims.Changing(l.Group) {
		f.fresh = true
	}
	for _, eni := range f.node.ENIs {
		if l.MAC == eni.MAC.String() || l.Name == eni.Link {
			return deleted || !before || old != seenAs(l)
		}
	}
	if !known && !f.podLink(l.Name) || claims.Changing(l.Group) || old.Group == claims.LinkGroupWiring && !deleted {
		return false
	}
	if deleted {
		return want.virtual
	}
	if isBridge(l.Link) {
		l.MTU = old.MTU // the MTU of a bridge follows its ports
	}
	return before && (old.MAC != l.MAC || old.MTU != l.MTU || old.Up && !l.Up || old.Group != l.Group ||
		old.Kind != l.Kind || old.NoARP && !l.NoARP || old.VLAN != l.VLAN || old.Alias != l.Alias ||
		old.master != l.MasterIndex && (old.master != 0 || known && f.names.Name(l.MasterIndex) != want.master))
}

// concernsAddress selects addresses of pods that appear on the node, and addresses of
// secondary ENIs that are missing or superfluous.
func (f *eventFilter) concernsAddress(a netstate.Address, deleted bool) bool {
	ip := a.Prefix.Addr()
	if f.pods.address(ip) && !deleted {
		return true
	}
	return f.node.secondary(a.Link) && !ip.IsLinkLocalUnicast() && f.addrs[a.Key()] == deleted
}

// podLink reports whether packets of pods come from the link of that name.
func (f *eventFilter) podLink(name string) bool {
	return strings.HasPrefix(name, f.prefix) || slices.Contains(f.node.PodLinks, name)
}

// isPassing reports whether a link is a host link that an ADD or DEL is working on. The
// ADD or DEL makes or deletes the routes, neighbours and rules of that link.
func (f *eventFilter) isPassing(link string) bool { return claims.Changing(f.seen[link].Group) }

// concernsNeighbor selects the entries of pods, and permanent entries that another
// program makes on ENIs.
func (f *eventFilter) concernsNeighbor(n rtnl.Neighbor, deleted bool) bool {
	want, ok := f.neighs[n.Key()]
	if f.isPassing(n.Link) || f.isPassing(want.owner) {
		return false
	}
	if ok {
		return deleted || !n.Permanent || want.item != n.Neighbor
	}
	if n.Permanent && !deleted && f.node.secondary(n.Link) {
		return true
	}
	return f.podLink(n.Link) && !f.seen[n.Link].Virtual() && !n.NoARP && (deleted || !n.Permanent)
}

// concernsRoute selects the routes of the node and its pods, and routes of this package
// that neither has.
func (f *eventFilter) concernsRoute(r rtnl.Route, deleted bool) bool {
	want, known := f.routes[r.Key()]
	if r.Internal || rtnl.LinkScoped(r.Route) || f.isPassing(r.Link) || f.isPassing(want.owner) {
		return false
	}
	if deleted {
		_, there := f.seen[r.Link]
		return known || there && f.node.podRoute(r.Route) ||
			slices.ContainsFunc(f.node.ENIs, func(e ENI) bool { return e.Primary() && e.isDefault6(r.Route) })
	}
	if known {
		return want.item != r.Route
	}
	return f.node.ownsRoute(r.Route)
}

// concernsRule selects rules that are missing, and rules of this package that neither
// the node nor a pod has.
func (f *eventFilter) concernsRule(r netstate.Rule, deleted bool) bool {
	want, known := f.rules[r]
	if f.isPassing(want.owner) {
		return false
	}
	if deleted {
		return known || claims.OwnedRule(r)
	}
	return claims.OwnedRule(r) && !known && (!podRule(r) || f.node.layout() == Flat)
}

// concernsSettings selects changes of the settings of all links, and desired settings
// that have another value. The kernel reports the settings of each new link as well.
func (f *eventFilter) concernsSettings(s rtnl.LinkSettings) bool {
	return s.All || slices.ContainsFunc(s.Settings, func(x netstate.Sysctl) bool {
		want, ok := f.settings[x.Key]
		return ok && x.Value != want
	})
}
