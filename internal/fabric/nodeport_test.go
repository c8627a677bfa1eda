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

// serviceKinds returns the kinds of pods that can be endpoints of services: the
// node routes all their packets, so that it can rewrite them.
func (s *suite) serviceKinds() (kinds []podKind) {
	for _, k := range s.kinds {
		if s.localPath(&end{kind: k}) == viaNode {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

// services adds the rules of services on a host, as kube-proxy does: a node port for
// each of its pods, a node port for each pod of the other host, with the address of
// the node as source, and a service that has the internet host as its only endpoint.
func (s *suite) services(t *testing.T, h, far *host) {
	t.Helper()
	var text strings.Builder
	for family, name := range []string{"ip", "ip6"} {
		fmt.Fprintf(&text, "table %s kube-proxy {\n\tchain services {\n\t\ttype nat hook prerouting priority dstnat;\n", name)
		port := func(number uint16, mark string, pod *suitePod) {
			to := netip.AddrPortFrom(pod.addrs[family], fabric.EchoPort)
			fmt.Fprintf(&text, "\t\tfib daddr type local meta l4proto { tcp, udp } th dport %d %s dnat to %v\n", number, mark, to)
		}
		for i, k := range s.serviceKinds() {
			port(nodePort(i), "", h.pods[k.name])
			port(farPort(i), "meta mark set meta mark | 0x4000", far.pods[k.name])
		}
		fmt.Fprintf(&text, "\t\t%s daddr %v meta l4proto { tcp, udp } th dport %d dnat to %v\n\t}\n",
			name, serviceAddrs[family], fabric.EchoPort, netip.AddrPortFrom(outsideAddrs[family], fabric.EchoPort))
		text.WriteString("\tchain masquerading {\n\t\ttype nat hook postrouting priority srcnat;\n\t\tmeta mark & 0x4000 == 0x4000 masquerade\n\t}\n}\n")
	}
	nft(t, h.ns, text.String())
}

// nft loads rules into the kernel of a namespace.
func nft(t *testing.T, ns *fabric.Netns, text string) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("needs the program nft: %v", err)
	}
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), "nft", "-f", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &out
	err := ns.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("nft: %v\n%s%s", err, text, &out)
	}
}

func nodePort(i int) uint16 { return uint16(30000 + i) }
func farPort(i int) uint16  { return uint16(30100 + i) }

var (
	serviceAddrs = [2]netip.Addr{ip("172.20.0.10"), ip("fd00:20::10")}
	outsideAddrs = [2]netip.Addr{fabric.InternetAddr, fabric.InternetAddr6}
	peerAddrs    = [2]netip.Addr{fabric.PeerAddr, fabric.PeerAddr6}
)

// nodePorts connects to node ports at the address of each ENI, and from pods to a
// service with an endpoint outside the VPC.
func (s *suite) nodePorts(t *testing.T) {
	near, far := s.hosts[0], s.hosts[1]
	s.services(t, near, far)
	captures := s.captures(t)
	for _, q := range s.requests() {
		t.Run(q.String(), func(t *testing.T) { s.askNodePort(t, q, captures) })
	}
	for family := range 2 {
		for _, k := range s.serviceKinds() {
			t.Run(fmt.Sprintf("IPv%d/%s pod to a service outside", 4+2*family, k.name), func(t *testing.T) {
				want := near.pods[k.name].addrs[family]
				if family == 0 {
					want = near.addrs[0]
				}
				wantSourceAt(t, near.pods[k.name].ns, near.pods[k.name].addrs[family], netip.AddrPortFrom(serviceAddrs[family], fabric.EchoPort), want)
			})
		}
	}
	if s.has("branch") {
		s.branchService(t, near)
	}
	wantSpoofed(t, s.Fabric)
}

// branchService connects from a pod on a branch ENI to a service that has another
// branch pod of the same node as its endpoint. Under Strict the node sees such a
// connection twice, to the service and to the pod, and the answers of both have the
// same addresses and ports.
func (s *suite) branchService(t *testing.T, h *host) {
	const port = 99
	a, b := h.pods["branch"], h.pods["branch-sibling"]
	for family, name := range []string{"ip", "ip6"} {
		to := netip.AddrPortFrom(b.addrs[family], fabric.EchoPort)
		nft(t, h.ns, fmt.Sprintf("add rule %s kube-proxy services %s daddr %v meta l4proto { tcp, udp } th dport %d dnat to %v",
			name, name, serviceAddrs[family], port, to))
		wantSourceAt(t, a.ns, a.addrs[family], netip.AddrPortFrom(serviceAddrs[family], port), a.addrs[family])
	}
}

// request is a request to a node port of the first node, at its address on an ENI.
type request struct {
	from, pod *end
	eni       int
	port      uint16
	family    int
}

func (q request) String() string {
	return fmt.Sprintf("IPv%d/%s by ENI %d to %s of %s", 4+2*q.family, q.from.name, q.eni, q.pod.name, q.pod.host.name)
}

func (s *suite) requests() (all []request) {
	near, far := s.hosts[0], s.hosts[1]
	for family := range 2 {
		for _, eni := range []int{primary, second, secondCard} {
			for i, k := range s.serviceKinds() {
				for _, from := range []*end{&far.end, &far.pods["second"].end, s.internet, s.peer} {
					all = append(all, request{from, &near.pods[k.name].end, eni, nodePort(i), family})
				}
				all = append(all, request{s.peer, &far.pods[k.name].end, eni, farPort(i), family})
			}
		}
	}
	return all
}

// askNodePort sends the request over UDP and TCP. Request and answer must pass the
// ENI that has the address, and no other ENI. No answer may have the address of the
// pod.
func (s *suite) askNodePort(t *testing.T, q request, captures map[string]*fabric.Capture) {
	t.Helper()
	nodeAddr := [2]netip.Addr{in4(1, eniKinds[q.eni].offset), in6(1, eniKinds[q.eni].offset)}[q.family]
	from, want := q.from.addrs[q.family], q.from.addrs[q.family]
	if q.pod.host == s.hosts[1] {
		want = s.hosts[0].addrs[q.family] // masqueraded
	}
	wantSourceAt(t, q.from.ns, from, netip.AddrPortFrom(nodeAddr, q.port), want)
	for id, c := range captures {
		seen := between(t, c, from, nodeAddr, q.pod.addrs[q.family])
		if (id == eniID(1, q.eni)) != (len(seen) > 0) {
			t.Errorf("packets on %s, want them on %s:\n%s", id, eniID(1, q.eni), strings.Join(seen, "\n"))
		}
	}
}
