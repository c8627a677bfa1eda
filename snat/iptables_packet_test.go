// SPDX-License-Identifier: Apache-2.0

//go:build linux

package snat_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

// variants runs a test with each variant of iptables, in a world of its own.
func variants(t *testing.T, test func(t *testing.T, w *world, h *iptables.Handle)) {
	for _, v := range []iptables.Variant{iptables.NFT, iptables.Legacy} {
		t.Run(string(v), func(t *testing.T) {
			w := newWorld(t)
			test(t, w, openIptables(t, w.node, v))
		})
	}
}

func openIptables(t testing.TB, ns *fabric.Netns, v iptables.Variant) *iptables.Handle {
	t.Helper()
	h, err := iptables.Open(t.Context(), iptables.Config{Netns: ns.Path(), Variant: v, Within: time.Minute})
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

func applyIptables(t testing.TB, h *iptables.Handle, c snat.Config, wantChanged bool) {
	t.Helper()
	changed, err := h.Apply(t.Context(), iptablesRuleset(t, c))
	if err != nil {
		t.Fatal(err)
	}
	if changed != wantChanged {
		t.Errorf("changed = %v, want %v", changed, wantChanged)
	}
}

// TestIptablesTranslates connects from pods on both ENIs to the internet, to the VPC, to an
// excluded network and to each other.
func TestIptablesTranslates(t *testing.T) {
	variants(t, func(t *testing.T, w *world, h *iptables.Handle) {
		w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), netip.Addr{})
		applyIptables(t, h, base(func(c *snat.Config) { c.Excluded = prefixes("192.168.0.0/16") }), true)
		check := w.watch(t, "ens5")
		w.asks(t, w.a, podA, echoAt(fabric.InternetAddr), node1)
		w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), node1)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := w.b.Ping(ctx, podB, fabric.InternetAddr); err != nil {
			t.Error(err)
		}
		check(fabric.InternetAddr)
		check = w.watch(t, "ens6")
		w.asks(t, w.b, podB, echoAt(node2), podB)
		check(node2)
		w.asks(t, w.b, podB, echoAt(fabric.PeerAddr), podB)
		check(fabric.PeerAddr)
		w.asks(t, w.a, podA, echoAt(podB), podA)
		w.asks(t, w.b, podB6, echoAt(fabric.InternetAddr6), podB6)

		from := netip.AddrPortFrom(node1, 40001) // a translated packet would have another port
		if seen, err := w.node.Ask(ctx, "udp", from, echoAt(fabric.InternetAddr)); seen != from {
			t.Errorf("from %v of the node: the server saw %v, %v", from, seen, err)
		}
		applyIptables(t, h, configs["exclude-all"], true)
		w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), netip.Addr{})
		if err := h.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"iptables-", "ip6tables-"} {
			if text := tool(t, w.node, "", f+string(h.Variant())+"-save"); strings.Contains(text, "VPCNET") {
				t.Errorf("left after removal:\n%s", text)
			}
		}
	})
}

// TestIptablesPorts has a range of ports, and each way to choose them.
func TestIptablesPorts(t *testing.T) {
	variants(t, func(t *testing.T, w *world, h *iptables.Handle) {
		ports := snat.Ports{First: 20000, Last: 20015}
		applyIptables(t, h, base(func(c *snat.Config) { c.Ports = ports }), true)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for _, network := range []string{"tcp", "udp", "tcp", "udp"} {
			seen, err := w.b.Ask(ctx, network, netip.AddrPortFrom(podB, 0), echoAt(fabric.InternetAddr))
			if err != nil || seen.Addr() != node1 || seen.Port() < ports.First || seen.Port() > ports.Last {
				t.Errorf("over %s the server saw %v, %v; want %v with a port of %v", network, seen, err, node1, ports)
			}
		}
		next := uint16(40000) // each flow has another port, because an old one keeps its translation
		for random, keeps := range map[snat.Random]bool{snat.RandomPRNG: false, snat.RandomHash: false, snat.RandomNone: true} {
			applyIptables(t, h, base(func(c *snat.Config) { c.Random = random }), true)
			kept := 0
			for range 4 {
				next++
				from := netip.AddrPortFrom(podA, next)
				seen, err := w.a.Ask(ctx, "udp", from, netip.AddrPortFrom(fabric.InternetAddr, fabric.EchoPort))
				if err != nil || seen.Addr() != node1 {
					t.Errorf("the server saw %v, %v", seen, err)
				}
				if seen.Port() == from.Port() {
					kept++
				}
			}
			if (kept == 4) != keeps {
				t.Errorf("%s: %d of 4 ports kept", random, kept)
			}
		}
	})
}

