// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

var equateAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// TestConfirmed expects the changes that both looks found, in the order of the second.
func TestConfirmed(t *testing.T) {
	rule := func(s string) netstate.Change {
		return netstate.Change{Op: netstate.OpDelete, Item: netstate.Rule{Priority: claims.PriorityToPod, To: netip.MustParsePrefix(s), Table: netstate.TableMain, Protocol: claims.RuleProtocol}}
	}
	addr := netstate.Change{Op: netstate.OpDelete, Item: netstate.Address{Link: "ens6", Prefix: netip.MustParsePrefix("10.0.0.9/24")}}
	got := confirmed([]netstate.Change{rule("10.0.0.1/32"), addr, rule("10.0.0.2/32")}, []netstate.Change{rule("10.0.0.2/32"), addr, rule("10.0.0.3/32")})
	if diff := cmp.Diff([]netstate.Change{rule("10.0.0.2/32"), addr}, got, equateAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDrift has pods that Drift does not know or that have no wiring yet. Drift must leave
// both alone, and delete the rules of a pod without route.
func TestDrift(t *testing.T) {
	n := Node{Layout: PerPod, ENIs: []ENI{{
		ID: "eni-a", MAC: []byte{6, 0, 0, 0, 0, 5}, Link: "ens5", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.10/24")},
	}}}
	pod := func(id, addr string) Pod {
		return Pod{ContainerID: id, IfName: "eth0", Layout: PerPod, Addrs: []PodAddr{{Addr: netip.MustParseAddr(addr), Table: 2}}}
	}
	known, unwired, unknown, dead := pod("known", "10.0.0.1"), pod("unwired", "10.0.0.2"), pod("unknown", "10.0.0.3"), pod("dead", "10.0.0.4")
	primary := netstate.State{Links: []netstate.Link{{Name: "ens5", MAC: "06:00:00:00:00:05", Up: true}}}
	orphans := netstate.State{Rules: dead.HostState().Rules}
	have := netstate.Join(n.State(), primary, known.HostState(), unknown.HostState(), orphans)
	got := Desired{Node: n, Pods: []Pod{known, unwired}}.Drift(have)
	want := netstate.Diff(orphans, netstate.State{})
	if diff := cmp.Diff(want, got, equateAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDriftAcceptRA sets accept_ra of the primary ENI to each value, on a node that
// forwards or does not, and with and without a default route. Drift sets it to 2 unless a
// program receives the router advertisements itself.
func TestDriftAcceptRA(t *testing.T) {
	n := Node{ENIs: []ENI{{
		ID: "eni-a", MAC: []byte{6, 0, 0, 0, 0, 5}, Link: "ens5", Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8::10/64")},
	}}}
	advertised := netstate.Route{Dst: netip.MustParsePrefix("::/0"), Via: claims.Router6, Link: "ens5", Table: netstate.TableMain, Protocol: 9}
	elsewhere := advertised
	elsewhere.Link = "ens9"
	for _, tt := range []struct {
		value, forwarding string
		route             netstate.Route
		unchanged         bool
	}{
		{"0", "1", advertised, true},
		{"0", "0", advertised, false},
		{"0", "1", elsewhere, false},
		{"1", "1", advertised, false},
		{"2", "1", advertised, true},
	} {
		have := n.State()
		have.Links = []netstate.Link{{Name: "ens5", MAC: "06:00:00:00:00:05", Up: true}}
		have.Routes = []netstate.Route{tt.route}
		have.Sysctls = []netstate.Sysctl{
			{Key: "net.ipv6.conf.ens5.accept_ra", Value: tt.value}, {Key: "net.ipv6.conf.ens5.disable_ipv6", Value: "0"},
			{Key: "net.ipv6.conf.all.disable_ipv6", Value: "0"}, {Key: forwarding6, Value: tt.forwarding},
		}
		var want []netstate.Change
		if !tt.unchanged {
			want = append(want, netstate.Change{Op: netstate.OpAdd, Item: netstate.Sysctl{Key: "net.ipv6.conf.ens5.accept_ra", Value: "2"}})
		}
		if tt.forwarding != "1" { // after accept_ra
			want = append(want, netstate.Change{Op: netstate.OpAdd, Item: netstate.Sysctl{Key: forwarding6, Value: "1"}})
		}
		if diff := cmp.Diff(want, Desired{Node: n}.Drift(have), equateAddrs); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tt, diff)
		}
	}
}
