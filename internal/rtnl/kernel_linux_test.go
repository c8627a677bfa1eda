// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

// ownNetns opens the namespace of the tests.
func ownNetns(t testing.TB) *os.File {
	t.Helper()
	isolatetest.Require(t)
	ns, err := OpenNetns(OwnNetns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// connect opens a socket in the namespace of the tests.
func connect(t testing.TB) *Conn {
	t.Helper()
	c, err := dial(ownNetns(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.close() })
	return c
}

// do sends a batch. All of its requests must succeed.
func do(t testing.TB, c *Conn, b *Batch) []Answer {
	t.Helper()
	answers, err := c.Do(b)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range answers {
		if a.Err != nil {
			t.Fatalf("request %d: %v", i, a.Err)
		}
	}
	return answers
}

const (
	testLink = "vpc0"
	testPeer = "vpc1"
)

var (
	testMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	peerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	addr4   = netip.MustParseAddr("10.0.0.1")
	addr6   = netip.MustParseAddr("2001:db8::1")
)

// createPair makes a veth pair, both ends up, and returns the number of its first end.
func createPair(t testing.TB, c *Conn) int {
	t.Helper()
	ns := ownNetns(t)
	var b Batch
	b.CreateVeth(VethPair{Name: testLink, MAC: testMAC, Peer: testPeer, PeerMAC: peerMAC, MTU: 1400, Group: 7}, int(ns.Fd()))
	b.FindLink(testLink)
	l, err := do(t, c, &b)[1].Link()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var b Batch
		b.DeleteLink(l.Index)
		do(t, c, &b)
	})
	b = Batch{}
	b.NoLinkLocal(l.Index)
	b.SetLink(l.Index, netstate.Link{Up: true})
	b.SetLink(l.PeerIndex, netstate.Link{Up: true})
	do(t, c, &b)
	return l.Index
}

// fakeKernel returns a socket to a kernel that calls answer for each request, with its
// sequence number, and sends the datagrams that answer returns.
func fakeKernel(t *testing.T, answer func(seq uint32) [][]byte) *Conn {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, receiveSize)
		for {
			n, err := unix.Read(fds[1], buf)
			if err != nil || n == 0 {
				return
			}
			for _, d := range answer(message(parse(buf[:n])[0]).Header.Seq) {
				if _, err := unix.Write(fds[1], d); err != nil {
					return
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = unix.Close(fds[0])
		<-done
		_ = unix.Close(fds[1])
	})
	return &Conn{fd: fds[0], buf: make([]byte, receiveSize), sizes: map[dumpKind]int{}}
}
