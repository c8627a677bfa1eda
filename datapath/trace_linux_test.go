// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
)

// view observes all that Trace takes, as if package snat were set up.
func (l *lab) view(pods ...datapath.Pod) datapath.View {
	l.t.Helper()
	sandbox := ""
	if len(pods) > 0 {
		sandbox = pods[0].Netns
	}
	v, err := l.h.View(l.t.Context(), sandbox)
	if err != nil {
		l.t.Fatal(err)
	}
	v.Desired = &datapath.Desired{Node: l.n, Pods: pods}
	v.Translation = &datapath.Translation{
		Inside: append(prefixes("198.51.100.0/24"), prefixes("10.0.0.0/8")...), To: host4,
	}
	return v
}

// TestTraceGolden explains the ways of packets on a healthy node; the kernel
// agrees with every step.
func TestTraceGolden(t *testing.T) {
	for _, layout := range layouts {
		l := newLab(t, layout)
		l.ensure()
		p, other := l.pod(1, "one"), l.pod(0, "two")
		l.add(p)
		l.add(other)
		var text string
		for _, f := range []datapath.Flow{
			{Src: p.Addrs[0].Addr, Dst: outside4, Proto: "tcp", Port: 443},
			{Src: p.Addrs[0].Addr, Dst: netip.MustParseAddr("192.0.2.1"), Proto: "tcp", Port: 443},
			{Src: p.Addrs[1].Addr, Dst: outside6},
			{Src: p.Addrs[0].Addr, Dst: other.Addrs[0].Addr},
			{Src: p.Addrs[0].Addr, Dst: host4},
			{Src: host4, Dst: p.Addrs[0].Addr},
			{Src: host4, Dst: outside4},
		} {
			path := datapath.Trace(l.view(p, other), f)
			if !path.OK() {
				t.Errorf("%s: %v", layout, path.Faults)
			}
			faults, err := l.h.Confirm(t.Context(), path)
			if err != nil || len(faults) > 0 {
				t.Errorf("%s: %s to %s: Confirm = %v, %v", layout, f.Src, f.Dst, faults, err)
			}
			text += path.String() + "\n"
		}
		golden(t, "trace-"+string(layout), text)
	}
}

// plants are faults that Trace must name.
var plants = []struct {
	name   string
	do     func(h *netlink.Handle, p datapath.Pod) error
	want   datapath.FaultName
	layout datapath.Layout
}{
	{"rule to pods deleted", deleteRules(func(r netlink.Rule) bool { return r.Priority == datapath.PriorityToPod }), datapath.FaultMissingRule, datapath.Flat},
	{"rule from pods deleted", deleteRules(func(r netlink.Rule) bool { return r.Priority == datapath.PriorityFromPod }), datapath.FaultMissingRule, ""},
	{"rule to another table", func(h *netlink.Handle, p datapath.Pod) error {
		return eachRule(h, func(r netlink.Rule) bool { return r.Priority == datapath.PriorityFromPod }, func(r *netlink.Rule) error {
			if err := h.RuleDel(r); err != nil {
				return err
			}
			r.Table = datapath.TableMain
			return h.RuleAdd(r)
		})
	}, datapath.FaultWrongTable, ""},
	{"another program's rule", func(h *netlink.Handle, p datapath.Pod) error {
		r := netlink.NewRule()
		r.Priority, r.Table, r.Src = 700, datapath.TableMain, &net.IPNet{IP: p.Addrs[0].Addr.AsSlice(), Mask: net.CIDRMask(32, 32)}
		return h.RuleAdd(r)
	}, datapath.FaultForeignRule, ""},
	{"route to the pod deleted", damageNamed("delete the pod's routes"), datapath.FaultMissingRoute, ""},
	{"neighbour deleted", damageNamed("delete the pod's neighbours"), datapath.FaultNoNeighbor, ""},
	{"neighbour stale", damageNamed("make the pod's neighbours stale"), datapath.FaultStaleNeighbor, ""},
	{"MAC of the host link changed", damageNamed("give the host link another MAC"), datapath.FaultStaleNeighbor, ""},
	{"host link down", damageNamed("set the host link down"), datapath.FaultLinkDown, ""},
	{"table of the ENI flushed", damageNamed("flush the ENI's table"), datapath.FaultWrongENI, ""},
	{"strict filtering", damageNamed("filter the ENI strictly"), datapath.FaultStrictReverse, datapath.Flat},
	{"no router", damageNamed("stop forwarding"), datapath.FaultNoForwarding, ""},
	{"table of nftables gone", damageNamed("flush nftables"), datapath.FaultNoFilter, ""},
	{"map flushed", damageNamed("flush a map"), datapath.FaultMissingMark, datapath.Flat},
}

func deleteRules(which func(netlink.Rule) bool) func(*netlink.Handle, datapath.Pod) error {
	return func(h *netlink.Handle, _ datapath.Pod) error { return eachRule(h, which, h.RuleDel) }
}

func damageNamed(name string) func(*netlink.Handle, datapath.Pod) error {
	for _, d := range damages {
		if d.name == name {
			return d.do
		}
	}
	return func(*netlink.Handle, datapath.Pod) error { return errors.New("no damage " + name) }
}

func TestTraceFindsFaults(t *testing.T) {
	for _, layout := range layouts {
		for _, plant := range plants {
			if plant.layout != "" && plant.layout != layout {
				continue
			}
			t.Run(string(layout)+"/"+plant.name, func(t *testing.T) {
				l := newLab(t, layout)
				l.ensure()
				p := l.pod(1, "one")
				l.add(p)
				in(t, l.node, func(h *netlink.Handle) error { return plant.do(h, p) })
				v := l.view(p)
				path := datapath.Trace(v, datapath.Flow{Src: p.Addrs[0].Addr, Dst: outside4})
				if !path.Has(plant.want) {
					t.Errorf("faults = %v, want %s among them\n%s", path.Faults, plant.want, path)
				}
				faults, err := l.h.Confirm(t.Context(), path)
				if err != nil || len(faults) > 0 {
					t.Errorf("the kernel disagrees: %v, %v", faults, err)
				}
				again := datapath.Trace(throughJSON(t, v), path.Flow)
				if diff := cmp.Diff(path.String(), again.String()); diff != "" {
					t.Errorf("a saved View is explained otherwise:\n%s", diff)
				}
			})
		}
	}
}

func throughJSON(t *testing.T, v datapath.View) (saved datapath.View) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &saved); err != nil {
		t.Fatal(err)
	}
	return saved
}

func TestTraceOther(t *testing.T) {
	l := newLab(t, datapath.Flat)
	l.n.RefuseMetadata = true
	l.ensure()
	p := l.pod(1, "one")
	l.add(p)
	v := l.view(p)
	for _, c := range []struct {
		name string
		flow datapath.Flow
		snat bool
		want datapath.FaultName
	}{
		{"metadata", datapath.Flow{Src: p.Addrs[0].Addr, Dst: netip.MustParseAddr("169.254.169.254")}, true, datapath.FaultRefused},
		{"spoofed", datapath.Flow{Src: netip.MustParseAddr("10.0.0.99"), Dst: outside4, HostLink: p.HostLink()}, true, datapath.FaultSpoofed},
		{"translation lost", datapath.Flow{Src: p.Addrs[0].Addr, Dst: netip.MustParseAddr("192.0.2.1")}, false, datapath.FaultLostSNAT},
	} {
		v := v
		if !c.snat {
			v.Translation = nil
		}
		if path := datapath.Trace(v, c.flow); !path.Has(c.want) {
			t.Errorf("%s: want %s\n%s", c.name, c.want, path)
		}
	}
}
