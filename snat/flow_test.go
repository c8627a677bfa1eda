// SPDX-License-Identifier: Apache-2.0

//go:build linux

package snat_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

// TestTraceAgrees traces flows with each backend, and sends them through the kernel: the
// server sees the traced source, and they use the traced link.
func TestTraceAgrees(t *testing.T) {
	service, outside := netip.MustParseAddr("172.20.0.10"), netip.MustParseAddr("172.20.0.11")
	cfg := base(func(c *snat.Config) { c.Excluded = prefixes("192.168.0.0/16") })
	for _, name := range []string{"nftables", "nft", "legacy"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			b, kind := snat.Nftables, "legacy"
			if name == "nftables" {
				apply(t, w.snat, cfg, true)
			} else {
				b, kind = snat.Iptables, name
				applyIptables(t, openIptables(t, w.node, iptables.Variant(name)), cfg, true)
			}
			proxy{daddr: service, port: fabric.EchoPort, to: node2}.iptables(kind)(t, w.node)
			proxy{daddr: outside, port: fabric.EchoPort, to: fabric.InternetAddr}.iptables(kind)(t, w.node)
			if b == snat.Iptables { // kube-proxy inserts its rules; these were appended
				applyIptables(t, openIptables(t, w.node, iptables.Variant(name)), cfg, true)
			}
			for _, pod := range []struct {
				ns       *fabric.Netns
				in, out  string
				addr, v6 netip.Addr
			}{{w.a, "eniaaaaaaaaaaa", "ens5", podA, podA6}, {w.b, "enibbbbbbbbbbb", "ens6", podB, podB6}} {
				for _, f := range []snat.Flow{
					{Dst: fabric.InternetAddr}, {Dst: node2}, {Dst: fabric.PeerAddr},
					{Dst: service, Endpoint: node2}, {Dst: outside, Endpoint: fabric.InternetAddr},
					{Src: pod.v6, Dst: fabric.InternetAddr6},
				} {
					f.In, f.Out, f.Protocol, f.Node = pod.in, pod.out, "tcp", addrs("10.0.1.10", "10.0.1.20")
					if !f.Src.IsValid() {
						f.Src = pod.addr
					}
					way, err := cfg.Trace(b, f)
					if err != nil {
						t.Fatal(err)
					}
					far, seen := f.Dst, way.Source
					if f.Endpoint.IsValid() {
						far = f.Endpoint
					}
					if far == fabric.InternetAddr && !way.Translated {
						seen = netip.Addr{} // the internet gateway drops the address of a pod
					}
					check := w.watch(t, way.Out)
					w.asks(t, pod.ns, f.Src, echoAt(f.Dst), seen)
					check(far)
					if t.Failed() {
						t.Fatalf("%+v: %+v", f, way)
					}
				}
			}
		})
	}
}

// TestTraceRules checks the rules that the trace names.
func TestTraceRules(t *testing.T) {
	cfg := base(func(c *snat.Config) { c.Ports = snat.Ports{First: 20000, Last: 29999} })
	flow := snat.Flow{In: "eni1", Out: "ens6", Src: podB, Dst: fabric.InternetAddr, Protocol: "udp", Node: addrs("10.0.1.10")}
	for _, test := range []struct {
		name    string
		backend snat.Backend
		change  func(*snat.Flow)
		want    []string // a part of each rule
	}{
		{"internet", snat.Nftables, nil, []string{"chain pods: iifname \"eni*\" ct state new", "chain pods: iifname \"eni*\" ct mark", "chain source: oifname \"ens5\" ip daddr != @inside fib saddr type != local meta l4proto udp"}},
		{"internet", snat.Iptables, nil, []string{"-A VPCNET-PODS -i eni+ -m conntrack", "-A VPCNET-PODS -i eni+ -m connmark", "-A VPCNET-SOURCE -o ens5 -p udp"}},
		{"VPC", snat.Nftables, func(f *snat.Flow) { f.Dst = node2 }, []string{"set inside: 10.0.0.0/16"}},
		{"VPC", snat.Iptables, func(f *snat.Flow) { f.Dst = node2 }, []string{"-A VPCNET-PODS -d 10.0.0.0/16 -j RETURN"}},
		{"node", snat.Iptables, func(f *snat.Flow) { f.Dst, f.Node = netip.MustParseAddr("203.0.113.77"), addrs("203.0.113.77") }, nil},
		{"Service outside", snat.Iptables, func(f *snat.Flow) { f.Endpoint = fabric.InternetAddr }, nil},
	} {
		f := flow
		if test.change != nil {
			test.change(&f)
		}
		way, err := cfg.Trace(test.backend, f)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(way.Rules, test.want, func(rule, part string) bool { return strings.HasPrefix(rule, part) }) {
			t.Errorf("%s by %s: rules %q, want %q", test.name, test.backend, way.Rules, test.want)
		}
		if ports := (snat.Ports{First: 20000, Last: 29999}); test.name == "internet" && (way.Source != node1 || way.Ports != ports || way.Out != "ens5" || way.Mark != 0x80) {
			t.Errorf("%s by %s: %+v", test.name, test.backend, way)
		}
	}
	if _, err := cfg.Trace("ebtables", flow); err == nil {
		t.Error("an unknown backend has a trace")
	}
	if _, err := (snat.Config{}).Trace(snat.Nftables, flow); err == nil {
		t.Error("a configuration without link has a trace")
	}
}
