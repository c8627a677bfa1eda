// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// TestBatch sends requests in one system call. One that fails does not stop the others,
// and each answer is that of its request.
func TestBatch(t *testing.T) {
	c := connect(t)
	index := createPair(t, c)
	var b Batch
	b.FindLink("lo")
	b.FindLink("missing")
	b.FindIndex(index)
	b.Neighbor(netstate.OpAdd, index, netstate.Neighbor{Addr: addr4, MAC: peerMAC.String()})
	b.AddRoute(index, netstate.Route{Dst: netstate.HostPrefix(addr4), Table: 77})
	b.AddRoute(index, netstate.Route{Dst: netstate.HostPrefix(addr4), Table: 77})
	b.ReplaceRoute(index, netstate.Route{Dst: netstate.HostPrefix(addr4), Table: 77})
	b.DeleteRoute(index, netstate.Route{Dst: netstate.HostPrefix(addr4), Table: 77})
	b.Rule(netstate.OpDelete, netstate.Rule{Priority: 999})
	answers, err := c.Do(&b)
	if err != nil {
		t.Fatal(err)
	}
	want := []error{nil, unix.ENODEV, nil, nil, nil, unix.EEXIST, nil, nil, unix.ENOENT}
	for i, a := range answers {
		if !errors.Is(a.Err, want[i]) {
			t.Errorf("answer %d: %v, want %v", i, a.Err, want[i])
		}
	}
	for i, name := range map[int]string{0: "lo", 2: testLink} {
		if l, err := answers[i].Link(); err != nil || l.Name != name {
			t.Errorf("answer %d: link %q, %v; want %q", i, l.Name, err, name)
		}
	}
	if _, err := answers[1].Link(); !errors.Is(err, unix.ENODEV) {
		t.Errorf("link of a failed request: %v, want %v", err, unix.ENODEV)
	}
	if _, err := answers[3].Link(); !errors.Is(err, errNoObject) {
		t.Errorf("link of a request for none: %v, want %v", err, errNoObject)
	}
	if !answers[0].Found() || answers[1].Found() || answers[3].Found() {
		t.Errorf("found: %t %t %t, want true false false", answers[0].Found(), answers[1].Found(), answers[3].Found())
	}
	if answers, err := c.Do(&Batch{}); err != nil || answers != nil {
		t.Errorf("empty batch: %v, %v", answers, err)
	}
}

// TestReason expects the kernel's reason in words beside the error number.
func TestReason(t *testing.T) {
	c := connect(t)
	index := createPair(t, c)
	var b Batch
	b.AddRoute(index, netstate.Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("192.0.2.1"), Table: 77})
	answers, err := c.Do(&b)
	if err != nil {
		t.Fatal(err)
	}
	const reason = "Nexthop has invalid gateway"
	if err := answers[0].Err; !errors.Is(err, unix.ENETUNREACH) || !strings.Contains(err.Error(), reason) {
		t.Errorf("%v, want %v with %q", err, unix.ENETUNREACH, reason)
	}
}

// TestLinkByName finds a link and misses one.
func TestLinkByName(t *testing.T) {
	c := connect(t)
	index := createPair(t, c)
	l, err := c.LinkByName(testLink)
	if err != nil || l.Index != index || l.Kind != "veth" || l.MAC != testMAC.String() || l.MTU != 1400 || l.Group != 7 {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err := c.LinkByName("missing"); err != nil || l.Index != 0 {
		t.Errorf("link that does not exist: %+v, %v", l, err)
	}
	if err := c.WaitRunning(t.Context(), index); err != nil {
		t.Error(err)
	}
	if err := c.SetLinkGroup(index, 8); err != nil {
		t.Error(err)
	}
	if l, err := c.LinkByName(testLink); err != nil || l.Group != 8 {
		t.Errorf("link group %d, want 8; %v", l.Group, err)
	}
	if err := c.SetLinkGroup(1<<20, 8); err != nil {
		t.Errorf("group of a link that does not exist: %v", err)
	}
}

// TestFullBatch sends as many requests as a batch may have. The answers do not fit into
// one read, and expects each answer at its place.
func TestFullBatch(t *testing.T) {
	c := connect(t)
	var b Batch
	for i := range BatchSize {
		b.FindLink([]string{"lo", "missing"}[i%2])
	}
	answers, err := c.Do(&b)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range answers {
		if l, err := a.Link(); i%2 == 0 && (err != nil || l.Name != "lo") || i%2 == 1 && !errors.Is(err, unix.ENODEV) {
			t.Errorf("answer %d: link %q, %v, want lo and %v in turn", i, l.Name, err, unix.ENODEV)
		}
	}
}

// TestLongDatagram expects an error for a datagram that is longer than the buffer, and not
// a part of it.
func TestLongDatagram(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	buf := make([]byte, receiveSize)
	for _, size := range []int{datagramSize, datagramSize + 1} {
		if _, err := unix.Write(fds[1], make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		got, err := receiveAll(fds[0], buf)
		if fits := size <= datagramSize; fits != (err == nil) || fits && (len(got) != 1 || len(got[0]) != size) {
			t.Errorf("datagram of %d bytes: %d datagrams, %v", size, len(got), err)
		}
	}
}
