// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"golang.org/x/sys/unix"
)

// forged is the number of made-up senders of each kind of packet in TestNeighborFlood.
const forged = 5000

// frame returns an Ethernet frame from the pod's MAC, or from one made from n if the
// sender is forged below the network layer too.
func frame(to, from net.HardwareAddr, proto uint16, payload []byte) []byte {
	b := append(append([]byte{}, to...), from...)
	return append(binary.BigEndian.AppendUint16(b, proto), payload...)
}

// arp returns an ARP packet.
func arp(op uint16, mac net.HardwareAddr, sender, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, mac...), sender.AsSlice()...)
	return append(append(b, make([]byte, 6)...), target.AsSlice()...)
}

// neighborDiscovery returns an IPv6 packet with a message of RFC 4861: its type, its body
// after the checksum, and the option for the MAC of the sender or of the target.
func neighborDiscovery(kind byte, src, dst netip.Addr, body []byte, mac net.HardwareAddr) []byte {
	option := byte(1)
	if kind == 136 {
		option = 2
	}
	m := append(append([]byte{kind, 0, 0, 0}, body...), option, 1)
	m = append(m, mac...)
	pseudo := append(append([]byte{}, src.AsSlice()...), dst.AsSlice()...)
	pseudo = append(pseudo, 0, 0, 0, byte(len(m)), 0, 0, 0, 58)
	sum := uint32(0)
	for _, b := range [][]byte{pseudo, m} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum))
	ip := []byte{0x60, 0, 0, 0, 0, byte(len(m)), 58, 255}
	return append(append(append(ip, src.AsSlice()...), dst.AsSlice()...), m...)
}

// floods are packets by which a kernel may learn the MAC of the sender n.
var floods = map[string]func(n int, gateway net.HardwareAddr, p datapath.Pod) []byte{
	"ARP request": func(n int, _ net.HardwareAddr, _ datapath.Pod) []byte {
		return frame(broadcast, forgedMAC(n), unix.ETH_P_ARP, arp(1, forgedMAC(n), forged4(n), host4))
	},
	"ARP request to the gateway's MAC": func(n int, gateway net.HardwareAddr, p datapath.Pod) []byte {
		return frame(gateway, p.SandboxMAC(), unix.ETH_P_ARP, arp(1, p.SandboxMAC(), forged4(n), host4))
	},
	"gratuitous ARP request": func(n int, _ net.HardwareAddr, _ datapath.Pod) []byte {
		return frame(broadcast, forgedMAC(n), unix.ETH_P_ARP, arp(1, forgedMAC(n), forged4(n), forged4(n)))
	},
	"gratuitous ARP reply": func(n int, _ net.HardwareAddr, _ datapath.Pod) []byte {
		return frame(broadcast, forgedMAC(n), unix.ETH_P_ARP, arp(2, forgedMAC(n), forged4(n), forged4(n)))
	},
	"ARP reply to the gateway's MAC": func(n int, gateway net.HardwareAddr, _ datapath.Pod) []byte {
		return frame(gateway, forgedMAC(n), unix.ETH_P_ARP, arp(2, forgedMAC(n), forged4(n), host4))
	},
	"neighbour solicitation": func(n int, gateway net.HardwareAddr, _ datapath.Pod) []byte {
		body := append(make([]byte, 4), host6.AsSlice()...)
		return frame(gateway, forgedMAC(n), unix.ETH_P_IPV6, neighborDiscovery(135, forged6(n), host6, body, forgedMAC(n)))
	},
	"neighbour solicitation from link-local": func(n int, gateway net.HardwareAddr, _ datapath.Pod) []byte {
		body := append(make([]byte, 4), host6.AsSlice()...)
		return frame(gateway, forgedMAC(n), unix.ETH_P_IPV6, neighborDiscovery(135, forgedLocal(n), host6, body, forgedMAC(n)))
	},
	"neighbour advertisement": func(n int, gateway net.HardwareAddr, _ datapath.Pod) []byte {
		body := append([]byte{0x20, 0, 0, 0}, forged6(n).AsSlice()...)
		return frame(multicast, forgedMAC(n), unix.ETH_P_IPV6, neighborDiscovery(136, forged6(n), allNodes, body, forgedMAC(n)))
	},
	"neighbour advertisement from the pod": func(n int, gateway net.HardwareAddr, p datapath.Pod) []byte {
		body := append([]byte{0x20, 0, 0, 0}, forged6(n).AsSlice()...)
		return frame(multicast, p.SandboxMAC(), unix.ETH_P_IPV6, neighborDiscovery(136, p.Addrs[1].Addr, allNodes, body, forgedMAC(n)))
	},
	"router solicitation": func(n int, _ net.HardwareAddr, _ datapath.Pod) []byte {
		return frame(multicast, forgedMAC(n), unix.ETH_P_IPV6, neighborDiscovery(133, forged6(n), allRouters, make([]byte, 4), forgedMAC(n)))
	},
	"router solicitation from link-local": func(n int, _ net.HardwareAddr, _ datapath.Pod) []byte {
		return frame(multicast, forgedMAC(n), unix.ETH_P_IPV6, neighborDiscovery(133, forgedLocal(n), allRouters, make([]byte, 4), forgedMAC(n)))
	},
}

