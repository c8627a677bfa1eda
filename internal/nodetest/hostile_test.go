// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// TestHostileIPv6 runs a pod with all capabilities in its sandbox against its node and the
// other pods. It cannot send with the address of another pod or of the node, or with one that
// has no owner. It cannot take the address of another pod by neighbour discovery, and its
// router advertisements and redirects change no route.
func TestHostileIPv6(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"IPv6", "dual-stack"} {
		for _, layout := range layouts {
			t.Run(name+"/"+layout, func(t *testing.T) {
				vpc := vpctest.New(t)
				env := maps.Clone(families[name].env)
				env["WARM_ENI_TARGET"], env["WARM_IP_TARGET"] = "0", "1"
				env["VPCNET_LAYOUT"] = layout
				node, other := Start(t, vpc.Node(t, "t3.small"), Config{Env: env}), Start(t, vpc.Node(t, "t3.small"), Config{Env: env})
				attacker := node.AddPod(t)
				var victims []*Pod
				for range 3 { // in dual stack, one of them is on the second ENI
					victims = append(victims, node.AddPod(t))
				}
				victim, target := victims[2], other.AddPod(t)
				own, theirs := v6(attacker), v6(victim)
				node.Eventually(t, func() error { // the routes of a new ENI are not the pod's work
					if s := node.Status(t); len(s.InFlight) > 0 {
						return fmt.Errorf("under way: %v", s.InFlight)
					}
					return nil
				})
				before := routesOf(t, node, victims)

				link := linkOf(t, attacker)
				if received(t, attacker, own, target) == "" {
					t.Fatal("a packet with the pod's own address does not arrive")
				}
				unowned := netip.MustParseAddr("2001:db8::66")
				for _, source := range []netip.Addr{theirs, node.Addr6, unowned, v6(target)} {
					attacker.Run(t, "ip", "-6", "addr", "add", source.String()+"/128", "dev", "eth0", "nodad", "noprefixroute")
					for _, to := range []*Pod{target, victims[0]} {
						if got := received(t, attacker, source, to); got != "" {
							t.Errorf("%v got a packet with the source %v from the pod %v", v6(to), got, own)
						}
					}
					attacker.Run(t, "ip", "-6", "addr", "del", source.String()+"/128", "dev", "eth0")
				}
				for _, frame := range forgeries(attacker, link, theirs, node.Addr6) {
					sendFrame(t, attacker, link, frame)
				}
				time.Sleep(100 * time.Millisecond)
				if after := routesOf(t, node, victims); after != before {
					t.Errorf("routes and neighbours before:\n%safter:\n%s", before, after)
				}
				at := netip.AddrPortFrom(theirs, vpctest.EchoPort)
				if got := target.Ask(t, "udp", at).Addr(); got != v6(target) {
					t.Errorf("the other pod sees %v, want %v", got, v6(target))
				}
				if got := attacker.Ask(t, "udp", at).Addr(); got != own {
					t.Errorf("the victim sees %v from the pod, want %v", got, own)
				}
				victim.Ping(t, vpctest.InternetAddr6)
				wantNoDrops(t, vpc)
			})
		}
	}
}

// v6 returns the IPv6 address of a pod.
func v6(p *Pod) netip.Addr { return p.Addrs[len(p.Addrs)-1] }

// received returns the source of a packet that a pod gets from another one, which sends with
// a forged source. It is empty if none arrives.
func received(t *testing.T, from *Pod, source netip.Addr, to *Pod) string {
	t.Helper()
	in := to.ListenPacket(t, netip.AddrPortFrom(v6(to), 0))
	defer in.Close()
	port := in.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	from.Do(t, func() error {
		out, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0)))
		if err != nil {
			return err
		}
		defer out.Close()
		for range 3 {
			if _, err := out.WriteToUDPAddrPort([]byte("forged"), netip.AddrPortFrom(v6(to), port)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := in.SetReadDeadline(time.Now().Add(150 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, seen, err := in.ReadFrom(make([]byte, 64))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ""
	case err != nil:
		t.Fatal(err)
	}
	return seen.String()
}

// linkOf returns the interface of a pod.
func linkOf(t *testing.T, p *Pod) (link *net.Interface) {
	t.Helper()
	p.Do(t, func() (err error) {
		link, err = net.InterfaceByName("eth0")
		return err
	})
	return link
}

// routesOf returns the IPv6 routes of the node and the pods, and the neighbours of the node.
func routesOf(t *testing.T, n *Node, pods []*Pod) string {
	t.Helper()
	all := n.Node.Run(t, "ip", "-6", "route", "show", "table", "all") + n.Node.Run(t, "ip", "-6", "neigh", "show", "nud", "permanent")
	for _, p := range pods {
		all += p.Run(t, "ip", "-6", "route")
	}
	lines := slices.Sorted(strings.Lines(all))
	return strings.Join(lines, "")
}

// forgeries are frames of neighbour discovery with which a pod claims the addresses of the
// victim and of the node, and to be a router.
func forgeries(p *Pod, link *net.Interface, victim, node netip.Addr) (frames [][]byte) {
	mac := link.HardwareAddr
	allNodes, gateway := netip.MustParseAddr("ff02::1"), netip.MustParseAddr("fe80::1")
	to := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	option := func(kind byte) []byte { return append([]byte{kind, 1}, mac...) }
	for _, claimed := range []netip.Addr{victim, node, gateway} {
		target := claimed.AsSlice()
		for _, src := range []netip.Addr{claimed, v6(p), gateway} {
			frames = append(frames,
				icmp6(mac, to, src, allNodes, 136, slices.Concat([]byte{0xa0, 0, 0, 0}, target, option(2))), // advertisement, override
				icmp6(mac, to, src, node, 135, slices.Concat([]byte{0, 0, 0, 0}, node.AsSlice(), option(1))),
				icmp6(mac, to, src, allNodes, 137, slices.Concat([]byte{0, 0, 0, 0}, v6(p).AsSlice(), target, option(2)))) // redirect
		}
	}
	prefix := netip.MustParseAddr("2001:db8:66::").AsSlice()
	router := slices.Concat([]byte{64, 0x80, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, option(1), []byte{3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0}, prefix)
	for _, src := range []netip.Addr{gateway, netip.MustParseAddr("fe80::66"), v6(p)} {
		frames = append(frames, icmp6(mac, to, src, allNodes, 134, router))
	}
	return frames
}

// icmp6 returns an Ethernet frame with an ICMPv6 message with hop limit 255.
func icmp6(from, to net.HardwareAddr, src, dst netip.Addr, kind byte, body []byte) []byte {
	message := append([]byte{kind, 0, 0, 0}, body...)
	pseudo := slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, 0, 0, byte(len(message)), 0, 0, 0, 58}, message)
	sum := uint32(0)
	for i := 0; i < len(pseudo); i += 2 {
		sum += uint32(pseudo[i])<<8 | uint32(pseudo[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	message[2], message[3] = byte(^sum>>8), byte(^sum)
	header := slices.Concat([]byte{0x60, 0, 0, 0, byte(len(message) >> 8), byte(len(message)), 58, 255}, src.AsSlice(), dst.AsSlice())
	return slices.Concat(to, from, []byte{0x86, 0xdd}, header, message)
}

// sendFrame sends a frame by a pod's link.
func sendFrame(t *testing.T, p *Pod, link *net.Interface, frame []byte) {
	t.Helper()
	p.Do(t, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
			return fmt.Errorf("send a frame: %w", err)
		}
		return nil
	})
}
