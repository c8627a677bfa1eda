// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var equateAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// TestPatience lets a peer undo one change for ever, and another change come once.
func TestPatience(t *testing.T) {
	var p patience
	fought := []Change{{OpAdd, Rule{Priority: PriorityToPod, Table: TablePods}}}
	now := time.Unix(0, 0)
	var granted []time.Duration
	for range 100 {
		due, next, _ := p.grant(fought, now)
		if len(due) > 0 {
			granted = append(granted, now.Sub(time.Unix(0, 0)))
			now = now.Add(time.Millisecond)
			continue
		}
		if next <= 0 {
			t.Fatalf("nothing granted and no time to look again")
		}
		now = now.Add(next)
	}
	if len(granted) < burst || granted[burst-1] > 20*time.Millisecond {
		t.Errorf("the first %d repairs were granted at %v, want them at once", burst, granted[:min(burst, len(granted))])
	}
	last := granted[len(granted)-1] - granted[len(granted)-2]
	if last != lastWait {
		t.Errorf("after a long fight a repair is granted every %v, want %v", last, lastWait)
	}
	other := []Change{{OpAdd, Sysctl{"net.ipv4.ip_forward", "1"}}}
	if due, _, _ := p.grant(other, now); len(due) != 1 {
		t.Error("a fight over one thing delays the repair of another")
	}
	now = now.Add(2 * burst * lastWait)
	if due, _, _ := p.grant(fought, now); len(due) != 1 || p.seen[fought[0].String()].wait != firstWait {
		t.Error("a fight is not forgotten after a long peace")
	}
}

func TestConfirmed(t *testing.T) {
	rule := func(s string) Change {
		return Change{OpDelete, Rule{Priority: PriorityToPod, To: netip.MustParsePrefix(s), Table: TableMain, Protocol: ruleProtocol}}
	}
	addr := Change{OpDelete, Address{Link: "ens6", Prefix: netip.MustParsePrefix("10.0.0.9/24")}}
	got := confirmed([]Change{rule("10.0.0.1/32"), rule("10.0.0.2/32")}, []Change{rule("10.0.0.2/32"), rule("10.0.0.3/32"), addr})
	if diff := cmp.Diff([]Change{rule("10.0.0.2/32"), addr}, got, equateAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDrift is about what Drift must leave alone.
func TestDrift(t *testing.T) {
	n := Node{Layout: PerPod, ENIs: []ENI{{
		ID: "eni-a", MAC: []byte{6, 0, 0, 0, 0, 5}, Link: "ens5", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.10/24")},
	}}}
	pod := func(id, addr string) Pod {
		return Pod{ContainerID: id, IfName: "eth0", Layout: PerPod, Addrs: []PodAddr{{Addr: netip.MustParseAddr(addr), Table: 2}}}
	}
	known, unwired, unknown, dead := pod("known", "10.0.0.1"), pod("unwired", "10.0.0.2"), pod("unknown", "10.0.0.3"), pod("dead", "10.0.0.4")
	primary := State{Links: []Link{{Name: "ens5", MAC: "06:00:00:00:00:05", Up: true}}}
	orphans := State{Rules: dead.HostState().Rules}
	have := Join(n.State(), primary, known.HostState(), unknown.HostState(), orphans)
	got := Desired{Node: n, Pods: []Pod{known, unwired}}.Drift(have)
	want := Diff(orphans, State{})
	if diff := cmp.Diff(want, got, equateAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