var (
	broadcast  = mac("ff:ff:ff:ff:ff:ff")
	multicast  = mac("33:33:00:00:00:02") // of allRouters; the kernel does not compare it with the destination
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

func forgedMAC(n int) net.HardwareAddr {
	return net.HardwareAddr{2, 0xee, 0, 0, byte(n >> 8), byte(n)}
}

func forged4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(0x40 + n>>8), byte(n)}) }

func forged6(n int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:0:1:dead::%x", n+1))
}

func forgedLocal(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fe80::dead:%x", n+1)) }

// floodSettings are defaults of the kernel that let it learn from more packets. Files
// that a kernel lacks are left out.
var floodSettings = map[string]string{
	"net/ipv4/conf/all/arp_accept": "1", "net/ipv4/conf/default/arp_accept": "1",
	"net/ipv4/conf/default/arp_announce": "0", "net/ipv4/conf/default/arp_ignore": "0",
	"net/ipv4/conf/default/drop_gratuitous_arp": "0", "net/ipv4/conf/default/proxy_arp": "1",
	"net/ipv6/conf/default/accept_untracked_na": "2", "net/ipv6/conf/default/drop_unsolicited_na": "0",
	"net/ipv6/conf/default/proxy_ndp": "1",
}

// neighbours returns the number of neighbour entries of the node, in any state.
func (l *lab) neighbours() (n int) {
	in(l.t, l.node, func(h *netlink.Handle) error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			all, err := h.NeighList(0, family)
			if err != nil {
				return err
			}
			n += len(all)
		}
		return nil
	})
	return n
}

// flood sends a frame from each of the forged senders out by a link of the sandbox.
func flood(t *testing.T, path, link string, each func(n int) []byte) {
	t.Helper()
	on(t, path, func() error {
		out, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for n := range forged {
			if err := unix.Sendto(fd, each(n), 0, &unix.SockaddrLinklayer{Ifindex: out.Index}); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestNeighborFlood has a pod send the packets of floods. The node's neighbour table, which
// all namespaces share, must not grow by more than a few entries.
func TestNeighborFlood(t *testing.T) {
	const bound = 16
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			on(t, l.node, func() error {
				for file, value := range floodSettings {
					_ = sysctl(file, value)
				}
				return nil
			})
			for _, filter := range []string{"0", "1", "2"} {
				for _, mode := range []string{"veth", "bridge"} {
					if mode == "bridge" && filter == "1" { // the other two let more through
						continue
					}
					on(t, l.node, func() error { return sysctl("net/ipv4/conf/default/rp_filter", filter) })
					p := l.pod(1, "flood"+filter)
					gateway := p.HostMAC()
					if mode == "bridge" {
						p.Mode.Bridge = &datapath.Bridge{}
					}
					l.add(p)
					if mode == "bridge" {
						in(t, l.node, func(h *netlink.Handle) error {
							link, err := h.LinkByName(p.NodeLink())
							if err == nil {
								gateway = link.Attrs().HardwareAddr
							}
							return err
						})
					}
					for name, each := range floods {
						before := l.neighbours()
						flood(t, p.Netns, "eth0", func(n int) []byte { return each(n, gateway, p) })
						if after := l.neighbours(); after > before+bound {
							t.Errorf("rp_filter %s, %s, %s: %d neighbour entries after %d before, want at most %d more", filter, mode, name, after, before, bound)
						}
					}
					for _, a := range p.Addrs {
						l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
					}
					if err := l.h.DelPod(t.Context(), p); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}
