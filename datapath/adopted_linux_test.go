// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/vpcnet/vpcnet/datapath"
)

const (
	foreignLink = "eni0f0e0d0c0b0"
	foreignMAC  = "06:00:00:00:00:51"
	foreignPeer = "06:00:00:00:00:52"
)

// wireForeign wires p as another program does: a veth pair with names and MACs of its own,
// and routes and rules with other protocols.
func wireForeign(l *lab, p datapath.Pod) {
	l.t.Helper()
	in(l.t, l.node, func(h *netlink.Handle) error {
		ns, err := netns.GetFromPath(p.Netns)
		if err != nil {
			return err
		}
		defer ns.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = foreignLink, mac(foreignMAC)
		err = h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: p.IfName, PeerHardwareAddr: mac(foreignPeer), PeerNamespace: netlink.NsFd(int(ns))})
		if err != nil {
			return err
		}
		link, err := h.LinkByName(foreignLink)
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
		for _, a := range p.Addrs {
			dst := netlink.NewIPNet(a.Addr.AsSlice())
			if err := h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}); err != nil {
				return err
			}
		}
		return nil
	})
	in(l.t, p.Netns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(p.IfName)
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
		for i, w := range p.Wiring().Addrs {
			gw := p.Wiring().Gateways[i].AsSlice()
			index := link.Attrs().Index
			addr := &netlink.Addr{IPNet: netlink.NewIPNet(w.Addr().AsSlice()), Flags: 0x02} // nodad
			everywhere := netlink.NewIPNet(netip.IPv4Unspecified().AsSlice())
			if w.Addr().Is6() {
				everywhere = netlink.NewIPNet(netip.IPv6Unspecified().AsSlice())
			}
			everywhere.Mask = make([]byte, len(everywhere.Mask))
			if err := errors.Join(
				h.AddrAdd(link, addr),
				h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: netlink.NewIPNet(gw), Scope: netlink.SCOPE_LINK}),
				h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: everywhere, Gw: gw}),
				h.NeighSet(&netlink.Neigh{LinkIndex: index, IP: gw, HardwareAddr: mac(foreignMAC), State: netlink.NUD_PERMANENT}),
			); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestAdoptPod adopts a pod that another program has wired. Its link keeps name and MAC, it
// is served like a pod of AddPod, DisownPod forgets it, and DelPod finds it by the key alone.
func TestAdoptPod(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			p := l.pod(1, "one")
			p.MAC = mac(foreignPeer)
			wireForeign(l, p)
			l.listen(l.node, host4)
			for _, a := range p.Addrs {
				l.listen(p.Netns, a.Addr)
			}
			if err := l.h.AdoptPod(t.Context(), p, "none"); !errors.Is(err, datapath.ErrNoLink) {
				t.Errorf("AdoptPod of no link: %v, want ErrNoLink", err)
			}
			for range 2 {
				if err := l.h.AdoptPod(t.Context(), p, foreignLink); err != nil {
					t.Fatal(err)
				}
			}
			other := l.pod(0, "two")
			if err := l.h.AdoptPod(t.Context(), other, foreignLink); !errors.Is(err, datapath.ErrInterfaceTaken) {
				t.Errorf("AdoptPod of another pod's link: %v, want ErrInterfaceTaken", err)
			}
			d := datapath.Desired{Node: *l.n, Pods: []datapath.Pod{p}}
			if err := l.h.Ensure(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			for _, a := range p.Addrs {
				if _, err := ask(l.node, netip.Addr{}, a.Addr); err != nil {
					t.Errorf("node to pod %s: %v", a.Addr, err)
				}
			}
			l.expect(p.Netns, p.Addrs[0].Addr, host4)
			s, err := l.h.Observe(t.Context())
			if err != nil || len(d.Drift(s)) > 0 {
				t.Errorf("drift %v, %v, want none", d.Drift(s), err)
			}
			got, err := p.Resolve(s.Links)
			if err != nil || got.HostLink() != foreignLink || got.HostMAC().String() != foreignMAC {
				t.Errorf("Resolve: link %s with MAC %s, %v, want %s with %s", got.HostLink(), got.HostMAC(), err, foreignLink, foreignMAC)
			}
			if links, err := l.h.HostLinks(t.Context()); err != nil || !links[p.HostLink()] || !links[foreignLink] {
				t.Errorf("HostLinks: %v, %v, want %s and %s", links, err, p.HostLink(), foreignLink)
			}
			in(t, l.node, func(h *netlink.Handle) error { return h.LinkSetDown(linkNamed(t, h, foreignLink)) })
			if s, err = l.h.Observe(t.Context()); err != nil || len(d.Drift(s)) == 0 {
				t.Errorf("no drift of a link that is down, %v", err)
			}
			if err := l.h.Ensure(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			if err := l.h.DisownPod(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			if s, _ = l.h.Observe(t.Context()); contains(s.String(), "adopted") {
				t.Errorf("DisownPod leaves\n%v", s)
			}
			if err := errors.Join(l.h.DisownPod(t.Context(), p), l.h.AdoptPod(t.Context(), p, foreignLink)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := l.h.RetirePod(t.Context(), datapath.Pod{ContainerID: p.ContainerID, IfName: p.IfName, Netns: p.Netns}); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.h.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, a := range p.Addrs {
				if s := l.state(); contains(s, "to "+a.Addr.String()) || contains(s, "from "+a.Addr.String()) || contains(s, foreignLink) {
					t.Errorf("after DEL there is still %s:\n%s", a.Addr, s)
				}
			}
			p.MAC = nil
			l.add(p) // the sandbox can be used again
		})
	}
}

func linkNamed(t testing.TB, h *netlink.Handle, name string) netlink.Link {
	t.Helper()
	link, err := h.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link
}
