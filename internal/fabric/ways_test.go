// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// way is the one that the pod's packets take to its own node; that of a node is
// byNode.
func (s *suite) way(e *end) way {
	if e.kind.way == nil {
		return byNode
	}
	return e.kind.way(s.enforcement)
}

// past reports whether what e sends to another end of its node goes by the VPC.
func (s *suite) past(e, other *end) bool {
	w := s.way(e)
	return w == byVPC || w == exceptNode && other.kind.name != ""
}

// translated reports whether the node puts its own address on what from sends.
func (s *suite) translated(from, to *end, family int) bool {
	return family == 0 && from.kind.name != "" && to.host == nil && s.way(from) != byVPC && (s.way(from) != exceptNode || to == s.internet)
}

// expect returns the source that one end sees of another's packets, and which ENIs
// of the first node they and the answers pass.
func (s *suite) expect(from, to *end, family int) (source netip.Addr, enis []string) {
	switch {
	case s.translated(from, to, family):
		return from.host.addrs[family], []string{from.host.eni}
	case from.eni == to.eni, from.host == to.host && !s.past(from, to) && !s.past(to, from):
		return from.addrs[family], nil
	}
	for _, e := range []*end{from, to} {
		if e.host == s.hosts[0] {
			enis = append(enis, e.eni)
		}
	}
	return from.addrs[family], enis
}

// row is one question of everyWay.
type row struct {
	from, to *end
	family   int
}

func (s *suite) rows() (all []row) {
	near, far := s.hosts[0], s.hosts[1]
	places := []*end{&near.end, &far.end, s.internet, s.peer}
	pods := places
	for _, h := range s.hosts {
		for _, k := range s.kinds {
			pods = append(pods, &h.pods[k.name].end)
		}
	}
	for family := range 2 {
		for _, k := range s.kinds {
			p := &near.pods[k.name].end
			for _, to := range pods {
				if to.ns != p.ns {
					all = append(all, row{from: p, to: to, family: family})
				}
			}
			for _, from := range places {
				if from != s.internet || family == 1 || eniKinds[k.eni].public && eniKinds[k.eni].offset == k.offset {
					all = append(all, row{from: from, to: p, family: family})
				}
			}
		}
	}
	return all
}

func (s *suite) name(r row) string {
	name := func(e *end) string {
		switch e.host {
		case nil:
			return e.name
		case s.hosts[0]:
			return strings.TrimSuffix("own node's "+e.name, "'s node-1")
		}
		return strings.TrimSuffix("other node's "+e.name, "'s node-2")
	}
	return fmt.Sprintf("IPv%d/%s to %s", 4+2*r.family, name(r.from), name(r.to))
}

// everyWay asks from each kind of pod at every place, and from the places that
// are no pods at each kind of pod.
func (s *suite) everyWay(t *testing.T) {
	captures := s.captures(t)
	for _, r := range s.rows() {
		t.Run(s.name(r), func(t *testing.T) { s.check(t, r, captures) })
	}
	wantSpoofed(t, s.Fabric)
}

// captures records what passes the first node's ENIs.
func (s *suite) captures(t *testing.T) map[string]*fabric.Capture {
	t.Helper()
	captures := map[string]*fabric.Capture{}
	for _, e := range s.ENIs("node-1") {
		c, err := s.Capture(e.ID)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		captures[e.ID] = c
	}
	return captures
}

// check asks over both protocols and looks at the ENIs meanwhile.
func (s *suite) check(t *testing.T, r row, captures map[string]*fabric.Capture) {
	t.Helper()
	source, enis := s.expect(r.from, r.to, r.family)
	from, to := r.from.addrs[r.family], r.to.addrs[r.family]
	asks(t, r.from.ns, from, to, source)
	for id, c := range captures {
		seen := between(t, c, to, from, source)
		if slices.Contains(enis, id) != (len(seen) > 0) {
			t.Errorf("packets on %s, want them on %q:\n%s", id, enis, strings.Join(seen, "\n"))
		}
	}
}

// between returns the packets between one address and others. Those of branch ENIs
// do not count on their trunk.
func between(t *testing.T, c *fabric.Capture, one netip.Addr, others ...netip.Addr) (all []string) {
	t.Helper()
	packets, err := c.Packets()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		f, ok := p.Flow()
		src, dst := f.Src.Addr(), f.Dst.Addr()
		if ok && p.VLAN == 0 && (src == one && slices.Contains(others, dst) || dst == one && slices.Contains(others, src)) {
			all = append(all, p.String())
		}
	}
	return all
}

// TestEveryMode holds that the suite has each mode there is.
func TestEveryMode(t *testing.T) {
	h := &host{number: 1}
	missing := map[string]bool{}
	for f := range reflect.TypeFor[datapath.Mode]().Fields() {
		missing[f.Name] = true
	}
	for _, k := range podKinds() {
		if k.mode == nil {
			continue
		}
		for f, v := range reflect.ValueOf(k.mode(h)).Fields() {
			if !v.IsZero() {
				delete(missing, f.Name)
			}
		}
	}
	if len(missing) > 0 {
		t.Errorf("no kind of pod has the modes %v", missing)
	}
}
