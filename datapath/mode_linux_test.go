// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"github.com/vpcnet/vpcnet/datapath"
)

// wholeENI gives the lab's second ENI to a pod.
func wholeENI(t *testing.T) (*lab, datapath.Pod) {
	l := newLab(t, datapath.Flat)
	eni := l.n.ENIs[1]
	p := l.pod(1, "one")
	p.MTU = 0 // the ENI would still have it afterwards
	p.Mode.Whole = &datapath.WholeENI{ENI: eni}
	p.Mode.Whole.ENI.Link = "" // found by MAC
	l.n.ENIs = l.n.ENIs[:1]
	l.ensure()
	return l, p
}

func TestWholeENI(t *testing.T) {
	l, p := wholeENI(t)
	before := l.state()
	for range 2 {
		w := l.add(p)
		if w.HostLink != "" || w.SandboxMAC.String() != p.Mode.Whole.ENI.MAC.String() {
			t.Errorf("AddPod = %+v, want no host link and the ENI's MAC", w)
		}
		if err := l.h.CheckPod(t.Context(), p); err != nil {
			t.Errorf("CheckPod: %v", err)
		}
	}
	for _, a := range p.Addrs {
		l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
	}
	if contains(l.state(), "ens6") {
		t.Errorf("the node still has the ENI:\n%s", l.state())
	}
	for range 2 {
		if err := l.h.DelPod(t.Context(), datapath.Pod{ContainerID: p.ContainerID, IfName: p.IfName, Netns: p.Netns}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Errorf("the ENI did not come back (-before +after):\n%s", diff)
		}
	}
	l.add(p)
	l.expect(p.Netns, p.Addrs[0].Addr, outside4)
}

// TestWholeENIReturned moves the link to the node under another name, as the kernel does
// with hardware when a sandbox ends, before DEL.
func TestWholeENIReturned(t *testing.T) {
	l, p := wholeENI(t)
	before := l.state()
	l.add(p)
	in(t, p.Netns, func(h *netlink.Handle) error {
		link, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		node, err := netns.GetFromPath(l.node)
		if err != nil {
			return err
		}
		defer node.Close()
		return errors.Join(h.LinkSetDown(link), h.LinkSetName(link, "dev7"), h.LinkSetNsFd(link, int(node)))
	})
	removeNetns(t, p.Netns)
	for range 2 {
		if err := l.h.DelPod(t.Context(), datapath.Pod{ContainerID: p.ContainerID, IfName: p.IfName, Netns: p.Netns}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// TestWholeENITaken wants ADD to fail before it moves a link.
func TestWholeENITaken(t *testing.T) {
	l, p := wholeENI(t)
	other := l.pod(0, "other")
	other.Netns = p.Netns
	l.add(other)
	before := l.state()
	if _, err := l.h.AddPod(t.Context(), p); !errors.Is(err, datapath.ErrInterfaceTaken) {
		t.Errorf("AddPod = %v, want ErrInterfaceTaken", err)
	}
	p.IfName, p.Mode.Whole.ENI.MAC = "eth1", mac("06:00:00:00:00:99")
	if _, err := l.h.AddPod(t.Context(), p); !errors.Is(err, datapath.ErrNoLink) {
		t.Errorf("AddPod = %v, want ErrNoLink", err)
	}
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	l.expect(p.Netns, other.Addrs[0].Addr, outside4)
}

func TestBridge(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			p, other, plain := l.pod(1, "one"), l.pod(0, "two"), l.pod(1, "three")
			p.Mode.Bridge, other.Mode.Bridge = &datapath.Bridge{}, &datapath.Bridge{}
			plain.Addrs = []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.0.112"), Table: p.Addrs[0].Table}}
			l.add(plain)
			l.add(other)
			before := l.state()
			for range 2 {
				l.add(p)
				if err := l.h.CheckPod(t.Context(), p); err != nil {
					t.Errorf("CheckPod: %v", err)
				}
			}
			for i, a := range p.Addrs {
				l.listen(p.Netns, a.Addr)
				l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
				l.expect(other.Netns, other.Addrs[i].Addr, outsideOf(a.Addr))
				l.expect(other.Netns, other.Addrs[i].Addr, a.Addr)
				if _, err := ask(l.node, netip.Addr{}, a.Addr); err != nil {
					t.Errorf("node to pod %s: %v", a.Addr, err)
				}
			}
			l.expect(plain.Netns, plain.Addrs[0].Addr, p.Addrs[0].Addr)
			l.noDrift(other, p, plain)
			for range 2 {
				if err := l.h.DelPod(t.Context(), datapath.Pod{ContainerID: p.ContainerID, IfName: p.IfName}); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(before, l.state()); diff != "" {
				t.Errorf("DEL left something (-before +after):\n%s", diff)
			}
			l.expect(other.Netns, other.Addrs[0].Addr, outside4)
		})
	}
}

// noDrift wants the node to be what is desired.
func (l *lab) noDrift(pods ...datapath.Pod) {
	l.t.Helper()
	s, err := l.h.Observe(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	want := *l.n
	if changes := (datapath.Desired{Node: want, Pods: pods}).Drift(s); len(changes) > 0 {
		l.t.Errorf("drift: %v", changes)
	}
}

// TestSeveralInterfaces gives a pod an interface on each of two network cards.
func TestSeveralInterfaces(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.n.ENIs[1].Card = 1
			l.ensure()
			first, second := l.pod(0, "one"), l.pod(1, "one")
			second.Netns, second.IfName, second.Index = first.Netns, "eth1", 1
			l.add(first)
			alone := observe(t, first.Netns)
			l.add(second)
			for _, p := range []datapath.Pod{first, second} {
				if err := l.h.CheckPod(t.Context(), p); err != nil {
					t.Errorf("CheckPod %s: %v", p.IfName, err)
				}
				for _, a := range p.Addrs {
					l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
				}
			}
			for range 2 {
				if err := l.h.DelPod(t.Context(), second); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(alone, observe(t, first.Netns)); diff != "" {
				t.Errorf("DEL of eth1 left something in the sandbox:\n%s", diff)
			}
			l.expect(first.Netns, first.Addrs[0].Addr, outside4)
		})
	}
}

// observe returns the text of everything in a namespace.
func observe(t *testing.T, path string) string {
	t.Helper()
	h, err := datapath.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	s, err := h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}
