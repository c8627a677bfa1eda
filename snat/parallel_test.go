// SPDX-License-Identifier: Apache-2.0

//go:build linux

package snat_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

// parallel is the number of connections that are open at once. Their source ports begin with
// firstPort, and their destination is toPort.
const (
	parallel  = 30000
	firstPort = 20000
	toPort    = 8443
)

// TestParallelConnections opens 30,000 connections to one destination, which stay open, half of
// them from each of two pods with the same source ports. Each has a port of the node of its
// own, in the range of the configuration, and with all ports connection tracking refuses none.
//
// Two processors may choose the same port at the same time. The kernel then refuses one of the
// connections, and so it does if some 200 ports that it tries are all in use, as it may happen
// when three quarters of a range are. The next packet of the connection, which TCP sends, gets
// another port. Fewer than one in a thousand may need it.
func TestParallelConnections(t *testing.T) {
	for name, test := range map[string]struct {
		ports   snat.Ports
		atOnce  bool
		refused uint64
	}{
		"in turn, all ports": {},
		"at once, range":     {ports: snat.Ports{First: 20000, Last: 59999}, atOnce: true, refused: parallel / 1000},
	} {
		c := base(func(c *snat.Config) { c.Ports = test.ports })
		t.Run("nftables/"+name, func(t *testing.T) {
			w := newWorld(t)
			apply(t, w.snat, c, true)
			w.openParallel(t, test.ports, test.atOnce, test.refused)
		})
		for _, v := range []iptables.Variant{iptables.NFT, iptables.Legacy} {
			t.Run("iptables-"+string(v)+"/"+name, func(t *testing.T) {
				w := newWorld(t)
				applyIptables(t, openIptables(t, w.node, v), c, true)
				w.openParallel(t, test.ports, test.atOnce, test.refused)
			})
		}
	}
}

// openParallel opens the connections, and checks their ports, and that connection tracking has
// refused no more than it may.
func (w *world) openParallel(t *testing.T, ports snat.Ports, atOnce bool, refused uint64) {
	t.Helper()
	// Without an answer the connections stay as they are.
	tool(t, w.Internet(), fmt.Sprintf("table inet silent { chain in { type filter hook input priority 0; tcp dport %d drop; }; }", toPort), "nft", "-f", "-")
	a, b := w.sender(t, w.a, podA), w.sender(t, w.b, podB)
	deadline := time.Now().Add(time.Minute)
	var open map[netip.AddrPort]uint16
	for {
		var senders sync.WaitGroup
		if atOnce {
			senders.Go(func() { sendAll(t, open, a) })
			senders.Go(func() { sendAll(t, open, b) })
		} else {
			senders.Go(func() { sendAll(t, open, a, b) })
		}
		senders.Wait()
		if open = w.tracked(t); len(open) == parallel || t.Failed() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections, want %d", len(open), parallel)
		}
	}
	owners := map[uint16]netip.AddrPort{}
	for from, port := range open {
		if ports.First != 0 && (port < ports.First || port > ports.Last) {
			t.Errorf("%v was translated to port %d, want one of %d to %d", from, port, ports.First, ports.Last)
		}
		if other, ok := owners[port]; ok {
			t.Errorf("%v and %v were translated to port %d", from, other, port)
		}
		owners[port] = from
	}
	if failed := insertFailed(t, w.node); failed > refused {
		t.Errorf("connection tracking refused %d connections, want at most %d", failed, refused)
	}
}

// sender sends packets of a pod.
type sender struct {
	from netip.Addr
	fd   int
}

func (w *world) sender(t *testing.T, ns *fabric.Netns, from netip.Addr) sender {
	t.Helper()
	s := sender{from: from}
	in(t, ns, func() (err error) {
		s.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		return err
	})
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

// sendAll sends the first packet of each connection that is not in open, from the pods in turn.
func sendAll(t *testing.T, open map[netip.AddrPort]uint16, pods ...sender) {
	to := &unix.SockaddrInet4{Addr: fabric.InternetAddr.As4()}
	for port := uint16(firstPort); port < firstPort+parallel/2; port++ {
		for _, s := range pods {
			if _, ok := open[netip.AddrPortFrom(s.from, port)]; ok {
				continue
			}
			// The next round sends again.
			err := unix.Sendto(s.fd, syn(s.from, port), 0, to)
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
				t.Errorf("send from %v: %v", s.from, err)
				return
			}
		}
	}
}

// syn returns a TCP segment without options that opens a connection.
func syn(from netip.Addr, port uint16) []byte {
	segment := make([]byte, 20)
	binary.BigEndian.PutUint16(segment, port)
	binary.BigEndian.PutUint16(segment[2:], toPort)
	segment[12], segment[13] = 5<<4, 2 // its length in words, and the flag SYN
	binary.BigEndian.PutUint16(segment[14:], 65535)
	sum := uint32(unix.IPPROTO_TCP + len(segment))
	for _, part := range [][]byte{from.AsSlice(), fabric.InternetAddr.AsSlice(), segment} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(segment[16:], ^uint16(sum))
	return segment
}

// tracked returns the connections to the destination that the node tracks, by their source,
// and the port of the node that each was translated to.
func (w *world) tracked(t *testing.T) map[netip.AddrPort]uint16 {
	t.Helper()
	all := map[netip.AddrPort]uint16{}
	in(t, w.node, func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		for _, f := range flows {
			if f.Forward.DstPort != toPort || f.Forward.Protocol != unix.IPPROTO_TCP {
				continue
			}
			from, _ := netip.AddrFromSlice(f.Forward.SrcIP)
			if to, _ := netip.AddrFromSlice(f.Reverse.DstIP); to.Unmap() != node1 {
				t.Errorf("%v:%d was translated to %v, want %v", from, f.Forward.SrcPort, to, node1)
			}
			all[netip.AddrPortFrom(from.Unmap(), f.Forward.SrcPort)] = f.Reverse.DstPort
		}
		return err
	})
	return all
}