// TestIptablesNodePort connects to a node port of a pod on the other ENI, through the primary
// and through the second one, in both families and with each kind of kube-proxy's rules,
// made before and after ours.
func TestIptablesNodePort(t *testing.T) {
	c := base(func(c *snat.Config) { c.Returns = []snat.Return{{Link: "ens6", Mark: 1}} })
	for _, family := range []struct {
		name                   string
		node, pod, other, peer netip.Addr
		link                   string
	}{
		{"IPv4", node1, podB, node2, fabric.PeerAddr, "ens5"},
		{"IPv6", node16, podB6, node26, fabric.PeerAddr6, "ens5"},
		{"second ENI", second, podA, node2, fabric.PeerAddr, "ens6"},
	} {
		for _, masquerade := range []bool{false, true} {
			p := proxy{daddr: family.node, port: 30007, to: family.pod, masquerade: masquerade}
			for mode, install := range p.modes() {
				t.Run(fmt.Sprintf("%s/%s/masquerade=%v", family.name, mode, masquerade), func(t *testing.T) {
					variants(t, func(t *testing.T, w *world, h *iptables.Handle) {
						if masquerade {
							applyIptables(t, h, c, true)
						}
						install(t, w.node)
						if !masquerade {
							applyIptables(t, h, c, true)
						}
						for _, client := range []struct {
							ns   *fabric.Netns
							addr netip.Addr
						}{{w.other, family.other}, {w.Peer(), family.peer}} {
							want := client.addr
							if masquerade {
								want = node1
								if family.pod.Is6() {
									want = node16
								}
							}
							check := w.watch(t, family.link)
							w.asks(t, client.ns, client.addr, netip.AddrPortFrom(family.node, 30007), want)
							check(client.addr)
						}
					})
				})
			}
		}
	}
}

// TestIptablesReversePathFilter sets each value of rp_filter on the ENIs.
func TestIptablesReversePathFilter(t *testing.T) {
	for value, passes := range map[string]bool{"0": true, "1": false, "2": true} {
		t.Run(value, func(t *testing.T) {
			variants(t, func(t *testing.T, w *world, h *iptables.Handle) {
				for _, link := range []string{"ens5", "ens6"} {
					if err := w.node.Sysctl("ipv4/conf/"+link+"/rp_filter", value); err != nil {
						t.Fatal(err)
					}
				}
				applyIptables(t, h, base(nil), true)
				proxy{daddr: node1, port: 30007, to: podB}.iptables(string(h.Variant()))(t, w.node)
				want, wantClient := node1, fabric.InternetAddr
				if !passes {
					want, wantClient = netip.Addr{}, netip.Addr{}
				}
				w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), want)
				w.asks(t, w.Internet(), fabric.InternetAddr, netip.AddrPortFrom(node1, 30007), wantClient)
				w.asks(t, w.a, podA, echoAt(fabric.InternetAddr), node1)
			})
		})
	}
}

// TestIptablesClusterIP connects to a Service from a pod on the second ENI, with the rules of
// kube-proxy before and after ours. Endpoints in the VPC are reached, and those outside are
// not, as the limits of the ruleset say. Services of a kube-proxy in nftables mode need their
// prefix excluded.
func TestIptablesClusterIP(t *testing.T) {
	service := netip.MustParseAddr("172.20.0.10")
	excluding := base(func(c *snat.Config) { c.Excluded = prefixes("172.20.0.0/16") })
	for _, first := range []string{"ours", "theirs"} {
		for mode, install := range (proxy{daddr: service, port: 80, to: node2}).modes() {
			t.Run(first+" first/"+mode, func(t *testing.T) {
				variants(t, func(t *testing.T, w *world, h *iptables.Handle) {
					c := base(nil)
					if mode != "iptables-"+string(h.Variant()) {
						c = excluding
					}
					if first == "ours" {
						applyIptables(t, h, c, true)
					}
					install(t, w.node)
					// A rule that another program appends comes after our jump, which Apply moves.
					applyIptables(t, h, c, first != "ours" || mode == "iptables-"+string(h.Variant()))
					check := w.watch(t, "ens6")
					w.asks(t, w.b, podB, netip.AddrPortFrom(service, 80), podB)
					check(node2)
					w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), node1)
				})
			})
		}
	}
	for mode, install := range (proxy{daddr: service, port: 80, to: fabric.InternetAddr}).modes() {
		t.Run("endpoint outside/"+mode, func(t *testing.T) {
			variants(t, func(t *testing.T, w *world, h *iptables.Handle) {
				install(t, w.node)
				applyIptables(t, h, excluding, true)
				w.asks(t, w.a, podA, netip.AddrPortFrom(service, 80), node1)
				w.asks(t, w.b, podB, netip.AddrPortFrom(service, 80), netip.Addr{}) // the first of Limits
			})
		})
	}
}

// backend is a backend of the translation.
type backend interface {
	apply(c snat.Config) error
}

type nftablesBackend struct {
	t  testing.TB
	w  *world
	ns *fabric.Netns
}

func (b nftablesBackend) apply(c snat.Config) error {
	if _, err := b.w.snat.Apply(b.t.Context(), ruleset(b.t, c)); err != nil {
		return err
	}
	return iptables.Clear(b.t.Context(), iptables.Config{Netns: b.ns.Path(), Within: time.Minute})
}

