// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// world is a node with three pods, one on its primary ENI and two on its second, an instance
// of the VPC, and a host outside.
type world struct {
	*datapathtest.Lab
	t     testing.TB
	h     *policy.Handle
	a     *host // on the primary ENI
	b, c  *host // on the second ENI
	vpc   *host
	out   *host
	node  *host
	count uint32
}

// host is an end of flows.
type host struct {
	name    string
	ns      *fabric.Netns
	addrs   []netip.Addr // one of each family
	capture *fabric.Capture
	sockets map[socketKey]int
}

type socketKey struct {
	six      bool
	protocol policy.Protocol
}

func newWorld(t testing.TB, layout datapath.Layout) *world {
	t.Helper()
	l := datapathtest.NewLab(t, layout)
	l.EnsureNode()
	l.AddVPCHost()
	w := &world{Lab: l, t: t}
	first, second := l.Pod(0, "one"), l.Pod(1, "two")
	third := second
	third.ContainerID, third.Netns, third.Addrs = "three", datapathtest.NewNetns(t), []datapath.PodAddr{{Addr: addr("10.0.0.113"), Table: second.Addrs[0].Table}}
	if datapathtest.HasIPv6() {
		third.Addrs = append(third.Addrs, datapath.PodAddr{Addr: addr("2001:db8:0:1:b::5"), Table: second.Addrs[0].Table})
	}
	w.a, w.b, w.c = w.pod("a", first), w.pod("b", second), w.pod("c", third)
	w.vpc = w.host("vpc", l.VPC.Instance("vpc-host"), datapathtest.VPCHost4, datapathtest.VPCHost6)
	w.out = w.host("out", l.VPC.Peer(), datapathtest.Outside4, datapathtest.Outside6)
	w.node = w.host("node", l.Netns, datapathtest.Node4, datapathtest.Node6)
	w.h = handle(t, l.Netns)
	return w
}

// pod adds a pod with echo servers.
func (w *world) pod(name string, p datapath.Pod) *host {
	w.t.Helper()
	w.AddPod(p)
	ns, err := fabric.OpenNetns(p.Netns)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ns.Close() })
	var addrs []netip.Addr
	for _, a := range p.Addrs {
		addrs = append(addrs, a.Addr)
		datapathtest.Echo(w.t, p.Netns, a.Addr)
	}
	return w.host(name, ns, addrs...)
}

func (w *world) host(name string, ns *fabric.Netns, addrs ...netip.Addr) *host {
	w.t.Helper()
	h := &host{name: name, ns: ns, addrs: addrs, sockets: map[socketKey]int{}}
	if !datapathtest.HasIPv6() {
		h.addrs = addrs[:1]
	}
	w.t.Cleanup(func() {
		for _, s := range h.sockets {
			_ = unix.Close(s)
		}
	})
	return h
}

// record records what comes to the host from now on.
func (w *world) record(h *host) {
	w.t.Helper()
	var link string
	err := h.ns.Do(func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			if l.Flags&net.FlagLoopback == 0 && l.Flags&net.FlagUp != 0 {
				link = l.Name
			}
		}
		return err
	})
	if err == nil {
		h.capture, err = h.ns.Capture(link)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { h.capture.Close() })
}

// of returns the address of the host that has the family of a.
func (h *host) of(six bool) netip.Addr {
	for _, a := range h.addrs {
		if a.Is6() == six {
			return a
		}
	}
	return netip.Addr{}
}

func (w *world) apply(s policy.State) {
	w.t.Helper()
	if _, err := w.h.Apply(w.t.Context(), s); err != nil {
		w.t.Fatal(err)
	}
}

// state returns a state in which the pods have the classes with their names.
func (w *world) state(classes map[string]policy.Class) policy.State {
	w.t.Helper()
	s := policy.State{Classes: map[string]policy.Compiled{}, Pods: map[netip.Addr]string{}}
	for _, h := range []*host{w.a, w.b, w.c} {
		c, ok := classes[h.name]
		if !ok {
			continue
		}
		s.Classes[h.name] = compiled(w.t, c)
		for _, a := range h.addrs {
			s.Pods[a] = h.name
		}
	}
	return s
}

// sent is a packet that was sent.
type sent struct {
	policy.Flow
	from, to *host
	sport    uint16
	marker   []byte
}

// send sends the first packet of a flow.
func (w *world) send(from, to *host, f policy.Flow) sent {
	w.t.Helper()
	w.count++
	s := sent{Flow: f, from: from, to: to, sport: uint16(20000 + w.count%40000)}
	s.marker = binary.BigEndian.AppendUint32([]byte("vpcp"), w.count)
	w.raw(from, f.Src, f.Dst, f.Protocol, s.first())
	return s
}

// reply sends a packet in the opposite direction.
func (w *world) reply(s sent) sent {
	w.t.Helper()
	w.count++
	r := s
	r.from, r.to, r.Src, r.Dst = s.to, s.from, s.Dst, s.Src
	r.marker = binary.BigEndian.AppendUint32([]byte("vpcp"), w.count)
	w.raw(r.from, r.Src, r.Dst, r.Protocol, r.answer())
	return r
}

