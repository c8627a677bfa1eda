// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath"
)

func TestEnsureNode(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			s, err := l.h.Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(l.n.State().String(), l.n.Owned(s).String()); diff != "" {
				t.Errorf("node (-want +got):\n%s", diff)
			}
			before := l.state()
			l.ensure()
			if diff := cmp.Diff(before, l.state()); diff != "" {
				t.Errorf("state after the second EnsureNode (-before +after):\n%s", diff)
			}
		})
	}
}

func TestEnsureNodeWithoutLink(t *testing.T) {
	l := newLab(t, datapath.Flat)
	before := l.state()
	l.n.ENIs[1].MAC = mac("06:00:00:00:00:99")
	if err := l.h.EnsureNode(t.Context(), *l.n); !errors.Is(err, datapath.ErrNoLink) {
		t.Errorf("EnsureNode = %v, want ErrNoLink", err)
	}
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("state after the failed EnsureNode (-before +after):\n%s", diff)
	}
}

func TestRemoveENI(t *testing.T) {
	for _, layout := range layouts {
		l := newLab(t, layout)
		all := *l.n
		l.n.ENIs = all.ENIs[:1]
		l.ensure()
		before := l.state()
		*l.n = all
		l.ensure()
		for range 2 {
			if err := l.h.RemoveENI(t.Context(), all, "eni-0b"); err != nil {
				t.Fatal(err)
			}
		}
		after := l.state()
		if contains(after, "ens6 address 06:00:00:00:00:06 mtu 1400 up") || contains(after, "dev ens6 table") || contains(after, "lookup 2 ") {
			t.Errorf("%s: the removed ENI is still configured; without it:\n%s\nnow:\n%s", layout, before, after)
		}
	}
}

// TestManySources configures an ENI with more addresses than one netlink message can hold.
func TestManySources(t *testing.T) {
	l := newLab(t, datapath.Flat)
	few, many := l.n.ENIs[1].Sources, prefixes("10.0.0.101/32", "2001:db8:0:1:b::/80")
	for i := range 3000 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i / 250), byte(i % 250)}), 32))
	}
	l.n.ENIs[1].Sources = many
	l.ensure()
	l.n.ENIs[1].Sources = few
	l.ensure()
	l.n.ENIs[1].Sources = many
	l.ensure()
	p := l.pod(1, "one")
	p.Addrs = []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.0.101"), Table: 2}}
	l.add(p)
	l.expect(p.Netns, p.Addrs[0].Addr, outside4)
}