type iptablesBackend struct {
	t testing.TB
	w *world
	h *iptables.Handle
}

func (b iptablesBackend) apply(c snat.Config) error {
	if _, err := b.h.Apply(b.t.Context(), iptablesRuleset(b.t, c)); err != nil {
		return err
	}
	return b.w.snat.Remove(b.t.Context())
}

// backends are the backends, with the variants of iptables.
var backends = []string{"nftables", "nft", "legacy"}

// backend opens one of backends.
func (w *world) backend(t *testing.T, name string) backend {
	t.Helper()
	if name == "nftables" {
		return nftablesBackend{t, w, w.node}
	}
	return iptablesBackend{t, w, openIptables(t, w.node, iptables.Variant(name))}
}

// TestSwitch changes from each backend to each other, while flows are open: into the
// internet, and by a node port. Open flows keep their source, new ones work, and nothing of
// the old backend is left.
func TestSwitch(t *testing.T) {
	for _, from := range backends {
		for _, to := range backends {
			if from == to {
				continue
			}
			t.Run(from+" to "+to, func(t *testing.T) {
				w := newWorld(t)
				if err := w.backend(t, from).apply(base(nil)); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				say := w.conversation(ctx, t, fabric.InternetAddr)
				before := say()
				if before.Addr() != node1 {
					t.Fatalf("the server saw %v, want %v", before, node1)
				}
				next := w.backend(t, to)
				for range 3 { // an Apply of rules that are in place changes nothing
					if err := next.apply(base(nil)); err != nil {
						t.Fatal(err)
					}
					if got := say(); got != before {
						t.Errorf("the source of the flow is %v, before %v", got, before)
					}
				}
				w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), node1)
				for name, text := range w.leftovers(t) {
					if (name == to) != strings.Contains(text, "VPCNET-") && name != "nftables" {
						t.Errorf("rules of %s:\n%s", name, text)
					}
				}
				if got := observe(t, w.snat).String(); (to == "nftables") != (got != "") {
					t.Errorf("table of nftables:\n%s", got)
				}
			})
		}
	}
}

// leftovers returns the tables of both variants.
func (w *world) leftovers(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, v := range []string{"nft", "legacy"} {
		texts[v] = tool(t, w.node, "", "iptables-"+v+"-save") + tool(t, w.node, "", "ip6tables-"+v+"-save")
	}
	return texts
}

// TestIptablesChangeUnderLoad changes the translation while a pod opens flows: none of them
// meets a part of the rules.
func TestIptablesChangeUnderLoad(t *testing.T) {
	variants(t, func(t *testing.T, w *world, h *iptables.Handle) {
		change := base(func(c *snat.Config) { c.Excluded = prefixes("192.168.0.0/16") })
		applyIptables(t, h, base(nil), true)
		w.asks(t, w.a, podA, echoAt(fabric.InternetAddr), node1)
		inside := capture(t, w.other, "ens5")
		stop := w.openFlows(t, fabric.InternetAddr, node2)
		for range 20 {
			applyIptables(t, h, change, true)
			applyIptables(t, h, base(nil), true)
		}
		stop()
		for _, f := range inside() {
			if f.Src.Addr() == node1 {
				t.Fatalf("%v came to a node of the VPC with another address than the pod's", f)
			}
		}
		drops, err := w.Drops()
		if err != nil {
			t.Fatal(err)
		}
		if drops.InternetGateway > 0 {
			t.Errorf("%d packets reached the internet gateway with the address of the pod", drops.InternetGateway)
		}
	})
}

// TestIptablesConcurrent applies rules from fifty goroutines at once, with two handles, and
// then from both to empty chains, again and again. At the end of each the chains hold one of
// the rulesets, with each jump once.
func TestIptablesConcurrent(t *testing.T) {
	variants(t, func(t *testing.T, w *world, h *iptables.Handle) {
		handles := []*iptables.Handle{h, openIptables(t, w.node, h.Variant())}
		rules := []snat.IptablesRuleset{iptablesRuleset(t, base(nil)), iptablesRuleset(t, configs["excluded"])}
		atOnce := func(calls int) {
			t.Helper()
			var group sync.WaitGroup
			for i := range calls {
				group.Go(func() {
					if _, err := handles[i%2].Apply(t.Context(), rules[i/2%2]); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			got, err := h.Observe(t.Context())
			if err != nil || !got.Equal(rules[0]) && !got.Equal(rules[1]) {
				t.Errorf("the chains hold none of the rulesets: %v\n%s", err, got)
			}
		}
		atOnce(50)
		for range 10 {
			if err := h.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			atOnce(2)
		}
		for _, r := range rules {
			if _, err := h.Apply(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if got, err := h.Observe(t.Context()); err != nil || !got.Equal(r) {
				t.Errorf("%v, (-want +got):\n%s", err, cmp.Diff(r.String(), got.String()))
			}
		}
	})
}
