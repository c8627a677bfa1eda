// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"golang.org/x/sys/unix"
)

// life runs the life of a node in which only some families work: the pods are added,
// checked, watched and deleted, by a handle that was opened by an earlier process and by
// a new one. Nothing may differ, and Watch may repair nothing.
func (l *lab) life(pods ...datapath.Pod) {
	l.t.Helper()
	t, ctx := l.t, l.t.Context()
	l.ensure()
	for _, p := range pods { // a bridge stays when its last pod goes
		if p.Mode.Bridge != nil {
			l.add(p)
			if err := l.h.DelPod(ctx, p); err != nil {
				t.Error(err)
			}
		}
	}
	before := l.state()
	for restart := range 2 {
		for _, p := range pods {
			l.add(p)
			if err := l.h.CheckPod(ctx, p); err != nil {
				t.Errorf("CheckPod: %v", err)
			}
			for _, a := range p.Addrs {
				l.expect(p.Netns, a.Addr, outsideOf(a.Addr))
				if restart == 0 {
					l.listen(p.Netns, a.Addr)
				}
				if _, err := ask(l.node, netip.Addr{}, a.Addr); err != nil {
					t.Errorf("node to pod %s: %v", a.Addr, err)
				}
			}
		}
		l.restart()
		if err := l.h.Ensure(ctx, datapath.Desired{Node: *l.n, Pods: pods}); err != nil {
			t.Errorf("Ensure after a restart: %v", err)
		}
		repairs := l.watch(pods...)
		select {
		case r := <-repairs:
			t.Errorf("Watch repairs without end or cause: %v, %v", r.Changes, r.Err)
		case <-time.After(500 * time.Millisecond):
		}
		l.noDrift(pods...)
		for _, p := range pods {
			l.add(p)
			if restart == 0 {
				p = datapath.Pod{ContainerID: p.ContainerID, IfName: p.IfName, Netns: p.Netns}
			}
			for range 2 {
				if err := l.h.DelPod(ctx, p); err != nil {
					t.Errorf("DelPod: %v", err)
				}
			}
		}
		if err := l.h.Sweep(ctx); err != nil {
			t.Errorf("Sweep: %v", err)
		}
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Errorf("DEL left something (-before +after):\n%s", diff)
		}
	}
}

// restart opens the node again, as a new process does.
func (l *lab) restart() {
	l.t.Helper()
	h, err := datapath.Open(l.node)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { h.Close() })
	l.h, l.Handle = h, h
}

// only leaves the addresses of one family to a node.
func only(n *datapath.Node, f netstate.Family) {
	other := func(p netip.Prefix) bool { return netstate.FamilyOf(p.Addr()) != f }
	n.ENIs = slices.Clone(n.ENIs)
	for i := range n.ENIs {
		e := &n.ENIs[i]
		e.Addrs = slices.DeleteFunc(slices.Clone(e.Addrs), other)
		e.Sources = slices.DeleteFunc(slices.Clone(e.Sources), other)
	}
}

// ipv6Settings returns the settings of IPv6 by which links take part in it, on all links
// of the node.
func (l *lab) ipv6Settings() map[string]string {
	found := map[string]string{}
	on(l.t, l.node, func() error {
		files, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/disable_ipv6")
		for _, f := range append(files, "/proc/sys/net/ipv6/conf/all/forwarding") {
			value, readErr := os.ReadFile(f)
			err = errors.Join(err, readErr)
			found[f] = strings.TrimSpace(string(value))
		}
		return err
	})
	return found
}

// TestIPv6OffBySysctl runs an IPv4 node whose IPv6 an administrator has switched off. It
// stays off, on all links, and no setting of it changes.
func TestIPv6OffBySysctl(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			only(l.n, netstate.IPv4)
			on(t, l.node, func() error {
				return errors.Join(sysctl("net/ipv6/conf/all/disable_ipv6", "1"), sysctl("net/ipv6/conf/default/disable_ipv6", "1"))
			})
			before := l.ipv6Settings()
			p, bridged := l.pod(1, "one"), l.pod(0, "two")
			bridged.Mode.Bridge = &datapath.Bridge{}
			l.life(p, bridged)
			after := l.ipv6Settings()
			for f, value := range after {
				want, ok := before[f]
				if !ok {
					want = "1"
				}
				if value != want {
					t.Errorf("%s is %s, want %s", f, value, want)
				}
			}
		})
	}
}

// TestRouterAdvertsRefused wants the links to pods to refuse router advertisements, also on
// a node that does not forward IPv6.
func TestRouterAdvertsRefused(t *testing.T) {
	for _, families := range []int{1, 2} {
		l := newLab(t, datapath.Flat)
		if families == 1 {
			only(l.n, netstate.IPv4)
		}
		l.ensure()
		plain, bridged := l.pod(0, "plain"), l.pod(1, "bridged")
		bridged.Mode.Bridge = &datapath.Bridge{}
		for _, p := range []datapath.Pod{plain, bridged} {
			l.add(p)
			on(t, l.node, func() error {
				accept, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + p.NodeLink() + "/accept_ra")
				if string(accept) != "0\n" {
					t.Errorf("link to %s with %v: accept_ra is %q, want 0", p.ContainerID, p.Addrs, accept)
				}
				return err
			})
		}
	}
}