// raw sends the payload of an IP packet.
func (w *world) raw(from *host, src, dst netip.Addr, p policy.Protocol, payload []byte) {
	w.t.Helper()
	key := socketKey{dst.Is6(), p}
	s, ok := from.sockets[key]
	if !ok {
		family := unix.AF_INET
		var local unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte(src.AsSlice()[:4])}
		if src.Is6() {
			family, local = unix.AF_INET6, &unix.SockaddrInet6{Addr: src.As16()}
		}
		err := from.ns.Do(func() (err error) {
			if s, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(p)); err == nil {
				err = unix.Bind(s, local)
			}
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
		from.sockets[key] = s
	}
	setChecksum(src, dst, p, payload)
	var to unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte(dst.AsSlice()[:4])}
	if dst.Is6() {
		to = &unix.SockaddrInet6{Addr: dst.As16()}
	}
	if err := unix.Sendto(s, payload, 0, to); err != nil {
		w.t.Fatalf("send from %s to %v: %v", from.name, dst, err)
	}
}

// first returns the IP payload of the first packet of the flow.
func (s sent) first() []byte {
	switch s.Protocol {
	case policy.TCP:
		return append(tcpHeader(s.sport, s.Port, 0x02), s.marker...) // SYN
	case policy.UDP:
		return udp(s.sport, s.Port, s.marker)
	case policy.SCTP:
		return sctp(s.sport, s.Port, 1, 0, s.marker) // INIT
	case policy.ICMP:
		return append([]byte{8, 0, 0, 0, byte(s.sport >> 8), byte(s.sport), 0, 1}, s.marker...)
	case policy.ICMPv6:
		return append([]byte{128, 0, 0, 0, byte(s.sport >> 8), byte(s.sport), 0, 1}, s.marker...)
	}
	return s.marker
}

// answer returns the IP payload of a reply to it. The kernels answer TCP and ICMP themselves.
func (s sent) answer() []byte {
	switch s.Protocol {
	case policy.UDP:
		return udp(s.Port, s.sport, s.marker)
	case policy.SCTP:
		return sctp(s.Port, s.sport, 2, 7, s.marker) // INIT ACK
	}
	return s.marker
}

func tcpHeader(sport, dport uint16, flags byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	b[12], b[13], b[14] = 5<<4, flags, 0x10
	return b
}

func udp(sport, dport uint16, payload []byte) []byte {
	b := make([]byte, 8)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return append(b, payload...)
}

// sctp returns an SCTP packet with an INIT or INIT ACK chunk, RFC 9260 section 3.3.2, with
// the payload as an unknown parameter.
func sctp(sport, dport uint16, chunk byte, tag uint32, payload []byte) []byte {
	b := make([]byte, 12+20)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint32(b[4:], tag)
	b[12] = chunk
	binary.BigEndian.PutUint16(b[14:], uint16(20+4+len(payload)))
	binary.BigEndian.PutUint32(b[16:], 7) // initiate tag
	binary.BigEndian.PutUint32(b[20:], 65536)
	binary.BigEndian.PutUint16(b[24:], 1)
	binary.BigEndian.PutUint16(b[26:], 1)
	b = append(b, 0x80, 0x99, 0, byte(4+len(payload)))
	return append(b, payload...)
}

// setChecksum fills in the checksum of the protocol. The kernel does it for ICMPv6.
func setChecksum(src, dst netip.Addr, p policy.Protocol, b []byte) {
	at := map[policy.Protocol]int{policy.TCP: 16, policy.UDP: 6, policy.ICMP: 2}[p]
	switch p {
	case policy.SCTP:
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	case policy.TCP, policy.UDP:
		pseudo := append(src.AsSlice(), dst.AsSlice()...)
		pseudo = append(pseudo, 0, byte(p), byte(len(b)>>8), byte(len(b)))
		binary.BigEndian.PutUint16(b[at:], checksum(append(pseudo, b...)))
	case policy.ICMP:
		binary.BigEndian.PutUint16(b[at:], checksum(b))
	}
}

func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// arrived reports which of the packets have come to their destinations.
func (w *world) arrived(all []sent) map[string]bool {
	w.t.Helper()
	got := map[string]bool{}
	recorded := map[*host][]fabric.Packet{}
	for _, s := range all {
		packets, ok := recorded[s.to]
		if !ok {
			var err error
			if packets, err = s.to.capture.Packets(); err != nil {
				w.t.Fatal(err)
			}
			recorded[s.to] = packets
		}
		for _, p := range packets {
			f, ok := p.Flow()
			if ok && f.Src.Addr() == s.Src && f.Dst.Addr() == s.Dst && bytes.Contains(p.Data, s.marker) {
				got[string(s.marker)] = true
			}
		}
	}
	return got
}

// ask asks an echo server and returns the error.
func (w *world) ask(network string, from, to *host, six bool, within time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(w.t.Context(), within, fmt.Errorf("no answer within %v", within))
	defer cancel()
	_, err := from.ns.Ask(ctx, network, netip.AddrPortFrom(from.of(six), 0), netip.AddrPortFrom(to.of(six), fabric.EchoPort))
	return err
}

// passes and stops check a question to an echo server, over TCP and UDP and in both
// families.
func (w *world) passes(from, to *host) {
	w.t.Helper()
	w.each(func(network string, six bool) {
		w.t.Helper()
		if err := w.ask(network, from, to, six, patience); err != nil {
			w.t.Errorf("%s from %s to %s, IPv6 %t: %v", network, from.name, to.name, six, err)
		}
	})
}

func (w *world) stops(from, to *host) {
	w.t.Helper()
	w.each(func(network string, six bool) {
		w.t.Helper()
		if err := w.ask(network, from, to, six, datapathtest.AnswerTime); err == nil {
			w.t.Errorf("%s from %s to %s, IPv6 %t: answered, want it denied", network, from.name, to.name, six)
		}
	})
}

func (w *world) each(f func(network string, six bool)) {
	w.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		f(network, false)
		if datapathtest.HasIPv6() {
			f(network, true)
		}
	}
}
