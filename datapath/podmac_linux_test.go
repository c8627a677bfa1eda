// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
)

// TestPodMAC wires a pod with a MAC of its own. Its packets pass, a second AddPod and a
// look of Watch change nothing, an AddPod with another MAC is refused, and DelPod does not
// need the MAC.
func TestPodMAC(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			p := l.pod(1, "one")
			p.MAC = mac("00:16:3e:00:00:07")
			l.add(p)
			l.listen(l.node, host4)
			for i, a := range p.Addrs {
				l.listen(p.Netns, a.Addr)
				if _, err := ask(l.node, netip.Addr{}, a.Addr); err != nil {
					t.Errorf("node to pod %s: %v", a.Addr, err)
				}
				if i == 0 {
					l.expect(p.Netns, a.Addr, host4)
				}
			}
			in(t, p.Netns, func(h *netlink.Handle) error {
				link, err := h.LinkByName(p.IfName)
				if err == nil && link.Attrs().HardwareAddr.String() != p.MAC.String() {
					t.Errorf("the interface has MAC %s, want %s", link.Attrs().HardwareAddr, p.MAC)
				}
				return err
			})
			if w, err := l.h.AddPod(t.Context(), p); err != nil || w.SandboxMAC.String() != p.MAC.String() {
				t.Errorf("second AddPod: %v, %v, want MAC %s", w, err, p.MAC)
			}
			if err := l.h.CheckPod(t.Context(), p); err != nil {
				t.Errorf("CheckPod: %v", err)
			}
			d := datapath.Desired{Node: *l.n, Pods: []datapath.Pod{p}}
			if s, err := l.h.Observe(t.Context()); err != nil || len(d.Drift(s)) > 0 {
				t.Errorf("drift %v, %v, want none", d.Drift(s), err)
			}
			for _, other := range []string{"", "00:16:3e:00:00:08"} {
				q := p
				q.MAC = nil
				if other != "" {
					q.MAC = mac(other)
				}
				if _, err := l.h.AddPod(t.Context(), q); !errors.Is(err, datapath.ErrInterfaceTaken) {
					t.Errorf("AddPod with MAC %q: %v, want ErrInterfaceTaken", other, err)
				}
			}
			if err := l.h.CheckPod(t.Context(), p); err != nil {
				t.Errorf("CheckPod after the refusals: %v", err)
			}
			p.MAC = nil
			if err := l.h.DelPod(t.Context(), p); err != nil {
				t.Errorf("DelPod without the MAC: %v", err)
			}
			p.MAC = mac("00:16:3e:00:00:08")
			l.add(p)
		})
	}
}
