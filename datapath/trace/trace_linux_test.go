// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
	"github.com/vpcnet/vpcnet/datapath/trace"
)

// TestTraceGolden traces packets on a healthy node. The kernel must agree with every
// lookup.
func TestTraceGolden(t *testing.T) {
	for _, layout := range datapathtest.Layouts() {
		l := datapathtest.NewLab(t, layout)
		l.EnsureNode()
		l.Translate()
		p, other := l.Pod(1, "one"), l.Pod(0, "two")
		l.AddPod(p)
		l.AddPod(other)
		var text string
		for _, f := range []trace.Flow{
			{Src: p.Addrs[0].Addr, Dst: netip.MustParseAddr("10.0.7.7"), Proto: "tcp", Port: 443},
			{Src: p.Addrs[0].Addr, Dst: datapathtest.Outside4, Proto: "udp", Port: 53},
			{Src: p.Addrs[1].Addr, Dst: datapathtest.Outside6},
			{Src: p.Addrs[0].Addr, Dst: other.Addrs[0].Addr},
			{Src: p.Addrs[0].Addr, Dst: datapathtest.Node4},
			{Src: datapathtest.Node4, Dst: p.Addrs[0].Addr},
			{Src: datapathtest.Node4, Dst: datapathtest.Outside4},
		} {
			path := trace.Trace(l.View(p, other), f)
			if !path.OK() {
				t.Errorf("%s: %v", layout, path.Faults)
			}
			faults, err := trace.Confirm(t.Context(), l.Netns.Path(), path)
			if err != nil || len(faults) > 0 {
				t.Errorf("%s: %s to %s: Confirm = %v, %v", layout, f.Src, f.Dst, faults, err)
			}
			text += path.String() + "\n"
		}
		datapathtest.Golden(t, "trace-"+string(layout), text)
	}
}

// TestTraceNotSent traces packets that a healthy node refuses or does not translate.
func TestTraceNotSent(t *testing.T) {
	l := datapathtest.NewLab(t, datapath.Flat)
	l.Node.RefuseMetadata = true
	l.EnsureNode()
	l.Translate()
	p := l.Pod(1, "one")
	l.AddPod(p)
	v := l.View(p)
	for _, c := range []struct {
		name string
		flow trace.Flow
		snat bool
		want string
	}{
		{"metadata", trace.Flow{Src: p.Addrs[0].Addr, Dst: netip.MustParseAddr("169.254.169.254")}, true, "refused"},
		{"spoofed", trace.Flow{Src: netip.MustParseAddr("10.0.0.99"), Dst: datapathtest.Outside4, HostLink: p.HostLink()}, true, "source-not-owned"},
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

// TestTraceHeldAddress traces packets to addresses that an ENI of the node holds and no
// pod has.
func TestTraceHeldAddress(t *testing.T) {
	for _, layout := range datapathtest.Layouts() {
		l := datapathtest.NewLab(t, layout)
		l.EnsureNode()
		p := l.Pod(0, "one")
		l.AddPod(p)
		held := []netip.Addr{netip.MustParseAddr("10.0.0.113"), netip.MustParseAddr("2001:db8:0:1:b::9")}
		for i, a := range held {
			path := trace.Trace(l.View(p), trace.Flow{Src: p.Addrs[i].Addr, Dst: a})
			if diff := cmp.Diff([]string{"no-pod"}, faultNames(path.Faults)); diff != "" {
				t.Errorf("%s: faults (-want +got):\n%s\n%s", layout, diff, path)
			}
			if faults, err := trace.Confirm(t.Context(), l.Netns.Path(), path); err != nil || len(faults) > 0 {
				t.Errorf("%s: to %s: Confirm = %v, %v", layout, a, faults, err)
			}
		}
		l.Node.InUse = held
		l.EnsureNode()
		for i, a := range held {
			if path := trace.Trace(l.View(p), trace.Flow{Src: p.Addrs[i].Addr, Dst: a}); path.Has(trace.FaultNoPod) {
				t.Errorf("%s: to %s, which another program uses:\n%s", layout, a, path)
			}
		}
	}
}
