// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// The tests in this file add routes and rules of other programs that resemble those of
// this package. The package must not delete them.

// static is the protocol number of routes and rules that an administrator adds.
const static = 4

// apply adds items to the node.
func (l *lab) apply(items ...netstate.Item) {
	l.t.Helper()
	var changes []netstate.Change
	for _, i := range items {
		changes = append(changes, netstate.Change{Op: netstate.OpAdd, Item: i})
	}
	if err := l.h.Apply(l.t.Context(), changes); err != nil {
		l.t.Fatal(err)
	}
}

// TestDelLeavesOthersRules deletes a pod while rules of another program for the pod's
// addresses have the priorities of ours.
func TestDelLeavesOthersRules(t *testing.T) {
	for name, remove := range map[string]func(*lab, datapath.Pod) error{
		"DelPod": func(l *lab, p datapath.Pod) error { return l.h.DelPod(t.Context(), p) },
		"RetirePod and Sweep": func(l *lab, p datapath.Pod) error {
			if err := l.h.RetirePod(t.Context(), p); err != nil {
				return err
			}
			return l.h.Sweep(t.Context())
		},
	} {
		for _, layout := range layouts {
			t.Run(string(layout)+"/"+name, func(t *testing.T) {
				l := newLab(t, layout)
				l.ensure()
				p := l.pod(1, "one")
				l.add(p)
				var others []netstate.Rule
				for _, a := range p.Addrs {
					host := netip.PrefixFrom(a.Addr, a.Addr.BitLen())
					others = append(others,
						netstate.Rule{IPv6: a.Addr.Is6(), Priority: claims.PriorityToPod, To: host, Table: 77, Protocol: static},
						netstate.Rule{IPv6: a.Addr.Is6(), Priority: claims.PriorityFromPod, From: host, Table: 77, Protocol: static})
				}
				for _, r := range others {
					l.apply(r)
				}
				if err := remove(l, p); err != nil {
					t.Fatal(err)
				}
				have, err := l.h.Observe(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range others {
					if !slices.Contains(have.Rules, r) {
						t.Errorf("deleted: rule %v", r)
					}
				}
			})
		}
	}
}

// TestDelLeavesOthersPods deletes a pod after another program has added routes to a
// second pod over the link of the first. These routes do not make the addresses of the
// second pod addresses of the first.
func TestDelLeavesOthersPods(t *testing.T) {
	l := newLab(t, datapath.PerPod)
	l.ensure()
	first, second := l.pod(0, "first"), l.pod(1, "second")
	l.add(first)
	l.add(second)
	for _, a := range second.Addrs {
		l.apply(netstate.Route{Dst: netip.PrefixFrom(a.Addr, a.Addr.BitLen()), Link: first.HostLink(), Table: 100, Protocol: static})
	}
	if err := l.h.DelPod(t.Context(), datapath.Pod{ContainerID: first.ContainerID, IfName: first.IfName}); err != nil {
		t.Fatal(err)
	}
	l.expectConnected(second)
}

// TestOthersAtOurPriorities checks that a rule with one of our priorities remains if it
// has a selector that our rules never have, or differs from ours only in its protocol.
func TestOthersAtOurPriorities(t *testing.T) {
	l := newLab(t, datapath.Flat)
	l.ensure()
	port := netlink.NewRule()
	port.Priority, port.Table, port.Protocol, port.Dport = claims.PriorityPrimaryMark, 77, 2, netlink.NewRulePortRange(80, 80)
	in(t, l.node, func(h *netlink.Handle) error { return h.RuleAdd(port) })
	marked := netstate.Rule{Priority: claims.PriorityPrimaryMark, Mark: claims.MarkPrimary, Mask: claims.MarkPrimary, Table: netstate.TableMain, Protocol: 2}
	same := marked
	same.Protocol = static
	l.apply(same)
	before := l.state()
	if err := l.h.Apply(t.Context(), []netstate.Change{{Op: netstate.OpDelete, Item: marked}}); err != nil {
		t.Fatal(err)
	}
	l.ensure()
	if after := l.state(); after != before || !contains(before, same.String(), marked.String()) {
		t.Errorf("after EnsureNode:\n%s\nbefore:\n%s", after, before)
	}
	in(t, l.node, func(h *netlink.Handle) error { return h.RuleDel(port) })
	l.apply(marked) // no effect: the rule exists
}

// TestRetiredHasNoRoutes checks that no route and no neighbour entry uses a retired link
// that waits for Sweep.
func TestRetiredHasNoRoutes(t *testing.T) {
	for _, layout := range layouts {
		l := newLab(t, layout)
		l.ensure()
		p := l.pod(1, "one")
		l.add(p)
		if err := l.h.RetirePod(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		have, err := l.h.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range have.Routes {
			if r.Link == p.HostLink() {
				t.Errorf("%s: route %v remains", layout, r)
			}
		}
		for _, n := range have.Neighbors {
			if n.Link == p.HostLink() {
				t.Errorf("%s: neighbour %v remains", layout, n)
			}
		}
	}
}
