// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"golang.org/x/sys/unix"
)

// freshPort is the port at which fresh pods, and those that send to them, receive.
const freshPort = 7777

// socket opens a UDP socket on freshPort in the namespace at path, for packets to any of
// its addresses, also those that it gets later.
func socket(t *testing.T, path string) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	on(t, path, func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{Port: freshPort})
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// got returns the packets, sorted, that c receives until it has n of them or none comes
// for two seconds.
func got(c *net.UDPConn, n int) (packets []string) {
	buf := make([]byte, 64)
	for len(packets) < n {
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		size, err := c.Read(buf)
		if err != nil {
			break
		}
		packets = append(packets, string(buf[:size]))
	}
	slices.Sort(packets)
	return packets
}

// first has the sockets that exchange the first packets with fresh pods.
type first struct {
	*lab
	host  *net.UDPConn
	addrs []netip.Addr // of the host
	// others are sockets of another pod and of the VPC's outside host.
	others []*net.UDPConn
}

// exchange adds p and at once sends it a packet from the node and from each of the
// others, and one from it to the node, by each family. None may be lost.
func (f first) exchange(p datapath.Pod) {
	f.t.Helper()
	t := f.t.(*testing.T)
	c := socket(t, p.Netns)
	defer c.Close()
	var toPod, toHost []string
	send := func(s *net.UDPConn, to netip.Addr, text string) {
		if _, err := s.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(to, freshPort)); err != nil {
			t.Errorf("%s: send %s to %s: %v", p.ContainerID, text, to, err)
		}
	}
	f.add(p)
	for _, a := range p.Addrs {
		for i, s := range append([]*net.UDPConn{f.host}, f.others...) {
			text := fmt.Sprintf("%d to %s", i, a.Addr)
			toPod = append(toPod, text)
			send(s, a.Addr, text)
		}
		text := fmt.Sprintf("%s from %s", p.ContainerID, a.Addr)
		toHost = append(toHost, text)
		send(c, f.addrs[btoi(a.Addr.Is6())], text)
	}
	slices.Sort(toPod)
	slices.Sort(toHost)
	if diff := cmp.Diff(toPod, got(c, len(toPod))); diff != "" {
		t.Errorf("packets to the fresh pod %s (-sent +received):\n%s", p.ContainerID, diff)
	}
	if diff := cmp.Diff(toHost, got(f.host, len(toHost))); diff != "" {
		t.Errorf("packets from the fresh pod %s (-sent +received):\n%s", p.ContainerID, diff)
	}
}

// newFirst prepares a node for exchange: every neighbour on the way is known, so that only
// the fresh pod can lose a packet.
func newFirst(t *testing.T, l *lab) first {
	t.Helper()
	other := l.pod(0, "other")
	l.add(other)
	f := first{lab: l, host: socket(t, l.node), addrs: []netip.Addr{host4, host6}, others: []*net.UDPConn{socket(t, other.Netns)}}
	for i, a := range other.Addrs {
		l.waitAnswer(other.Netns, a.Addr, outsideOf(a.Addr))
		l.listen(l.node, f.addrs[i])
		l.waitAnswer(other.Netns, a.Addr, f.addrs[i])
	}
	return f
}

// TestFirstPacket adds 200 pods, with IPv6 and with both families, while another pod comes
// and goes. Half of the pods have the IPv6 address of one that has just ended, and every
// tenth is on a bridge. Each gets packets as soon as its ADD has returned.
func TestFirstPacket(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			f := newFirst(t, l)
			stop := l.churn()
			defer stop()
			v4 := [][]datapath.PodAddr{nil, {{Addr: netip.MustParseAddr("10.0.0.101"), Table: 2}}, {{Addr: netip.MustParseAddr("10.0.0.112"), Table: 2}}}
			again, next := netip.MustParseAddr("2001:db8:0:1:b::1"), netip.MustParseAddr("2001:db8:0:1:b::1:1")
			for n := range 200 {
				p := l.pod(1, fmt.Sprintf("fresh%d", n))
				p.Addrs = append(slices.Clone(v4[n%3]), datapath.PodAddr{Addr: again, Table: 2})
				if n%2 == 0 {
					p.Addrs[len(p.Addrs)-1].Addr, next = next, next.Next()
				}
				if n%10 == 9 {
					p.Mode.Bridge = &datapath.Bridge{}
				}
				f.exchange(p)
				if err := l.h.RetirePod(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				removeNetns(t, p.Netns)
			}
		})
	}
}

// churn adds and deletes another pod all the time, until stop is called: the kernel
// holds the lock of route netlink while it deletes links.
func (l *lab) churn() (stop func()) {
	end, done := make(chan struct{}), make(chan error, 1)
	p := l.pod(1, "churn")
	p.Addrs = []datapath.PodAddr{{Addr: netip.MustParseAddr("2001:db8:0:1:b::ff:1"), Table: 2}, {Addr: netip.MustParseAddr("10.0.0.130"), Table: 2}}
	go func() {
		for {
			select {
			case <-end:
				done <- nil
				return
			default:
			}
			if _, err := l.h.AddPod(l.t.Context(), p); err != nil {
				done <- err
				return
			}
			if err := l.h.DelPod(l.t.Context(), p); err != nil {
				done <- err
				return
			}
		}
	}()
	return func() {
		close(end)
		if err := <-done; err != nil {
			l.t.Errorf("other pod: %v", err)
		}
	}
}

// TestFirstPacketENI is TestFirstPacket for pods with a whole ENI, which get their first
// packet from the VPC. In the VPC of the tests the other end of an ENI loses its carrier
// while the ENI moves, so the test waits for that.
func TestFirstPacketENI(t *testing.T) {
	for n := range 5 {
		l, p := wholeENI(t)
		p.ContainerID = fmt.Sprintf("whole%d", n)
		c, out := socket(t, p.Netns), socket(t, l.outside)
		l.add(p)
		in(t, l.router, func(h *netlink.Handle) error {
			for {
				link, err := h.LinkByName(l.RouterLink(p.Mode.Whole.ENI.ID))
				if err != nil || link.Attrs().RawFlags&unix.IFF_RUNNING != 0 {
					return err
				}
			}
		})
		var want []string
		for _, a := range p.Addrs {
			want = append(want, a.Addr.String())
			if _, err := out.WriteToUDPAddrPort([]byte(a.Addr.String()), netip.AddrPortFrom(a.Addr, freshPort)); err != nil {
				t.Error(err)
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, got(c, len(want))); diff != "" {
			t.Errorf("packets to the fresh pod (-sent +received):\n%s", diff)
		}
		c.Close()
		out.Close()
	}
}