// readOnlySettings makes /proc/sys read-only until the test ends.
func readOnlySettings(t *testing.T) {
	t.Helper()
	const dir = "/proc/sys"
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		t.Fatal(err)
	}
	if err := sysctl("net/ipv4/ip_forward", "1"); !errors.Is(err, unix.EROFS) {
		t.Fatalf("write a setting: %v, want %v", err, unix.EROFS)
	}
}

// TestReadOnlySettings runs nodes that cannot write settings. An administrator has made
// those that the node needs; what new links inherit from them is enough for pods of either
// family and both.
func TestReadOnlySettings(t *testing.T) {
	for _, layout := range layouts {
		for _, families := range []string{"IPv4", "IPv6", "both"} {
			t.Run(string(layout)+"/"+families, func(t *testing.T) {
				l := newLab(t, layout)
				switch families {
				case "IPv4":
					only(l.n, netstate.IPv4)
				case "IPv6":
					only(l.n, netstate.IPv6)
				}
				if err := l.h.EnsureNode(t.Context(), *l.n); err != nil { // while it can write
					t.Fatal(err)
				}
				pods := []datapath.Pod{l.pod(1, "one"), l.pod(0, "two")}
				pods[1].Mode.Bridge = &datapath.Bridge{}
				readOnlySettings(t)
				l.restart()
				l.life(pods...)
			})
		}
	}
}

// TestReadOnlySettingsMissing wants one error for settings that a node or a pod needs and
// that have other values: it names each with its value, the wanted one and the remedy. IPv4
// settings of links are set without their files, and an IPv4 pod needs no setting of IPv6.
func TestReadOnlySettingsMissing(t *testing.T) {
	l := newLab(t, datapath.Flat)
	on(t, l.node, func() error {
		return errors.Join(sysctl("net/ipv6/conf/default/accept_ra", "2"), sysctl("net/ipv4/ip_forward", "0"), sysctl("net/ipv6/conf/all/forwarding", "0"))
	})
	dual, v4 := l.pod(1, "one"), l.pod(0, "two")
	v4.Addrs = v4.Addrs[:1]
	readOnlySettings(t)
	err := l.h.EnsureNode(t.Context(), *l.n)
	wantText(t, "EnsureNode", err,
		"net.ipv4.ip_forward is 0, want 1, and cannot be written (read-only file system): run `sysctl -w net.ipv4.ip_forward=1` on the node, or mount /proc/sys writable",
		"net.ipv6.conf.all.forwarding is 0, want 1,")
	if err != nil && strings.Contains(err.Error(), "net.ipv4.conf.") {
		t.Errorf("the error names an IPv4 setting of a link: %v", err)
	}
	before := l.state()
	_, err = l.h.AddPod(t.Context(), dual)
	wantText(t, "AddPod", err, "accept_ra is 2, want 0, and cannot be written (read-only file system): run `sysctl -w net.ipv6.conf.",
		"(for links to come: `sysctl -w net.ipv6.conf.default.accept_ra=0`)")
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("the failed ADD left something (-before +after):\n%s", diff)
	}
	if _, err = l.h.AddPod(t.Context(), v4); err != nil {
		t.Errorf("AddPod of an IPv4 pod: %v", err)
	}
}

// wantText wants an error with each of the texts, each once.
func wantText(t *testing.T, what string, err error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err == nil || strings.Count(err.Error(), text) != 1 {
			t.Errorf("%s: error %v, want it to have once %q", what, err, text)
		}
	}
}

