// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"github.com/vpcnet/vpcnet/internal/fabric"
)

// wantSpoofed wants the VPC to have dropped packets for their source from those
// ENIs and from no other.
func wantSpoofed(t *testing.T, f *fabric.Fabric, enis ...string) {
	t.Helper()
	for id, n := range spoofed(t, f) {
		if (n > 0) != slices.Contains(enis, id) {
			t.Errorf("the VPC dropped %d packets of %s for their source; want that of %q", n, id, enis)
		}
	}
}

// spoofedSources lets each pod send what it does not own. Nothing of it may
// arrive anywhere. The node stops it, so that the VPC has nothing to drop, unless
// the pod's packets do not pass the node.
func (s *suite) spoofedSources(t *testing.T) {
	near, far := s.hosts[0], s.hosts[1]
	arrived := []*fabric.Capture{capture(t, far.ns, "ens5"), capture(t, s.Internet(), "eth0")}
	var byVPC []string
	for _, k := range s.kinds {
		p := near.pods[k.name]
		if k.beside != "" {
			continue // the sandbox has sent them already
		}
		if k.unseen {
			byVPC = append(byVPC, p.eni)
		}
		for family := range 2 {
			for _, from := range s.victims(p, family) {
				s.forge(t, p, from, far.addrs[family], outsideAddrs[family])
			}
			// Behind the honest one there are no forged ones on their way.
			asks(t, p.ns, p.addrs[family], far.addrs[family], p.addrs[family])
		}
	}
	for _, c := range arrived {
		if got := lines(t, c, ".666 >"); len(got) != 0 {
			t.Errorf("forged packets arrived:\n%s", strings.Join(got, "\n"))
		}
	}
	wantSpoofed(t, s.Fabric, byVPC...)
}

// victims are addresses that the pod does not own.
func (s *suite) victims(p *suitePod, family int) []netip.Addr {
	all := [][]netip.Addr{
		{in4(1, eniKinds[second].offset), ip("10.0.1.99"), ip("192.0.2.1")},
		{in6(1, eniKinds[second].offset), ip("2001:db8:1:1::99"), ip("2001:db8:9::1")},
	}[family]
	all = append(all, s.hosts[0].addrs[family], s.hosts[1].addrs[family])
	for _, other := range s.hosts[0].pods {
		if other.ns != p.ns && (p.kind.shares == "" || p.kind.shares != other.kind.shares) {
			all = append(all, other.addrs[family])
		}
	}
	return all
}

func (s *suite) forge(t *testing.T, p *suitePod, from netip.Addr, to ...netip.Addr) {
	t.Helper()
	for _, a := range to {
		if err := p.ns.Send(netip.AddrPortFrom(from, 666), netip.AddrPortFrom(a, fabric.EchoPort), []byte("forged")); err != nil {
			t.Errorf("send from %v to %v: %v", from, a, err)
		}
	}
}

// withoutFilter sees a forged packet leave a node that has lost its filter. By
// IPv6, because reverse path filtering knows only IPv4.
func (s *suite) withoutFilter(t *testing.T) {
	near, far := s.hosts[1], s.hosts[0]
	run(t, near.ns, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	})
	before := spoofed(t, s.Fabric)
	p := near.pods["primary"]
	s.forge(t, p, far.addrs[1], outsideAddrs[1])
	asks(t, p.ns, p.addrs[1], outsideAddrs[1], p.addrs[1])
	before[near.eni]++
	if diff := cmp.Diff(before, spoofed(t, s.Fabric)); diff != "" {
		t.Errorf("a forged packet without the filter (-want +got):\n%s", diff)
	}
}
