// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/internal/fabric"
)

// serviceKinds are the kinds of pods whose packets from and to the world the
// node routes, so that it can rewrite them.
func (s *suite) serviceKinds() (kinds []podKind) {
	for _, k := range s.kinds {
		if s.way(&end{kind: k}) == byNode {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

// services makes, as kube-proxy does, a node port for each pod of the host and
// a service whose only endpoint is the host outside.
func (s *suite) services(t *testing.T, h *host) {
	t.Helper()
	var text strings.Builder
	for family, name := range []string{"ip", "ip6"} {
		fmt.Fprintf(&text, "table %s kube-proxy {\n\tchain services {\n\t\ttype nat hook prerouting priority dstnat;\n", name)
		for i, k := range s.serviceKinds() {
			to := netip.AddrPortFrom(h.pods[k.name].addrs[family], fabric.EchoPort)
			fmt.Fprintf(&text, "\t\tfib daddr type local meta l4proto { tcp, udp } th dport %d dnat to %v\n", nodePort(i), to)
		}
		fmt.Fprintf(&text, "\t\t%s daddr %v meta l4proto { tcp, udp } th dport %d dnat to %v\n\t}\n}\n",
			name, serviceAddrs[family], fabric.EchoPort, netip.AddrPortFrom(outsideAddrs[family], fabric.EchoPort))
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("needs the program nft: %v", err)
	}
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), "nft", "-f", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text.String()), &out, &out
	err := h.ns.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("nft: %v\n%s%s", err, &text, &out)
	}
}

func nodePort(i int) uint16 { return uint16(30000 + i) }

var (
	serviceAddrs = [2]netip.Addr{ip("172.20.0.10"), ip("fd00:20::10")}
	outsideAddrs = [2]netip.Addr{fabric.InternetAddr, fabric.InternetAddr6}
	peerAddrs    = [2]netip.Addr{fabric.PeerAddr, fabric.PeerAddr6}
)

// nodePorts comes in through node ports, and goes out through a service with
// an endpoint outside the VPC.
func (s *suite) nodePorts(t *testing.T) {
	near, far := s.hosts[0], s.hosts[1]
	s.services(t, near)
	byPrimary, bySecond := capture(t, near.ns, "ens5"), capture(t, near.ns, "ens6")
	for family := range 2 {
		for i, k := range s.serviceKinds() {
			for _, client := range []struct {
				ns   *fabric.Netns
				addr netip.Addr
			}{
				{far.ns, far.addrs[family]},
				{far.pods["second"].ns, far.pods["second"].addrs[family]},
				{s.Internet(), outsideAddrs[family]},
				{s.Peer(), peerAddrs[family]},
			} {
				t.Run(fmt.Sprintf("IPv%d/%s to node port of %s pod", 4+2*family, client.ns.Name(), k.name), func(t *testing.T) {
					asksAt(t, client.ns, client.addr, netip.AddrPortFrom(near.addrs[family], nodePort(i)), client.addr)
					pod := near.pods[k.name].addrs[family]
					if len(between(t, byPrimary, client.addr, near.addrs[family])) == 0 {
						t.Error("no packets by the primary ENI")
					}
					if got := between(t, bySecond, client.addr, near.addrs[family], pod); len(got) != 0 {
						t.Errorf("by the second ENI:\n%s", strings.Join(got, "\n"))
					}
				})
			}
		}
	}
	for family := range 2 {
		for _, k := range s.serviceKinds() {
			t.Run(fmt.Sprintf("IPv%d/%s pod to a service outside", 4+2*family, k.name), func(t *testing.T) {
				want := near.pods[k.name].addrs[family]
				if family == 0 {
					want = near.addrs[0]
				}
				asksAt(t, near.pods[k.name].ns, near.pods[k.name].addrs[family], netip.AddrPortFrom(serviceAddrs[family], fabric.EchoPort), want)
			})
		}
	}
	wantSpoofed(t, s.Fabric)
}
