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

// wantSpoofed checks that the VPC has dropped packets with a spoofed source from
// the given ENIs and from no other ENI.
func wantSpoofed(t *testing.T, f *fabric.Fabric, enis ...string) {
	t.Helper()
	for id, n := range spoofed(t, f) {
		if (n > 0) != slices.Contains(enis, id) {
			t.Errorf("the VPC dropped %d packets with a spoofed source from %s, want drops only from %q", n, id, enis)
		}
	}
}

// spoofedSources sends packets from each pod with sources that it does not own. No
// such packet may arrive. The node drops them before they reach the VPC, unless the
// packets of the pod do not pass through the node.
func (s *suite) spoofedSources(t *testing.T) {
	near, far := s.hosts[0], s.hosts[1]
	arrived := []*fabric.Capture{capture(t, far.ns, "ens5"), capture(t, s.Internet(), "eth0")}
	var unfiltered []string
	for _, k := range s.kinds {
		p := near.pods[k.name]
		if k.beside != "" {
			continue // the pod's sandbox has sent them for its first interface
		}
		if k.bypassesNode {
			unfiltered = append(unfiltered, p.eni)
		}
		for family := range 2 {
			for _, from := range s.foreignAddrs(p, family) {
				s.forge(t, p, from, far.addrs[family], outsideAddrs[family])
			}
			// When this answer arrives, no forged packet is in flight any more.
			wantSource(t, p.ns, p.addrs[family], far.addrs[family], p.addrs[family])
		}
	}
	for _, c := range arrived {
		if got := lines(t, c, ".666 >"); len(got) != 0 {
			t.Errorf("forged packets arrived:\n%s", strings.Join(got, "\n"))
		}
	}
	wantSpoofed(t, s.Fabric, unfiltered...)
}

// foreignAddrs returns addresses that the pod must not use as a source.
func (s *suite) foreignAddrs(p *suitePod, family int) []netip.Addr {
	all := [][]netip.Addr{
		{in4(1, eniKinds[second].offset), ip("10.0.1.99"), ip("192.0.2.1")},
		{in6(1, eniKinds[second].offset), ip("2001:db8:1:1::99"), ip("2001:db8:9::1")},
	}[family]
	all = append(all, s.hosts[0].addrs[family], s.hosts[1].addrs[family])
	for _, other := range s.hosts[0].pods {
		if other.ns != p.ns && (p.kind.sharedDevice == "" || p.kind.sharedDevice != other.kind.sharedDevice) {
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

// withoutFilter removes the filter of a node and checks that a forged packet then
// reaches the VPC. The packet is IPv6, because reverse path filtering would drop it
// in IPv4.
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
	wantSource(t, p.ns, p.addrs[1], outsideAddrs[1], p.addrs[1])
	before[near.eni]++
	if diff := cmp.Diff(before, spoofed(t, s.Fabric)); diff != "" {
		t.Errorf("a forged packet without the filter (-want +got):\n%s", diff)
	}
}
