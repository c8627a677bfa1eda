// SPDX-License-Identifier: Apache-2.0

package netpol

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
)

// group is the pods that a peer has by its selectors. Peers with the same selectors share it.
type group struct {
	key string
	// only is the name of the one namespace of the pods, "" if others decides.
	only string
	// everywhere means all namespaces, also those that are not known.
	everywhere bool
	// own means pods with a network of their own only.
	own    bool
	others matcher
	pods   matcher

	namespaces map[*namespace]bool
	classes    map[*class]bool // that use the group
	// addrs are the addresses of the pods in order, nil if they are to be collected.
	addrs []netip.Addr
}

// scope returns the group of a peer without a block, for a policy of a namespace, or of "" for
// a cluster policy. Nil is the peer that has no pods.
func scope(in string, p Peer) *group {
	g := &group{own: in == ""}
	switch {
	case p.Namespaces == nil && (p.Pods == nil || in == ""):
		return nil
	case p.Namespaces == nil:
		g.only = in
	default:
		g.others = matcherOf(*p.Namespaces)
	}
	if p.Pods != nil {
		g.pods = matcherOf(*p.Pods)
	}
	g.key = fmt.Sprintf("%s|%t|%s|%s", g.only, g.own, g.others.key(), g.pods.key())
	return g
}

// everyPod returns the group of all pods.
func everyPod() *group { return &group{key: "*", everywhere: true} }

func (g *group) inScope(ns *namespace) bool {
	switch {
	case g.everywhere:
		return true
	case g.only != "":
		return ns.name == g.only
	}
	return ns.known && g.others.matches(ns.labels)
}

// has reports whether a pod of a namespace in scope is a peer.
func (g *group) has(p *pod) bool {
	return len(p.addrs) > 0 && !(g.own && p.hostNetwork) && g.pods.matches(p.labels)
}

// use returns the group with the key of g that classes share, and notes that c uses it.
func (n *Node) use(g *group, c *class) *group {
	if known := n.groups[g.key]; known != nil {
		g = known
	} else {
		g.namespaces, g.classes = map[*namespace]bool{}, map[*class]bool{}
		n.groups[g.key] = g
		for _, ns := range n.namespaces {
			if g.inScope(ns) {
				n.join(ns, g, true)
			}
		}
	}
	g.classes[c], c.groups[g] = true, true
	return g
}

// unuse notes that c does not use a group. A group without users is deleted.
func (n *Node) unuse(g *group, c *class) {
	delete(g.classes, c)
	if len(g.classes) > 0 {
		return
	}
	for ns := range g.namespaces {
		delete(ns.groups, g)
	}
	delete(n.groups, g.key)
}

// members returns the pods of the group that have addresses, in no order.
func (g *group) members() iter.Seq[*pod] {
	return func(yield func(*pod) bool) {
		for ns := range g.namespaces {
			for _, p := range ns.pods {
				if g.has(p) && !yield(p) {
					return
				}
			}
		}
	}
}

// peers returns the addresses of the group's pods, in order and each once.
func (g *group) peers() []netip.Addr {
	if g.addrs == nil {
		all := []netip.Addr{}
		for p := range g.members() {
			all = append(all, p.addrs...)
		}
		g.addrs = sorted(all)
	}
	return g.addrs
}

func sorted(all []netip.Addr) []netip.Addr {
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Clip(slices.Compact(all))
}

// pods returns the pods that are peers of a rule of a namespace's policy, each with what says
// which of its addresses are. A pod can come more than once.
func (n *Node) pods(c *class, in string, r Rule) iter.Seq2[*pod, func(netip.Addr) bool] {
	peers := r.Peers
	if len(peers) == 0 {
		peers = []Peer{{Namespaces: &Selector{}}}
	}
	return func(yield func(*pod, func(netip.Addr) bool) bool) {
		for _, p := range peers {
			g, contains := scope(in, p), func(netip.Addr) bool { return true }
			if len(r.Peers) == 0 || p.Block != nil {
				g = everyPod()
			}
			if p.Block != nil {
				contains = p.Block.contains
			}
			if g == nil {
				continue
			}
			for member := range n.use(g, c).members() {
				if !yield(member, contains) {
					return
				}
			}
		}
	}
}

func (b *Block) contains(a netip.Addr) bool {
	return b.Prefix.Contains(a) && !slices.ContainsFunc(b.Except, func(e netip.Prefix) bool { return e.Contains(a) })
}
