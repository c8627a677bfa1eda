// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Packet is a frame recorded on a link.
type Packet struct {
	Time time.Time
	Link string
	// VLAN is the VLAN ID of the frame, 0 if the frame has no tag. Data does not
	// contain the tag.
	VLAN int
	// Data is the frame, beginning with its Ethernet header.
	Data []byte
}

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// Flow holds the source and the destination of a packet. The ports are 0 if the
// protocol has none.
type Flow struct {
	Protocol uint8 // IP protocol number
	Src, Dst netip.AddrPort
}

// Flow returns the flow of the packet. It returns false if the packet is not IP.
func (p Packet) Flow() (f Flow, ok bool) {
	f, _, ok = p.ip()
	return f, ok
}

// ip returns the flow of the packet and the payload after the IP header.
func (p Packet) ip() (f Flow, payload []byte, ok bool) {
	if len(p.Data) < 14 {
		return f, nil, false
	}
	var src, dst netip.Addr
	b := p.Data[14:]
	switch binary.BigEndian.Uint16(p.Data[12:]) {
	case etherIPv4:
		if len(b) < 20 || len(b) < int(b[0]&15)*4 {
			return f, nil, false
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		f.Protocol = b[9]
		length := min(len(b), max(int(binary.BigEndian.Uint16(b[2:])), int(b[0]&15)*4))
		payload = b[int(b[0]&15)*4 : length]
	case etherIPv6:
		if len(b) < 40 {
			return f, nil, false
		}
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		f.Protocol = b[6]
		payload = b[40:]
		if f.Protocol == 0 && len(payload) >= 8 && len(payload) >= 8+int(payload[1])*8 { // hop-by-hop options
			f.Protocol, payload = payload[0], payload[8+int(payload[1])*8:]
		}
	default:
		return f, nil, false
	}
	var sport, dport uint16
	if (f.Protocol == protoTCP || f.Protocol == protoUDP) && len(payload) >= 4 {
		sport, dport = binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])
	}
	f.Src, f.Dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return f, payload, true
}

// String describes the packet in one line, as tcpdump would:
//
//	IP 10.0.1.20.40000 > 203.0.113.10.7: UDP, length 5
func (p Packet) String() string {
	if f, payload, ok := p.ip(); ok {
		family := "IP"
		if f.Src.Addr().Is6() {
			family = "IP6"
		}
		return fmt.Sprintf("%s %s > %s: %s", family, dotted(f.Src), dotted(f.Dst), transport(f, payload))
	}
	if len(p.Data) >= 42 && binary.BigEndian.Uint16(p.Data[12:]) == etherARP {
		return arp(p.Data[14:])
	}
	return fmt.Sprintf("frame of %d bytes", len(p.Data))
}

func dotted(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return fmt.Sprintf("%s.%d", a.Addr(), a.Port())
}

func arp(b []byte) string {
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	if binary.BigEndian.Uint16(b[6:]) == 1 {
		return fmt.Sprintf("ARP, who-has %s tell %s", target, sender)
	}
	return fmt.Sprintf("ARP, %s is-at %s", sender, net.HardwareAddr(b[8:14]))
}

func transport(f Flow, b []byte) string {
	switch {
	case f.Protocol == protoUDP && len(b) >= 8:
		return fmt.Sprintf("UDP, length %d", len(b)-8)
	case f.Protocol == protoTCP && len(b) >= 20 && len(b) >= int(b[12]>>4)*4:
		return fmt.Sprintf("TCP, flags [%s], length %d", tcpFlags(b[13]), len(b)-int(b[12]>>4)*4)
	case f.Protocol == protoICMP || f.Protocol == protoICMPv6:
		return icmpMessage(f.Protocol, b)
	}
	return fmt.Sprintf("protocol %d, length %d", f.Protocol, len(b))
}

// tcpFlags formats the flags as tcpdump does, with a dot for ACK.
func tcpFlags(flags byte) string {
	var s strings.Builder
	for i, c := range []byte("FSRP.UEW") {
		if flags&(1<<i) != 0 {
			s.WriteByte(c)
		}
	}
	return s.String()
}

func icmpMessage(protocol uint8, b []byte) string {
	name := map[uint8]string{protoICMP: "ICMP", protoICMPv6: "ICMP6"}[protocol]
	m, err := icmp.ParseMessage(int(protocol), b)
	if err != nil {
		return fmt.Sprintf("%s, length %d", name, len(b))
	}
	switch m.Type {
	case ipv6.ICMPTypeNeighborSolicitation, ipv6.ICMPTypeNeighborAdvertisement:
		if len(b) < 24 {
			break
		}
		target := netip.AddrFrom16([16]byte(b[8:24]))
		if m.Type == ipv6.ICMPTypeNeighborSolicitation {
			return fmt.Sprintf("%s, neighbor solicitation, who has %s", name, target)
		}
		return fmt.Sprintf("%s, neighbor advertisement, tgt is %s", name, target)
	case ipv4.ICMPTypeEcho, ipv6.ICMPTypeEchoRequest:
		return fmt.Sprintf("%s, echo request, length %d", name, len(b))
	}
	return fmt.Sprintf("%s, %v, length %d", name, m.Type, len(b))
}
