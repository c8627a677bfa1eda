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

// The tests here put things beside ours that resemble them: they must stay.

// static is the protocol number of routes and rules that an administrator makes.
const static = 4

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

// TestDelLeavesOthersRules has rules of others for a pod's address, in the places of
// ours.
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
						t.Errorf("gone: %v", r)
					}
				}
			})
		}
	}
}

// TestDelLeavesOthersPods: a route that somebody else has put on the link of a pod
// makes the address no pod's of that link.
func TestDelLeavesOthersPods(t *testing.T) {
	l := newLab(t, datapath.PerPod)
	l.ensure()
	gone, stays := l.pod(0, "gone"), l.pod(1, "stays")
	l.add(gone)
	l.add(stays)
	for _, a := range stays.Addrs {
		l.apply(netstate.Route{Dst: netip.PrefixFrom(a.Addr, a.Addr.BitLen()), Link: gone.HostLink(), Table: 100, Protocol: static})
	}
	if err := l.h.DelPod(t.Context(), datapath.Pod{ContainerID: gone.ContainerID, IfName: gone.IfName}); err != nil {
		t.Fatal(err)
	}
	l.talks(stays)
}

// TestOthersInOurPlaces: a rule at one of our priorities stays if it matches on what
// ours never do, or is equal to ours but for its protocol.
func TestOthersInOurPlaces(t *testing.T) {
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
	l.apply(marked) // there already
}

// TestRetiredHasNothing: while a retired link waits for Sweep, nothing leads to it.
func TestRetiredHasNothing(t *testing.T) {
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
				t.Errorf("%s: %v", layout, r)
			}
		}
		for _, n := range have.Neighbors {
			if n.Link == p.HostLink() {
				t.Errorf("%s: %v", layout, n)
			}
		}
	}
}
