// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// foreignPod makes a pod of another CNI plugin: a veth link with a route to the address in
// table main.
func (l *lab) foreignPod(name string, addrs ...netip.Addr) {
	in(l.t, l.node, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: name + "-peer"}
		if err := h.LinkAdd(veth); err != nil {
			return err
		}
		for _, end := range []string{name, name + "-peer"} {
			link, err := h.LinkByName(end)
			if err == nil {
				err = h.LinkSetUp(link)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	for _, a := range addrs {
		l.apply(netstate.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Link: name, Table: netstate.TableMain, Protocol: static})
	}
}

// TestInUse has pods of both layouts and of another CNI plugin, a retired pod and an
// address on the node, and compares the answers of InUse, LookupAddrs and HostLinks.
func TestInUse(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			for _, other := range layouts {
				p := l.pod(1, "pod-"+string(other))
				p.Layout, p.Addrs = other, podAddrs(map[datapath.Layout]string{datapath.Flat: "10.0.0.112", datapath.PerPod: "10.0.0.113"}[other])
				l.add(p)
			}
			gone := l.pod(1, "gone")
			l.add(gone)
			if err := l.h.RetirePod(t.Context(), gone); err != nil {
				t.Fatal(err)
			}
			foreign := netip.MustParseAddr("10.0.0.114")
			l.foreignPod("lxc1", foreign, netip.MustParseAddr("2001:db8:0:1:b::9"))
			l.apply(netstate.Address{Link: "ens5", Prefix: netip.MustParsePrefix("10.0.0.115/32")})
			links, err := l.h.HostLinks(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var want []datapath.Use
			for _, u := range []struct {
				addr, link string
				local      bool
			}{
				{"10.0.0.112", l.pod(0, "pod-flat").HostLink(), false}, {"10.0.0.113", l.pod(0, "pod-per-pod").HostLink(), false},
				{"10.0.0.114", "lxc1", false}, {"10.0.0.115", "ens5", true}, {"2001:db8:0:1:b::9", "lxc1", false},
			} {
				want = append(want, datapath.Use{Addr: netip.MustParseAddr(u.addr), Link: u.link, Local: u.local})
				if !links[u.link] {
					t.Errorf("HostLinks has no %s: %v", u.link, links)
				}
			}
			if links[gone.HostLink()] {
				t.Errorf("HostLinks has %s, which is retired", gone.HostLink())
			}
			got, err := l.h.InUse(t.Context(), append(l.n.ENIs[0].Sources, l.n.ENIs[1].Sources...))
			if diff := cmp.Diff(want, got, compareAddrs); err != nil || diff != "" {
				t.Errorf("InUse: %v (-want +got):\n%s", err, diff)
			}
			var addrs []netip.Addr
			for a := netip.MustParseAddr("10.0.0.100"); a.Compare(netip.MustParseAddr("10.0.0.200")) < 0; a = a.Next() {
				addrs = append(addrs, a)
			}
			addrs = append(addrs, netip.MustParseAddr("2001:db8:0:1:b::9"), netip.MustParseAddr("2001:db8:0:1:b::1"))
			got, err = l.h.LookupAddrs(t.Context(), addrs)
			if layout == datapath.PerPod {
				want = want[1:] // no rule leads to the table of the other layout
			}
			if diff := cmp.Diff(want, got, compareAddrs); err != nil || diff != "" {
				t.Errorf("LookupAddrs: %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// podAddrs returns addresses of the lab's second ENI.
func podAddrs(addrs ...string) []datapath.PodAddr {
	var list []datapath.PodAddr
	for _, a := range addrs {
		list = append(list, datapath.PodAddr{Addr: netip.MustParseAddr(a), Table: 2})
	}
	return list
}

// TestSandboxID compares the identities of namespaces, and expects ErrNoSandbox for paths
// that are not network namespaces.
func TestSandboxID(t *testing.T) {
	isolatetest.Require(t)
	one, two := newNetns(t), newNetns(t)
	threads := runtime.NumGoroutine()
	seen := map[uint64]string{}
	for range 20 {
		for _, path := range []string{one, two} {
			id, err := datapath.SandboxID(path)
			if err != nil || id == 0 {
				t.Fatalf("SandboxID(%s) = %d, %v", path, id, err)
			}
			if other, ok := seen[id]; ok && other != path {
				t.Errorf("%s and %s have the same identity %d", path, other, id)
			}
			seen[id] = path
		}
	}
	if len(seen) != 2 {
		t.Errorf("two namespaces have the identities %v", seen)
	}
	if n := runtime.NumGoroutine(); n > threads+2 {
		t.Errorf("%d goroutines, %d before", n, threads)
	}
	// A new namespace may have the inode of a deleted one, but never its identity.
	for range 20 {
		path := newNetns(t)
		id, err := datapath.SandboxID(path)
		if err != nil || seen[id] != "" {
			t.Errorf("a new namespace has the identity %d of %q: %v", id, seen[id], err)
		}
		seen[id] = path
		removeNetns(t, path)
		if _, err := datapath.SandboxID(path); !errors.Is(err, datapath.ErrNoSandbox) {
			t.Errorf("SandboxID(%s) of a deleted namespace: %v, want ErrNoSandbox", path, err)
		}
	}
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), syscall.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "none"), file, fifo, dir, filepath.Join(file, "below"), "/proc/self/ns/uts", "/proc/4194305/ns/net"} {
		if id, err := datapath.SandboxID(path); !errors.Is(err, datapath.ErrNoSandbox) || id != 0 {
			t.Errorf("SandboxID(%s) = %d, %v, want ErrNoSandbox", path, id, err)
		}
	}
}

// BenchmarkUse measures the calls by which the agent asks the kernel about addresses, on a
// node with 200 pods.
func BenchmarkUse(b *testing.B) {
	l := newLab(b, datapath.Flat)
	if err := l.h.EnsureNode(b.Context(), *l.n); err != nil {
		b.Fatal(err)
	}
	in(b, l.node, func(h *netlink.Handle) error {
		for i := range 200 {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = fmt.Sprintf("eni%d", i)
			if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				return err
			}
			link, err := h.LinkByName(attrs.Name)
			if err == nil {
				err = h.LinkSetUp(link)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	var addrs []netip.Addr
	for i := range 200 {
		a := netip.AddrFrom4([4]byte{10, 0, 2, byte(i)})
		addrs = append(addrs, a, netip.AddrFrom4([4]byte{10, 0, 3, byte(i)}))
		l.apply(netstate.Route{Dst: netip.PrefixFrom(a, 32), Link: fmt.Sprintf("eni%d", i), Table: claims.TablePods, Protocol: claims.RouteProtocol})
	}
	b.Run("LookupAddrs 1", func(b *testing.B) {
		for b.Loop() {
			if u, err := l.h.LookupAddrs(b.Context(), addrs[1:2]); err != nil || len(u) != 0 {
				b.Fatal(u, err)
			}
		}
	})
	b.Run("LookupAddrs 400", func(b *testing.B) {
		for b.Loop() {
			if u, err := l.h.LookupAddrs(b.Context(), addrs); err != nil || len(u) != 200 {
				b.Fatal(len(u), err)
			}
		}
	})
	b.Run("InUse", func(b *testing.B) {
		for b.Loop() {
			if u, err := l.h.InUse(b.Context(), []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}); err != nil || len(u) < 200 {
				b.Fatal(len(u), err)
			}
		}
	})
	b.Run("HostLinks", func(b *testing.B) {
		for b.Loop() {
			if n, err := l.h.HostLinks(b.Context()); err != nil || len(n) < 200 {
				b.Fatal(len(n), err)
			}
		}
	})
}
