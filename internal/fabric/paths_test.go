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

// localPath returns the path of the end's packets to other ends on its node. For a
// node it is viaNode.
func (s *suite) localPath(e *end) localPath {
	if e.kind.localPath == nil {
		return viaNode
	}
	return e.kind.localPath(s.enforcement)
}

// crossesVPC reports whether the packets of e to another end on its node go via the
// VPC.
func (s *suite) crossesVPC(e, other *end) bool {
	w := s.localPath(e)
	return w == viaVPC || w == viaVPCToPods && other.kind.name != ""
}

// translated reports whether the node translates the source of packets to its own
// address.
func (s *suite) translated(from, to *end, family int) bool {
	return family == 0 && from.kind.name != "" && to.host == nil && s.localPath(from) != viaVPC && (s.localPath(from) != viaVPCToPods || to == s.internet)
}

// expect returns the source that the end to sees, and the ENIs of the first node
// that the packets and their answers pass.
func (s *suite) expect(from, to *end, family int) (source netip.Addr, enis []string) {
	switch {
	case s.translated(from, to, family):
		return from.host.addrs[family], []string{from.host.eni}
	case from.eni == to.eni, from.host == to.host && !s.crossesVPC(from, to) && !s.crossesVPC(to, from):
		return from.addrs[family], nil
	}
	for _, e := range []*end{from, to} {
		if e.host == s.hosts[0] {
			enis = append(enis, e.eni)
		}
	}
	return from.addrs[family], enis
}

// row is one request of everyPath.
type row struct {
	from, to *end
	family   int
}

func (s *suite) rows() (all []row) {
	near, far := s.hosts[0], s.hosts[1]
	others := []*end{&near.end, &far.end, s.internet, s.peer}
	destinations := others
	for _, h := range s.hosts {
		for _, k := range s.kinds {
			destinations = append(destinations, &h.pods[k.name].end)
		}
	}
	for family := range 2 {
		for _, k := range s.kinds {
			p := &near.pods[k.name].end
			for _, to := range destinations {
				if to.ns != p.ns {
					all = append(all, row{p, to, family})
				}
			}
			for _, from := range others {
				if from != s.internet || family == 1 || eniKinds[k.eni].public && eniKinds[k.eni].offset == k.offset {
					all = append(all, row{from, p, family})
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

// everyPath sends requests from each kind of pod to every kind of destination, and
// from the nodes and the hosts outside to each kind of pod.
func (s *suite) everyPath(t *testing.T) {
	captures := s.captures(t)
	for _, r := range s.rows() {
		t.Run(s.name(r), func(t *testing.T) { s.check(t, r, captures) })
	}
	wantSpoofed(t, s.Fabric)
}

// captures records the packets on the ENIs of the first node.
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

// check sends the request over UDP and TCP, and checks the ENIs that the packets
// passed.
func (s *suite) check(t *testing.T, r row, captures map[string]*fabric.Capture) {
	t.Helper()
	source, enis := s.expect(r.from, r.to, r.family)
	from, to := r.from.addrs[r.family], r.to.addrs[r.family]
	wantSource(t, r.from.ns, from, to, source)
	for id, c := range captures {
		seen := between(t, c, to, from, source)
		if slices.Contains(enis, id) != (len(seen) > 0) {
			t.Errorf("packets on %s, want them on %q:\n%s", id, enis, strings.Join(seen, "\n"))
		}
	}
}

// between returns the packets between one address and the others. It omits packets
// with a VLAN tag: on a trunk they belong to its branch ENIs.
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

// TestEveryMode checks that the suite has a kind of pod for each mode of datapath.
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
		t.Errorf("podKinds has no kind of pod with the modes %v", missing)
	}
}
