// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/snat"
)

// view observes all that Trace takes.
func (l *lab) view(pods ...datapath.Pod) trace.View {
	l.t.Helper()
	sandbox := ""
	if len(pods) > 0 {
		sandbox = pods[0].Netns
	}
	v, err := trace.Observe(l.t.Context(), l.node, sandbox)
	if err != nil {
		l.t.Fatal(err)
	}
	v.Desired = &datapath.Desired{Node: l.n, Pods: pods}
	v.Translation = l.translation()
	return v
}

// translation reads what package snat's table does.
func (l *lab) translation() *trace.Translation {
	l.t.Helper()
	h, err := snat.Open(l.node)
	if err != nil {
		l.t.Fatal(err)
	}
	defer h.Close()
	rules, err := h.Observe(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	tr, ok := rules.Translation()
	if !ok {
		return nil
	}
	t := trace.Translation(tr)
	return &t
}

// translate sets package snat up.
func (l *lab) translate() {
	l.t.Helper()
	rules, err := snat.Config{NodeAddrs: []netip.Addr{host4, host6}, PrimaryLink: "ens5", VPC: prefixes("10.0.0.0/8"), NodePort: true}.Ruleset()
	if err != nil {
		l.t.Fatal(err)
	}
	h, err := snat.Open(l.node)
	if err != nil {
		l.t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.Apply(l.t.Context(), rules); err != nil {
		l.t.Fatal(err)
	}
}

// TestTraceGolden explains the ways of packets on a healthy node; the kernel
// agrees with every step.
func TestTraceGolden(t *testing.T) {
	for _, layout := range layouts {
		l := newLab(t, layout)
		l.ensure()
		l.translate()
		p, other := l.pod(1, "one"), l.pod(0, "two")
		l.add(p)
		l.add(other)
		var text string
		for _, f := range []trace.Flow{
			{Src: p.Addrs[0].Addr, Dst: netip.MustParseAddr("10.0.7.7"), Proto: "tcp", Port: 443},
			{Src: p.Addrs[0].Addr, Dst: outside4, Proto: "udp", Port: 53},
			{Src: p.Addrs[1].Addr, Dst: outside6},
			{Src: p.Addrs[0].Addr, Dst: other.Addrs[0].Addr},
			{Src: p.Addrs[0].Addr, Dst: host4},
			{Src: host4, Dst: p.Addrs[0].Addr},
			{Src: host4, Dst: outside4},
		} {
			path := trace.Trace(l.view(p, other), f)
			if !path.OK() {
				t.Errorf("%s: %v", layout, path.Faults)
			}
			faults, err := trace.Confirm(t.Context(), l.node, path)
			if err != nil || len(faults) > 0 {
				t.Errorf("%s: %s to %s: Confirm = %v, %v", layout, f.Src, f.Dst, faults, err)
			}
			text += path.String() + "\n"
		}
		golden(t, "trace-"+string(layout), text)
	}
}

func TestTraceOther(t *testing.T) {
	l := newLab(t, datapath.Flat)
	l.n.RefuseMetadata = true
	l.ensure()
	l.translate()
	p := l.pod(1, "one")
	l.add(p)
	v := l.view(p)
	for _, c := range []struct {
		name string
		flow trace.Flow
		snat bool
		want string
	}{
		{"metadata", trace.Flow{Src: p.Addrs[0].Addr, Dst: netip.MustParseAddr("169.254.169.254")}, true, "refused"},
		{"spoofed", trace.Flow{Src: netip.MustParseAddr("10.0.0.99"), Dst: outside4, HostLink: p.HostLink()}, true, "source-not-owned"},
		{"translation lost", trace.Flow{Src: p.Addrs[0].Addr, Dst: netip.MustParseAddr("192.0.2.1")}, false, "lost-snat"},
	} {
		v := v
		if !c.snat {
			v.Translation = nil
		}
		path := trace.Trace(v, c.flow)
		if diff := cmp.Diff(sortedWords(c.want), faultNames(path.Faults)); diff != "" {
			t.Errorf("%s: faults (-want +got):\n%s\n%s", c.name, diff, path)
		}
	}
}
