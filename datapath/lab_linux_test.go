// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"golang.org/x/sys/unix"
)

// lab is a VPC of two ENIs in one subnet and a host beyond it, and a node.
type lab struct {
	t         testing.TB
	node, vpc string // paths of namespaces
	h         *datapath.Handle
	n         datapath.Node
}

var (
	outside4 = netip.MustParseAddr("198.51.100.9")
	outside6 = netip.MustParseAddr("2001:db8:99::9")
	host4    = netip.MustParseAddr("10.0.0.10")
	host6    = netip.MustParseAddr("2001:db8:0:1::10")
)

const echoPort = 7

var netnsCount atomic.Int64

// newNetns makes a network namespace and returns its path.
func newNetns(t testing.TB) string {
	t.Helper()
	path := fmt.Sprintf("/run/netns/t%d", netnsCount.Add(1))
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		errs <- err
	}()
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeNetns(path) })
	in(t, path, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	})
	return path
}

func removeNetns(path string) {
	_ = unix.Unmount(path, unix.MNT_DETACH)
	_ = os.Remove(path)
}

// on runs f on a thread in the namespace, which ends with it.
func on(t testing.TB, path string, f func() error) {
	t.Helper()
	if err := try(path, f); err != nil {
		t.Fatalf("in %s: %v", path, err)
	}
}

func try(path string, f func() error) error {
	errs := make(chan error)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.GetFromPath(path)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err == nil {
			err = f()
		}
		errs <- err
	}()
	return <-errs
}

func in(t testing.TB, path string, f func(*netlink.Handle) error) {
	t.Helper()
	on(t, path, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	})
}

func sysctl(key, value string) error {
	return os.WriteFile("/proc/sys/"+key, []byte(value), 0)
}

// newLab makes a VPC and a node whose primary ENI is configured as by DHCP. The
// VPC delivers an address to the ENI that owns it and drops what an ENI sends
// with an address of another, by strict reverse path filtering for IPv4.
func newLab(t testing.TB, layout datapath.Layout) *lab {
	t.Helper()
	isolatetest.Require(t)
	l := &lab{t: t, node: newNetns(t), vpc: newNetns(t), n: testNode(layout)}
	l.n.ENIs = l.n.ENIs[:2]
	l.n.ENIs[1].MTU = 1400
	in(t, l.vpc, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, a := range []string{"10.0.0.1/32", "198.51.100.9/32", "2001:db8:99::9/128"} {
			if err := addAddr(h, lo, a); err != nil {
				return err
			}
		}
		for i, e := range l.n.ENIs {
			if err := l.attach(h, i, e); err != nil {
				return fmt.Errorf("attach %s: %w", e.ID, err)
			}
		}
		return nil
	})
	l.configurePrimary()
	var err error
	if l.h, err = datapath.Open(l.node); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.h.Close() })
	l.echo()
	return l
}

// attach makes the veth pair of an ENI, and the VPC's routes to its addresses.
func (l *lab) attach(h *netlink.Handle, i int, e datapath.ENI) error {
	node, err := netns.GetFromPath(l.node)
	if err != nil {
		return err
	}
	defer node.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("v%d", i)
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: e.Link, PeerHardwareAddr: e.MAC, PeerNamespace: netlink.NsFd(node)}
	if err := h.LinkAdd(veth); err != nil {
		return err
	}
	return joinVPC(h, attrs.Name, e)
}

// joinVPC makes a link of the VPC's side deliver the ENI's addresses.
func joinVPC(h *netlink.Handle, name string, e datapath.ENI) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	for key, value := range map[string]string{"ipv4/conf/%s/rp_filter": "1", "ipv6/conf/%s/accept_dad": "0", "ipv6/conf/%s/forwarding": "1"} {
		if err := sysctl("net/"+fmt.Sprintf(key, name), value); err != nil {
			return err
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	if err := addAddr(h, link, "fe80:ec2::1/128"); err != nil {
		return err
	}
	for _, p := range append(addrsOf(e), e.Sources...) {
		dst := &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		if err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		// The addresses that pods of the tests have, and the ENI's own.
		for _, a := range []netip.Addr{p.Addr(), p.Addr().Next()} {
			err := h.NeighSet(&netlink.Neigh{
				LinkIndex: link.Attrs().Index, IP: a.AsSlice(), HardwareAddr: e.MAC, State: netlink.NUD_PERMANENT,
			})
			if err != nil {
				return err
			}
		}
	}
	return sysctl("net/ipv4/conf/all/forwarding", "1")
}

func addrsOf(e datapath.ENI) []netip.Prefix {
	var p []netip.Prefix
	for _, a := range e.Addrs {
		p = append(p, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
	}
	return p
}

func addAddr(h *netlink.Handle, link netlink.Link, s string) error {
	ipnet, err := netlink.ParseIPNet(s)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipnet}
	if ipnet.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	return h.AddrReplace(link, a)
}

// configurePrimary does what the system's DHCP client does.
func (l *lab) configurePrimary() {
	in(l.t, l.node, func(h *netlink.Handle) error {
		link, err := h.LinkByName("ens5")
		if err != nil {
			return err
		}
		if err := sysctl("net/ipv6/conf/ens5/accept_dad", "0"); err != nil {
			return err
		}
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
		if err := addAddr(h, link, "10.0.0.10/24"); err != nil {
			return err
		}
		if err := addAddr(h, link, "2001:db8:0:1::10/128"); err != nil {
			return err
		}
		for _, gw := range []string{"10.0.0.1", "fe80:ec2::1"} {
			err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gw), Flags: int(netlink.FLAG_ONLINK)})
			if err != nil {
				return fmt.Errorf("default route via %s: %w", gw, err)
			}
		}
		return nil
	})
}

