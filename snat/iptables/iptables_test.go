// SPDX-License-Identifier: Apache-2.0

//go:build linux

package iptables_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }

var variants = []iptables.Variant{iptables.NFT, iptables.Legacy}

func namespace(t testing.TB) *fabric.Netns {
	t.Helper()
	isolatetest.Require(t)
	ns, err := fabric.CreateNetns("/run/netns/node")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Delete(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

func open(t testing.TB, cfg iptables.Config) *iptables.Handle {
	t.Helper()
	if cfg.Within == 0 {
		cfg.Within = time.Minute
	}
	h, err := iptables.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// rules returns the rules that exclude some prefixes.
func rules(t testing.TB, excluded ...string) snat.IptablesRuleset {
	t.Helper()
	c := snat.Config{
		NodeAddrs: []netip.Addr{netip.MustParseAddr("10.0.1.10")}, PrimaryLink: "ens5", NodePort: true,
		VPC:     []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
		Returns: []snat.Return{{Link: "ens6", Mark: 1}, {Link: "ens7", Mark: 2}},
	}
	for _, p := range excluded {
		c.Excluded = append(c.Excluded, netip.MustParsePrefix(p))
	}
	r, err := c.Iptables()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func apply(t testing.TB, h *iptables.Handle, r snat.IptablesRuleset, wantChanged bool) {
	t.Helper()
	changed, err := h.Apply(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if changed != wantChanged {
		t.Errorf("changed = %t, want %t", changed, wantChanged)
	}
	holds(t, h, r)
}

func holds(t testing.TB, h *iptables.Handle, want snat.IptablesRuleset) {
	t.Helper()
	got, err := h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !got.Equal(want) {
		t.Errorf("differences %q (-want +got):\n%s", got.Changes(want), cmp.Diff(want.String(), got.String()))
	}
}

// tool runs a program in the namespace and returns its output.
func tool(t testing.TB, ns *fabric.Netns, stdin, name string, args ...string) string {
	t.Helper()
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	err := ns.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdin, &out)
	}
	return out.String()
}

// changing matches the parts of tables that change by themselves.
var changing = regexp.MustCompile(`(?m)^#.*\n|\[[0-9]+:[0-9]+\]`)

// tables returns all tables of one variant.
func tables(t testing.TB, ns *fabric.Netns, v iptables.Variant) string {
	t.Helper()
	text := tool(t, ns, "", "iptables-"+string(v)+"-save") + tool(t, ns, "", "ip6tables-"+string(v)+"-save")
	return changing.ReplaceAllString(text, "")
}

// others are tables of other programs, with names that look like ours.
const others = `*mangle
:PREROUTING ACCEPT [0:0]
:OTHER - [0:0]
-A PREROUTING -m comment --comment "see \"-j VPCNET-MARKS\"" -j OTHER
-A OTHER -m comment --comment VPCNET-MARKS -j MARK --set-xmark 0x10000/0x10000
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:XVPCNET-PODS - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -s 192.0.2.7/32 -j XVPCNET-PODS
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A KUBE-SERVICES -d 172.20.0.1/32 -p tcp -m tcp --dport 443 -j DNAT --to-destination 10.0.1.7:6443
COMMIT
*filter
:INPUT ACCEPT [0:0]
:VPCNET-PODS - [0:0]
-A INPUT -i lo -j VPCNET-PODS
COMMIT
`

// others6 are the same of IPv6.
var others6 = strings.NewReplacer("192.0.2.7/32", "2001:db8::7/128", "172.17.0.0/16", "fd00:17::/64", "172.20.0.1/32", "fd00:20::1/128", "10.0.1.7:6443", "[2001:db8::8]:6443").Replace(others)

// addOthers makes tables of other programs.
func addOthers(t testing.TB, ns *fabric.Netns, v iptables.Variant) {
	t.Helper()
	tool(t, ns, others, "iptables-"+string(v)+"-restore", "--noflush")
	tool(t, ns, others6, "ip6tables-"+string(v)+"-restore", "--noflush")
}

// TestOthersStay applies, changes, damages and removes the rules. The tables of other
// programs stay as they are in both variants.
func TestOthersStay(t *testing.T) {
	for _, v := range variants {
		t.Run(string(v), func(t *testing.T) {
			ns := namespace(t)
			before := map[iptables.Variant]string{}
			for _, v := range variants {
				addOthers(t, ns, v)
				before[v] = tables(t, ns, v)
			}
			h := open(t, iptables.Config{Netns: ns.Path(), Variant: v})
			for range 2 {
				apply(t, h, rules(t), true)
				apply(t, h, rules(t), false)
				apply(t, h, rules(t, "192.0.2.0/24", "0.0.0.0/0"), true)
			}
			tool(t, ns, "*nat\n:VPCNET-MORE - [0:0]\n-A OUTPUT -j VPCNET-MORE\nCOMMIT\n", "iptables-"+string(v)+"-restore", "--noflush")
			apply(t, h, rules(t), true)
			if err := h.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := h.Remove(t.Context()); err != nil {
				t.Errorf("second removal: %v", err)
			}
			for _, v := range variants {
				if diff := cmp.Diff(before[v], tables(t, ns, v)); diff != "" {
					t.Errorf("tables of other programs in %s (-before +after):\n%s", v, diff)
				}
			}
		})
	}
}

// TestOtherVariant has chains of ours in the other variant, and in both for Clear.
func TestOtherVariant(t *testing.T) {
	ns := namespace(t)
	for _, v := range variants {
		addOthers(t, ns, v)
	}
	before := map[iptables.Variant]string{iptables.NFT: tables(t, ns, iptables.NFT), iptables.Legacy: tables(t, ns, iptables.Legacy)}
	other := map[iptables.Variant]iptables.Variant{iptables.NFT: iptables.Legacy, iptables.Legacy: iptables.NFT}
	for range 2 {
		for _, v := range variants {
			apply(t, open(t, iptables.Config{Netns: ns.Path(), Variant: v}), rules(t), true)
			if diff := cmp.Diff(before[other[v]], tables(t, ns, other[v])); diff != "" {
				t.Errorf("left in %s (-want +got):\n%s", other[v], diff)
			}
		}
	}
	for range 2 {
		if err := iptables.Clear(t.Context(), iptables.Config{Netns: ns.Path()}); err != nil {
			t.Fatal(err)
		}
		for _, v := range variants {
			if diff := cmp.Diff(before[v], tables(t, ns, v)); diff != "" {
				t.Errorf("left in %s after Clear (-want +got):\n%s", v, diff)
			}
		}
	}
}

// TestAuto lets Open choose the variant by the chains of kubelet and kube-proxy.
func TestAuto(t *testing.T) {
	const canary = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
	const proxy = "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n"
	for _, test := range []struct {
		name   string
		chains map[string]string // by program
		want   iptables.Variant
	}{
		{"none", nil, iptables.NFT}, // as the program iptables of this system
		{"kubelet in legacy", map[string]string{"iptables-legacy": canary}, iptables.Legacy},
		{"kubelet in nft", map[string]string{"iptables-nft": canary}, iptables.NFT},
		{"IPv6 only", map[string]string{"ip6tables-legacy": canary}, iptables.Legacy},
		{"kube-proxy alone", map[string]string{"iptables-legacy": proxy}, iptables.Legacy},
		{"kubelet counts more", map[string]string{"iptables-nft": proxy, "iptables-legacy": canary}, iptables.Legacy},
		{"both", map[string]string{"iptables-nft": canary, "iptables-legacy": canary}, iptables.NFT},
	} {
		t.Run(test.name, func(t *testing.T) {
			ns := namespace(t)
			for program, text := range test.chains {
				tool(t, ns, text, program+"-restore", "--noflush")
			}
			h := open(t, iptables.Config{Netns: ns.Path()})
			if h.Variant() != test.want {
				t.Errorf("variant %s, want %s", h.Variant(), test.want)
			}
			apply(t, h, rules(t), true)
		})
	}
}

// onlyPrograms hides the programs of the system but for those that keep has: copies of
// programs, by name.
func onlyPrograms(t *testing.T, keep map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, of := range keep {
		b, err := os.ReadFile(filepath.Join("/usr/sbin", of))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, hidden := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if err := unix.Mount("tmpfs", hidden, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(hidden, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	t.Setenv("PATH", dir)
}

// TestPrograms has systems without programs, and with programs of other names.
func TestPrograms(t *testing.T) {
	for name, test := range map[string]struct {
		keep map[string]string
		want iptables.Variant // "" is an error
	}{
		"none":           {},
		"nft multi":      {map[string]string{"xtables-nft-multi": "xtables-nft-multi"}, iptables.NFT},
		"legacy multi":   {map[string]string{"xtables-legacy-multi": "xtables-legacy-multi"}, iptables.Legacy},
		"both multi":     {map[string]string{"xtables-legacy-multi": "xtables-legacy-multi", "xtables-nft-multi": "xtables-nft-multi"}, iptables.NFT},
		"unnamed legacy": {unnamed("xtables-legacy-multi"), iptables.Legacy},
		"unnamed nft":    {unnamed("xtables-nft-multi"), iptables.NFT},
		"no IPv6":        {map[string]string{"iptables": "xtables-nft-multi"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ns := namespace(t)
			onlyPrograms(t, test.keep)
			h, err := iptables.Open(t.Context(), iptables.Config{Netns: ns.Path(), Within: time.Minute})
			if test.want == "" {
				if !errors.Is(err, iptables.ErrNoProgram) || !strings.Contains(err.Error(), "want iptables-nft") {
					t.Errorf("Open: %v, want %v with the names of programs", err, iptables.ErrNoProgram)
				}
				if err := iptables.Clear(t.Context(), iptables.Config{Netns: ns.Path()}); err != nil {
					t.Errorf("Clear: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			if h.Variant() != test.want {
				t.Errorf("variant %s, want %s", h.Variant(), test.want)
			}
			apply(t, h, rules(t), true)
			if _, err := iptables.Open(t.Context(), iptables.Config{Netns: ns.Path(), Variant: other(test.want)}); name != "both multi" && !errors.Is(err, iptables.ErrNoProgram) {
				t.Errorf("Open of the other variant: %v, want %v", err, iptables.ErrNoProgram)
			}
		})
	}
}

func other(v iptables.Variant) iptables.Variant {
	if v == iptables.NFT {
		return iptables.Legacy
	}
	return iptables.NFT
}

func unnamed(of string) map[string]string {
	keep := map[string]string{}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		keep[name] = of
	}
	return keep
}

// holdLock holds the xtables lock of these namespaces until the caller calls release.
func holdLock(t testing.TB) (release func()) {
	t.Helper()
	f, err := os.OpenFile("/run/xtables.lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { f.Close() })
	t.Cleanup(release)
	return release
}

// TestLock holds the lock while rules are read, applied and removed. Legacy waits for the
// bound and says why; the nft variant has no lock. A lock that is free in time is no error.
func TestLock(t *testing.T) {
	ns := namespace(t)
	bounded := open(t, iptables.Config{Netns: ns.Path(), Variant: iptables.Legacy, Within: 3 * time.Second})
	patient := open(t, iptables.Config{Netns: ns.Path(), Variant: iptables.Legacy})
	nft := open(t, iptables.Config{Netns: ns.Path(), Variant: iptables.NFT})
	release := holdLock(t)
	if _, err := bounded.Observe(t.Context()); err != nil {
		t.Errorf("Observe: %v", err)
	}
	if changed, err := bounded.Apply(t.Context(), rules(t)); !changed || !errors.Is(err, iptables.ErrLocked) {
		t.Errorf("Apply: %t, %v, want %v", changed, err, iptables.ErrLocked)
	}
	apply(t, nft, rules(t), true)
	if err := iptables.Clear(t.Context(), iptables.Config{Netns: ns.Path()}); err != nil {
		t.Errorf("Clear without chains of legacy: %v", err)
	}
	done := make(chan error)
	go func() {
		_, err := patient.Apply(t.Context(), rules(t))
		done <- err
	}()
	time.Sleep(100 * time.Millisecond)
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	holds(t, patient, rules(t))
	holdLock(t)
	if err := bounded.Remove(t.Context()); !errors.Is(err, iptables.ErrLocked) {
		t.Errorf("Remove: %v, want %v", err, iptables.ErrLocked)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := patient.Remove(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Remove: %v, want %v", err, context.DeadlineExceeded)
	}
}

// TestForeignLock holds the lock of the namespace, as any process in it can: nothing waits
// for it longer than a part of the bound.
func TestForeignLock(t *testing.T) {
	for _, v := range variants {
		t.Run(string(v), func(t *testing.T) {
			ns := namespace(t)
			f, err := os.Open(ns.Path())
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
				t.Fatal(err)
			}
			h := open(t, iptables.Config{Netns: ns.Path(), Variant: v})
			apply(t, h, rules(t), true)
			holds(t, h, rules(t))
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := h.Remove(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Remove: %v, want %v", err, context.DeadlineExceeded)
			}
		})
	}
}

// program puts a script into the place of a program, which the script can call as $0.real.
func program(t *testing.T, name, script string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nreal="+path+"\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestInterrupted ends an Apply before the program of IPv6, in a program, and by an error of
// the program. The next handle finds the state and completes it.
func TestInterrupted(t *testing.T) {
	for _, v := range variants {
		for name, script := range map[string]string{
			"fails":        "echo no memory >&2; exit 3\n",
			"fails after":  `$real "$@"; exit 1` + "\n",
			"does not end": "exec sleep 1000\n",
		} {
			for _, of := range []string{"iptables-", "ip6tables-"} {
				t.Run(string(v)+"/"+of+"/"+name, func(t *testing.T) {
					ns := namespace(t)
					addOthers(t, ns, v)
					before := tables(t, ns, v)
					apply(t, open(t, iptables.Config{Netns: ns.Path(), Variant: v}), rules(t, "192.0.2.0/24"), true)
					t.Run("interrupted", func(t *testing.T) {
						program(t, of+string(v)+"-restore", script)
						h := open(t, iptables.Config{Netns: ns.Path(), Variant: v, Within: 5 * time.Second})
						changed := snat.IptablesRuleset{} // other rules of both families
						if _, err := h.Apply(t.Context(), changed); err == nil && name != "fails after" {
							t.Error("Apply succeeds although a program fails")
						}
					})
					h := open(t, iptables.Config{Netns: ns.Path(), Variant: v})
					if _, err := h.Apply(t.Context(), rules(t)); err != nil {
						t.Fatal(err)
					}
					holds(t, h, rules(t))
					if err := h.Remove(t.Context()); err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(before, tables(t, ns, v)); diff != "" {
						t.Errorf("tables of other programs (-before +after):\n%s", diff)
					}
				})
			}
		}
	}
}

// TestClosed has calls on a closed handle, with a cancelled context, a missing namespace and
// bad configurations.
func TestClosed(t *testing.T) {
	ns := namespace(t)
	h := open(t, iptables.Config{Netns: ns.Path()})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Apply(ctx, rules(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply with a cancelled context: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Observe(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Observe after Close: %v", err)
	}
	if _, err := iptables.Open(t.Context(), iptables.Config{Netns: "/run/netns/missing"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of a missing namespace: %v", err)
	}
	for _, cfg := range []iptables.Config{{Variant: "ebtables"}, {Within: time.Second}} {
		if _, err := iptables.Open(t.Context(), cfg); err == nil {
			t.Errorf("Open of %+v succeeds", cfg)
		}
	}
}
