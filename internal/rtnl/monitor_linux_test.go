// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// watch opens a Monitor of the namespace of the tests.
func watch(t *testing.T, bufferSize int) *Monitor {
	t.Helper()
	m, err := NewMonitor(ownNetns(t), bufferSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// readAll returns the reports that have arrived.
func readAll(t *testing.T, m *Monitor, links LinkNames) (events []Event) {
	t.Helper()
	if _, err := m.Read(links, func(e Event) { events = append(events, e) }); err != nil {
		t.Fatal(err)
	}
	return events
}

// TestReports expects a typed report of each change.
func TestReports(t *testing.T) {
	c := connect(t)
	index := createPair(t, c)
	m := watch(t, 1<<20)
	links := LinkNames{index: testLink}
	address := netstate.Address{Link: testLink, Prefix: netstate.HostPrefix(addr6), NoPrefixRoute: true}
	neighbor := netstate.Neighbor{Link: testLink, Addr: addr4.Next(), MAC: peerMAC.String()}
	route := netstate.Route{Link: testLink, Dst: netstate.HostPrefix(addr4.Next()), Table: 77, Protocol: 9}
	rule := netstate.Rule{Priority: 700, Table: 77, Protocol: 9}
	tests := []struct {
		item netstate.Item
		// subject is the text of the item in a report, "" if it is about something else.
		subject func(Subject) string
	}{
		{address, func(s Subject) string {
			if a, ok := s.(Address); ok {
				return fmt.Sprint(a.Address)
			}
			return ""
		}},
		{neighbor, func(s Subject) string {
			n, _ := s.(Neighbor)
			if n.Key() == neighbor.Key() {
				return fmt.Sprint(neighbor) // a deleted entry has no MAC any more
			}
			return ""
		}},
		{route, func(s Subject) string {
			if r, ok := s.(Route); ok && !r.Internal {
				return fmt.Sprint(r.Route)
			}
			return ""
		}},
		{rule, func(s Subject) string {
			if r, ok := s.(Rule); ok {
				return fmt.Sprint(r.Rule)
			}
			return ""
		}},
	}
	for _, tt := range tests {
		for _, op := range []netstate.Op{netstate.OpAdd, netstate.OpDelete} {
			readAll(t, m, links)
			if err := c.Apply([]netstate.Change{{Op: op, Item: tt.item}}); err != nil {
				t.Fatal(err)
			}
			reported := map[string]bool{}
			// A worker of the kernel reports IPv6 addresses some time later.
			for end := time.Now().Add(5 * time.Second); !reported[fmt.Sprint(tt.item)]; {
				if time.Now().After(end) {
					t.Errorf("no report of %s; got %v", netstate.Change{Op: op, Item: tt.item}, reported)
					break
				}
				if err := m.Wait(t.Context(), 100*time.Millisecond); err != nil {
					t.Fatal(err)
				}
				for _, e := range readAll(t, m, links) {
					if e.Err != nil {
						t.Errorf("%s: %v", tt.item, e.Err)
					}
					if e.Deleted == (op == netstate.OpDelete) && e.Subject != nil {
						reported[tt.subject(e.Subject)] = true
					}
				}
			}
		}
	}
}

// TestLinkReports expects reports of a link and of its settings.
func TestLinkReports(t *testing.T) {
	c := connect(t)
	index := createPair(t, c)
	m := watch(t, 1<<20)
	links := LinkNames{index: testLink}
	if err := c.SetLinkGroup(index, 9); err != nil {
		t.Fatal(err)
	}
	if err := WriteSysctls(ownNetns(t), []netstate.Sysctl{netstate.LinkSysctl("ipv4", testLink, "forwarding", "1")}); err != nil {
		t.Fatal(err)
	}
	groups, settings := map[int]bool{}, map[netstate.Sysctl]bool{}
	for _, e := range readAll(t, m, links) {
		switch s := e.Subject.(type) {
		case Link:
			groups[s.Group] = s.Name == testLink && s.Index == index
		case LinkSettings:
			for _, x := range s.Settings {
				settings[x] = true
			}
		}
	}
	if !groups[9] {
		t.Errorf("no report of link group 9: %v", groups)
	}
	if want := (netstate.Sysctl{Key: "net.ipv4.conf.vpc0.forwarding", Value: "1"}); !settings[want] {
		t.Errorf("no report of %s: %v", want, settings)
	}
}

// TestLostReports fills a small buffer: Read says that reports were lost, once.
func TestLostReports(t *testing.T) {
	c := connect(t)
	m := watch(t, 4096)
	r := netstate.Rule{Priority: 700, Table: 77, Protocol: 4}
	for range 100 {
		if err := c.Apply([]netstate.Change{{Op: netstate.OpAdd, Item: r}, {Op: netstate.OpDelete, Item: r}}); err != nil {
			t.Fatal(err)
		}
	}
	var got []bool
	for range 2 {
		lost, err := m.Read(nil, func(Event) {})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, lost)
	}
	if diff := cmp.Diff([]bool{true, false}, got); diff != "" {
		t.Errorf("lost (-want +got)\n%s", diff)
	}
}

// TestWait returns after the time, and when the context ends.
func TestWait(t *testing.T) {
	m := watch(t, 1<<20)
	readAll(t, m, nil)
	if err := m.Wait(t.Context(), time.Millisecond); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if err := m.Wait(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want %v", err, context.DeadlineExceeded)
	}
}
