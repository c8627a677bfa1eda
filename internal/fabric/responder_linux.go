// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// responder answers neighbour solicitations for addresses of the VPC on every
// link of the router. The kernel can answer only for addresses that are listed one
// by one, and a delegated prefix has 2^48 of them. For IPv4, proxy ARP suffices.
type responder struct {
	file    *os.File
	raw     syscall.RawConn
	answers func(a netip.Addr, index int) bool
	done    chan struct{}
}

func startResponder(router *Netns, answers func(netip.Addr, int) bool) (*responder, error) {
	var fd int
	err := router.Do(func() (err error) {
		fd, err = packetSocket(unix.ETH_P_IPV6, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("neighbour discovery: %w", err)
	}
	r := &responder{file: os.NewFile(uintptr(fd), "neighbour discovery"), answers: answers, done: make(chan struct{})}
	if r.raw, err = r.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, r.file.Close())
	}
	go r.run()
	return r, nil
}

func (r *responder) Close() error {
	err := r.file.Close()
	<-r.done
	return err
}

func (r *responder) run() {
	defer close(r.done)
	buf := make([]byte, maxFrame)
	// Read returns when the file is closed.
	_ = r.raw.Read(func(fd uintptr) bool {
		for {
			n, from, err := unix.Recvfrom(int(fd), buf, 0)
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
				continue
			}
			if err != nil {
				return false
			}
			link, ok := from.(*unix.SockaddrLinklayer)
			if !ok || link.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			target, ok := solicited(buf[:n])
			if !ok || !r.answers(target, link.Ifindex) {
				continue
			}
			// If the answer is not sent, the sender repeats its solicitation.
			_ = unix.Sendto(int(fd), advertisement(buf[:n], target), 0, &unix.SockaddrLinklayer{
				Protocol: hostToNet(unix.ETH_P_IPV6), Ifindex: link.Ifindex, Halen: 6,
			})
		}
	})
}

// solicited returns the target of a neighbour solicitation. It returns false for
// other frames and for the detection of duplicate addresses.
func solicited(frame []byte) (netip.Addr, bool) {
	const ethernet, header, length = 14, 40, 24
	if len(frame) < ethernet+header+length {
		return netip.Addr{}, false
	}
	ip, message := frame[ethernet:], frame[ethernet+header:]
	unspecified := netip.AddrFrom16([16]byte(ip[8:24])).IsUnspecified() // detection of duplicate addresses
	if ip[6] != protoICMPv6 || ip[7] != 255 || message[0] != byte(ipv6.ICMPTypeNeighborSolicitation) || unspecified {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(message[8:24])), true
}

// advertisement returns the answer to the solicitation in frame: the target has the
// MAC of the router's link. That MAC derives from the MAC of the sender, so that it
// needs no lookup.
func advertisement(frame []byte, target netip.Addr) []byte {
	sender := net.HardwareAddr(frame[6:12])
	source, destination := target.AsSlice(), frame[22:38]
	mac := routerMAC(sender)
	const routerSolicitedOverride = 0xe0
	body := append([]byte{routerSolicitedOverride, 0, 0, 0}, source...)
	body = append(body, 2, 1) // option: target link-layer address, one unit of 8 bytes
	body = append(body, mac...)
	message := &icmp.Message{Type: ipv6.ICMPTypeNeighborAdvertisement, Body: &icmp.RawBody{Data: body}}
	// Marshal returns no error for a RawBody.
	payload, _ := message.Marshal(icmp.IPv6PseudoHeader(source, destination))
	out := append(append([]byte{}, sender...), mac...)
	out = binary.BigEndian.AppendUint16(out, etherIPv6)
	out = append(out, 0x60, 0, 0, 0)
	out = binary.BigEndian.AppendUint16(out, uint16(len(payload)))
	out = append(out, protoICMPv6, 255)
	out = append(append(out, source...), destination...)
	return append(out, payload...)
}

// routerMAC returns the MAC of the router's end of the link of an ENI with the
// MAC m.
func routerMAC(m net.HardwareAddr) net.HardwareAddr {
	r := net.HardwareAddr{0x0e, 0, 0, 0, 0, 0}
	copy(r[1:], m[1:])
	r[1] ^= 0xff
	return r
}