// echo answers every UDP packet to the outside addresses: "hello" with the
// sender's address as the outside sees it, everything else with itself.
func (l *lab) echo() {
	for _, a := range []netip.Addr{outside4, outside6} {
		l.listen(l.vpc, a)
	}
}

// listen starts an echo in a namespace.
func (l *lab) listen(path string, a netip.Addr) {
	var c *net.UDPConn
	on(l.t, path, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, echoPort)))
		return err
	})
	l.t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			answer := b[:n]
			if string(answer) == "hello" {
				answer = []byte(from.Addr().Unmap().String())
			}
			_, _ = c.WriteToUDPAddrPort(answer, from)
		}
	}()
}

// ask sends a packet and returns the sender's address as the other side saw it.
// An empty from lets the kernel choose.
func ask(path string, from, to netip.Addr) (string, error) { return askTimes(path, from, to, 3) }

// askTimes sends up to that many packets, one after the other.
func askTimes(path string, from, to netip.Addr, times int) (string, error) {
	var c *net.UDPConn
	err := try(path, func() (err error) {
		var local *net.UDPAddr
		if from.IsValid() {
			local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		c, err = net.DialUDP("udp", local, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, echoPort)))
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	b := make([]byte, 2048)
	var n int
	for range times {
		if _, err = c.Write([]byte("hello")); err != nil {
			return "", err
		}
		if err = c.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
			return "", err
		}
		if n, err = c.Read(b); err == nil {
			return string(b[:n]), nil
		}
	}
	return "", err
}

// answerTime is how long an answer from another namespace may take on a very
// busy machine.
const answerTime = 300 * time.Millisecond

// pod returns a pod of the lab with its addresses on ENI i, in a new sandbox.
func (l *lab) pod(i int, id string) datapath.Pod {
	p := datapath.Pod{ContainerID: id, IfName: "eth0", Netns: newNetns(l.t), Layout: l.n.Layout, MTU: 1400}
	for _, s := range l.n.ENIs[i].Sources {
		if s.IsSingleIP() {
			p.Addrs = append(p.Addrs, datapath.PodAddr{Addr: s.Addr(), Table: l.n.ENIs[i].Table()})
		} else if s.Addr().Is6() {
			p.Addrs = append(p.Addrs, datapath.PodAddr{Addr: s.Addr().Next(), Table: l.n.ENIs[i].Table()})
		}
	}
	return p
}

func (l *lab) ensure() {
	l.t.Helper()
	if err := l.h.EnsureNode(l.t.Context(), l.n); err != nil {
		l.t.Fatalf("EnsureNode: %v", err)
	}
	// The kernel tells a link's own IPv6 of its carrier up to a second later.
	for _, e := range l.n.ENIs {
		l.waitAnswer(l.node, e.Addrs[1].Addr(), outside6)
	}
}

// waitAnswer asks until an answer comes: the VPC's side of an ENI that has just
// come up drops packets for up to a second.
func (l *lab) waitAnswer(path string, from, to netip.Addr) {
	l.t.Helper()
	var err error
	for range 10 {
		if _, err = ask(path, from, to); err == nil {
			return
		}
	}
	l.t.Fatalf("%s never reached %s: %v", from, to, err)
}

func (l *lab) add(p datapath.Pod) datapath.Wiring {
	l.t.Helper()
	w, err := l.h.AddPod(l.t.Context(), p)
	if err != nil {
		l.t.Fatalf("AddPod: %v", err)
	}
	return w
}

// state returns the text of everything on the node. The answering of neighbours
// and counters are not in it.
func (l *lab) state() string {
	l.t.Helper()
	s, err := l.h.Observe(l.t.Context())
	if err != nil {
		l.t.Fatalf("Observe: %v", err)
	}
	return s.String()
}

func contains(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}
