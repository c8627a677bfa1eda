// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// trailer is the length of the number at the end of each frame of these tests.
const trailer = 4

// numberMark tells the numbers of these tests apart from the ends of other frames.
const numberMark = 0xe11a0000

// transportBytes encodes the transport header of a packet. Checksums are zero: the
// router does not check them.
func transportBytes(p vpcrules.Packet) []byte {
	var b []byte
	switch p.Protocol {
	case vpcrules.TCP:
		b = make([]byte, 20)
		b[12], b[13] = 5<<4, 0x10
		if p.Opens {
			b[13] = 0x02
		}
	case vpcrules.UDP, vpcrules.ICMP, vpcrules.ICMPv6:
		b = make([]byte, 8)
	default:
		b = make([]byte, 4)
	}
	switch p.Protocol {
	case vpcrules.TCP, vpcrules.UDP:
		binary.BigEndian.PutUint16(b, p.SrcPort)
		binary.BigEndian.PutUint16(b[2:], p.DstPort)
	case vpcrules.ICMP, vpcrules.ICMPv6:
		b[0], b[1] = p.Type, p.Code
		binary.BigEndian.PutUint16(b[4:], p.ID)
		if p.Quoted != nil {
			b = append(b, packetBytes(*p.Quoted, nil)...)
		}
	}
	return b
}

// packetBytes encodes an IP packet.
func packetBytes(p vpcrules.Packet, after []byte) []byte {
	payload := append(transportBytes(p), after...)
	if p.Fragment {
		payload = append(make([]byte, 16), after...)
	}
	if p.Src.Is4() {
		h := make([]byte, 20, 20+len(payload))
		h[0], h[8], h[9] = 0x45, 64, byte(p.Protocol)
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
		if p.Fragment {
			h[7] = 10
		}
		copy(h[12:], p.Src.AsSlice())
		copy(h[16:], p.Dst.AsSlice())
		sum := uint32(0)
		for i := 0; i < 20; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(h[i:]))
		}
		for sum>>16 > 0 {
			sum = sum&0xffff + sum>>16
		}
		binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
		return append(h, payload...)
	}
	next := byte(p.Protocol)
	if p.Fragment {
		payload = append([]byte{next, 0, 0, 80, 0, 0, 0, 1}, payload...)
		next = unix.IPPROTO_FRAGMENT
	}
	h := make([]byte, 40, 40+len(payload))
	h[0], h[6], h[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], p.Src.AsSlice())
	copy(h[24:], p.Dst.AsSlice())
	return append(h, payload...)
}

// wire sends frames on a link of a namespace.
type wire struct {
	fd  int
	mac net.HardwareAddr // of the router's end
}

// newWire opens a socket on a link. peer is the router's end of the link.
func newWire(t *testing.T, f *fabric.Fabric, n *fabric.Netns, link, peer string) *wire {
	t.Helper()
	w := &wire{}
	run(t, f.Router(), func() error {
		l, err := netlink.LinkByName(peer)
		if err == nil {
			w.mac = l.Attrs().HardwareAddr
		}
		return err
	})
	run(t, n, func() (err error) {
		l, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(w.fd) })
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Ifindex: l.Index})
	})
	return w
}

// send sends a packet with a number at its end.
func (w *wire) send(t *testing.T, p vpcrules.Packet, number uint32) {
	t.Helper()
	frame := append(append([]byte{}, w.mac...), 2, 0, 0, 0, 0, 99)
	kind := uint16(unix.ETH_P_IP)
	if p.Src.Is6() {
		kind = unix.ETH_P_IPV6
	}
	frame = binary.BigEndian.AppendUint16(frame, kind)
	frame = append(frame, packetBytes(p, binary.BigEndian.AppendUint32(nil, numberMark|number))...)
	if _, err := unix.Write(w.fd, frame); err != nil {
		t.Fatal(err)
	}
}

// numbers counts the recorded frames by the number at their end.
func numbers(t *testing.T, c *fabric.Capture) map[uint32]int {
	t.Helper()
	packets, err := c.Packets()
	if err != nil {
		t.Fatal(err)
	}
	all := map[uint32]int{}
	for _, p := range packets {
		if n := binary.BigEndian.Uint32(p.Data[len(p.Data)-trailer:]); n&0xffff0000 == numberMark {
			all[n&^numberMark]++
		}
	}
	return all
}

// onOneCPU calls fn on a thread that runs on one processor. The kernel then forwards the
// frames that fn sends in their order.
func onOneCPU(t *testing.T, fn func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	var one unix.CPUSet
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Error(err)
		}
	}()
	fn()
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// removeAddrs removes the addresses of a link, except for those that the kernel gave to
// it. The link then answers nothing.
func removeAddrs(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Scope != unix.RT_SCOPE_LINK {
			if err := netlink.AddrDel(link, &a); err != nil {
				return err
			}
		}
	}
	return nil
}