// TestOddKernel runs a node on a kernel that was booted with ipv6.disable=1, at first
// without any module. It needs such a kernel: internal/vm boots one.
func TestOddKernel(t *testing.T) {
	isolatetest.Require(t)
	const late = "/late"
	if _, err := os.Stat(late); err != nil {
		t.Log("this kernel has IPv6 and its modules: internal/vm runs this test on one that has not")
		return
	}
	if datapathtest.HasIPv6() {
		t.Fatal("the kernel has IPv6")
	}
	ns, sandbox := newNetns(t), newNetns(t)
	h, err := datapath.Open(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	p := datapath.Pod{ContainerID: "odd", IfName: "eth0", Netns: sandbox, Addrs: []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.0.101"), Table: 2}}}
	t.Run("without modules", func(t *testing.T) { testNoModules(t, h, p) })
	load(t, late, "veth")
	t.Run("without nftables", func(t *testing.T) { testNoNftables(t, h, p) })
	load(t, late, "*")
	for _, layout := range layouts {
		t.Run("without IPv6/"+string(layout), func(t *testing.T) { testNoIPv6(t, layout) })
	}
}

// load loads the kernel modules of a directory whose names match the pattern, in order of
// name. Each file name begins with a number and a dash. It skips those that are loaded.
func load(t *testing.T, dir, pattern string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*-"+pattern+".ko"))
	if err != nil || len(files) == 0 {
		t.Fatalf("modules %s in %s: %v, %v", pattern, dir, files, err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
			t.Errorf("load %s: %v", name, err)
		}
		f.Close()
	}
}

// quiet calls everything that must succeed on any node without pods.
func quiet(t *testing.T, h *datapath.Handle, p datapath.Pod) {
	t.Helper()
	ctx := t.Context()
	_, err := h.Observe(ctx)
	_, usesErr := h.InUse(ctx, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")})
	_, lookErr := h.LookupAddrs(ctx, []netip.Addr{p.Addrs[0].Addr, netip.MustParseAddr("2001:db8::1")})
	_, linksErr := h.HostLinks(ctx)
	err = errors.Join(err, usesErr, lookErr, linksErr, h.Sweep(ctx))
	dual := p
	dual.Addrs = append(slices.Clone(p.Addrs), datapath.PodAddr{Addr: netip.MustParseAddr("2001:db8::1")})
	key := datapath.Pod{ContainerID: p.ContainerID, IfName: p.IfName}
	for _, d := range []datapath.Pod{p, dual, key} {
		err = errors.Join(err, h.DelPod(ctx, d), h.RetirePod(ctx, d))
	}
	if err != nil {
		t.Error(err)
	}
}

func testNoModules(t *testing.T, h *datapath.Handle, p datapath.Pod) {
	quiet(t, h, p)
	_, err := h.AddPod(t.Context(), p)
	wantText(t, "AddPod", err, "the kernel has no links of kind veth: load the module veth")
	quiet(t, h, p)
}

// testNoNftables wants pods to be wired, and the node's table to be missing with one clear
// error: without it nothing would check the pods' sources.
func testNoNftables(t *testing.T, h *datapath.Handle, p datapath.Pod) {
	quiet(t, h, p)
	if _, err := h.AddPod(t.Context(), p); err != nil {
		t.Error(err)
	}
	if err := h.CheckPod(t.Context(), p); err != nil {
		t.Errorf("CheckPod: %v", err)
	}
	n := datapath.Node{ENIs: []datapath.ENI{{ID: "eni-0a", MAC: p.HostMAC(), Addrs: prefixes("10.0.0.10/24")}}}
	err := h.EnsureNode(t.Context(), n)
	wantText(t, "EnsureNode", err, "table inet vpcnet: unsupported operation: the kernel needs nf_tables with fib for family inet (modules nf_tables and nft_fib_inet)")
	quiet(t, h, p)
	// Watch cannot repair the table, but goes on, and receives the reports of links.
	b := datapath.Pod{ContainerID: "bridged", IfName: "eth0", Netns: newNetns(t), Mode: datapath.Mode{Bridge: &datapath.Bridge{}}, Addrs: p.Addrs}
	_, err = h.AddPod(t.Context(), b)
	wantText(t, "AddPod", err, "the kernel has no links of kind bridge: load the module bridge")
}

func testNoIPv6(t *testing.T, layout datapath.Layout) {
	l := newLab(t, layout)
	p, other := l.pod(1, "one"), l.pod(0, "two")
	bridged := other
	bridged.ContainerID, bridged.Netns, bridged.Mode.Bridge = "three", newNetns(t), &datapath.Bridge{}
	bridged.Addrs = []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.0.112"), Table: 2}}
	direct := bridged
	direct.ContainerID, direct.Netns = "four", newNetns(t)
	direct.Addrs = []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.0.113"), Table: 2}}
	direct.Mode = datapath.Mode{IPVLAN: &datapath.IPVLAN{ENI: l.n.ENIs[1], Direct: prefixes("10.0.0.0/16", "2001:db8::/56")}}
	l.life(p, other, bridged, direct)

	dual := p
	dual.Addrs = append(slices.Clone(p.Addrs), datapath.PodAddr{Addr: netip.MustParseAddr("2001:db8:0:1:b::1"), Table: 2})
	before := l.state()
	_, err := l.h.AddPod(t.Context(), dual)
	wantText(t, "AddPod of an IPv6 pod", err, "the kernel has no IPv6: boot it without ipv6.disable=1, or give the pod no IPv6 address")
	quiet(t, l.h, dual)
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("the failed ADD left something (-before +after):\n%s", diff)
	}
	b := l.branch(datapath.Standard, "branch")
	b.Addrs = b.Addrs[:1]
	l.add(b)
	l.expect(b.Netns, b.Addrs[0].Addr, outside4)
	for range 2 {
		if err := l.h.DelPod(t.Context(), b); err != nil {
			t.Error(err)
		}
	}
}
