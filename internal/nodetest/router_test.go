// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// TestForgedRouter runs a pod that claims to be the gateway of its node, by advertisements to
// all nodes and to the node alone: with the gateway's address and the pod's MAC, with a router
// lifetime of zero that would end the default route, and with a better router preference.
// The frames reach the node, but the node and the other pods keep their way.
func TestForgedRouter(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"IPv6", "dual-stack"} {
		for _, layout := range layouts {
			t.Run(name+"/"+layout, func(t *testing.T) {
				vpc := vpctest.New(t)
				env := maps.Clone(families[name].env)
				env["WARM_ENI_TARGET"], env["WARM_IP_TARGET"], env["VPCNET_LAYOUT"] = "0", "1", layout
				node, other := Start(t, vpc.Node(t, "t3.small"), Config{Env: env}), Start(t, vpc.Node(t, "t3.small"), Config{Env: env})
				attacker, victim, target := node.AddPod(t), node.AddPod(t), other.AddPod(t)
				node.Eventually(t, func() error { // the routes of a new ENI are not the pod's work
					if s := node.Status(t); len(s.InFlight) > 0 {
						return fmt.Errorf("under way: %v", s.InFlight)
					}
					return nil
				})
				gateway, mac := gatewayOf(t, node)
				before := routesOf(t, node, []*Pod{victim})

				host := hostLink(attacker)
				capture := node.Capture(t, host)
				frames := routerForgeries(t, attacker, node, host, gateway)
				for range 3 {
					for _, f := range frames {
						sendFrame(t, attacker, linkOf(t, attacker), f)
					}
					keepTheirWay(t, node, victim, target)
				}
				node.Eventually(t, func() error {
					forged := slices.DeleteFunc(capture.Packets(t), func(p vpctest.Packet) bool {
						return p.Protocol != 58 || p.Src.Addr() != gateway
					})
					if len(forged) < 3*len(frames) {
						return fmt.Errorf("%d forged frames on %s, want %d", len(forged), host, 3*len(frames))
					}
					return nil
				})
				if after := routesOf(t, node, []*Pod{victim}); after != before {
					t.Errorf("routes and neighbours before:\n%safter:\n%s", before, after)
				}
				if is, now := gatewayOf(t, node); is != gateway || now != mac {
					t.Errorf("the gateway is %v at %v, want %v at %v", is, now, gateway, mac)
				}
				if learned := node.Node.Run(t, "ip", "-6", "neigh", "show", gateway.String(), "dev", host); learned != "" {
					t.Errorf("the node believes that the gateway is at the pod: %s", learned)
				}
				wantNoDrops(t, vpc)
			})
		}
	}
}

// keepTheirWay checks by packets that the node, a pod on it and a pod on another node reach
// each other and the internet.
func keepTheirWay(t *testing.T, node *Node, victim, target *Pod) {
	t.Helper()
	node.Ping(t, vpctest.InternetAddr6)
	internet := netip.AddrPortFrom(vpctest.InternetAddr6, vpctest.EchoPort)
	for _, p := range []*Pod{victim, target} {
		if got := p.Ask(t, "tcp", internet).Addr(); got != v6(p) {
			t.Errorf("the internet sees %v, want %v", got, v6(p))
		}
	}
	if got := target.Ask(t, "udp", netip.AddrPortFrom(v6(victim), vpctest.EchoPort)).Addr(); got != v6(target) {
		t.Errorf("the pod on the node sees %v, want %v", got, v6(target))
	}
	if got := victim.Ask(t, "udp", netip.AddrPortFrom(v6(target), vpctest.EchoPort)).Addr(); got != v6(victim) {
		t.Errorf("the pod on the other node sees %v, want %v", got, v6(victim))
	}
}

// gatewayOf returns the address and the MAC of the node's IPv6 gateway.
func gatewayOf(t *testing.T, n *Node) (netip.Addr, string) {
	t.Helper()
	n.Ping(t, vpctest.InternetAddr6) // the node then knows the MAC
	route := regexp.MustCompile(`default via (\S+) dev (\S+)`).FindStringSubmatch(n.Node.Run(t, "ip", "-6", "route", "show", "default"))
	if route == nil {
		t.Fatal("the node has no IPv6 default route")
	}
	neighbour := n.Node.Run(t, "ip", "-6", "neigh", "show", route[1], "dev", route[2])
	mac := regexp.MustCompile(`lladdr (\S+)`).FindStringSubmatch(neighbour)
	if mac == nil {
		t.Fatalf("the node does not know its gateway: %q", neighbour)
	}
	return netip.MustParseAddr(route[1]), mac[1]
}

// hostLink returns the name of the host side of a pod.
func hostLink(p *Pod) string {
	for _, i := range p.Result.Interfaces {
		if i.Sandbox == "" {
			return i.Name
		}
	}
	return ""
}

// routerForgeries are frames with which a pod claims to be the gateway of its node, each to
// all nodes and to the MAC of the host side alone.
func routerForgeries(t *testing.T, p *Pod, n *Node, host string, gateway netip.Addr) (frames [][]byte) {
	t.Helper()
	mac := linkOf(t, p).HardwareAddr
	var hostMAC net.HardwareAddr
	n.Do(t, func() error {
		l, err := net.InterfaceByName(host)
		if err == nil {
			hostMAC = l.HardwareAddr
		}
		return err
	})
	allNodes := netip.MustParseAddr("ff02::1")
	option := slices.Concat([]byte{2, 1}, mac)
	source := slices.Concat([]byte{1, 1}, mac)
	router := func(flags byte, lifetime ...byte) []byte {
		return slices.Concat([]byte{64, flags}, lifetime, make([]byte, 8), source)
	}
	for _, f := range []struct {
		kind byte
		body []byte
	}{
		{134, router(0, 0, 0)},          // the gateway is no router any more
		{134, router(0x08, 0xff, 0xff)}, // a router of high preference
		{136, slices.Concat([]byte{0xa0, 0, 0, 0}, gateway.AsSlice(), option)}, // router, override
		{136, slices.Concat([]byte{0xe0, 0, 0, 0}, gateway.AsSlice(), option)}, // and solicited
		{136, slices.Concat([]byte{0x20, 0, 0, 0}, gateway.AsSlice(), option)}, // no router, override
	} {
		frames = append(frames,
			icmp6(mac, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, gateway, allNodes, f.kind, f.body),
			icmp6(mac, hostMAC, gateway, allNodes, f.kind, f.body),
			icmp6(mac, hostMAC, gateway, n.Addr6, f.kind, f.body))
	}
	return frames
}
