// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/snat"
)

// newServiceNode adds instance i, in the layout Flat, with what a node of a cluster runs
// beside its pods: the translation of package snat, and the tables of a proxy for Services.
// It returns the node and the namespace of a pod.
func newServiceNode(b testing.TB, f *fabric.Fabric, i int) (n *node, p datapath.Pod, pod *fabric.Netns) {
	b.Helper()
	n = newNode(b, f, i, datapath.Flat)
	n.run(0)
	p, pod = n.run(senderPod)
	n.translate()
	inNamespace(b, n.ns, serviceTables(200), "nft", "-f", "-")
	return n, p, pod
}

// newAccelerated adds instance i, a service node that accelerates the flows of its pod. It
// returns false if the kernel cannot do that.
func newAccelerated(b testing.TB, f *fabric.Fabric, i int) (*fabric.Netns, bool) {
	b.Helper()
	n, p, pod := newServiceNode(b, f, i)
	if err := n.h.Accelerates(b.Context()); err != nil {
		b.Logf("no row with accelerated flows: %v", err)
		return nil, false
	}
	n.want.Accelerate = true
	if err := n.h.EnsureNode(b.Context(), n.want); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- n.h.Watch(ctx, datapath.WatchConfig{Desired: func() datapath.Desired { return datapath.Desired{Node: n.want, Pods: []datapath.Pod{p}} }})
	}()
	for there := false; !there; time.Sleep(10 * time.Millisecond) {
		s, err := n.h.Observe(ctx)
		if err != nil {
			b.Fatal(err)
		}
		there = slices.Contains(s.Flows.Links, netstate.FlowLink{Name: p.HostLink()})
	}
	cancel()
	<-done
	return pod, true
}

// translate configures package snat on the node.
func (n *node) translate() {
	n.b.Helper()
	rules, err := snat.Config{
		NodeAddrs: []netip.Addr{n.want.ENIs[0].Addrs[0].Addr()}, PrimaryLink: "ens5",
		VPC: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, NodePort: true,
		Mark: datapath.MarkPrimary, ReturnMask: datapath.MarkENI,
	}.Ruleset()
	if err != nil {
		n.b.Fatal(err)
	}
	h, err := snat.Open(n.ns.Path())
	if err != nil {
		n.b.Fatal(err)
	}
	defer h.Close()
	if _, err := h.Apply(n.b.Context(), rules); err != nil {
		n.b.Fatal(err)
	}
}

// serviceTables returns the tables of a proxy for so many Services in the notation of nft,
// with one endpoint each, in the shape of those of kube-proxy in its mode nftables: maps of
// Services and of node ports to chains, hooks before the translation that look at the first
// packet of a connection, and the masquerading of marked connections
// (https://kubernetes.io/docs/reference/networking/virtual-ips/#proxy-mode-nftables).
func serviceTables(services int) string {
	var chains, addrs, ports strings.Builder
	for k := range services {
		fmt.Fprintf(&chains, "\tchain service-%d { ip saddr != 10.0.0.0/8 jump mark-for-masquerade; meta l4proto tcp dnat to 10.200.%d.%d:8080; }\n", k, k/250, k%250+1)
		fmt.Fprintf(&addrs, "172.20.%d.%d . tcp . 80 : goto service-%d, ", k/250, k%250+1, k)
		fmt.Fprintf(&ports, "tcp . %d : goto service-%d, ", 30000+k, k)
	}
	return `table ip proxy {
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	map service-nodeports { type inet_proto . inet_service : verdict; }
	map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
	map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	set cluster-ips { type ipv4_addr; }
	chain mark-for-masquerade { meta mark set meta mark | 0x4000; }
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport vmap @service-nodeports
	}
	chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
	chain endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
	chain cluster-ips-check { ip daddr @cluster-ips drop; }
	chain masquerading {
		meta mark & 0x4000 == 0 return
		meta mark set meta mark ^ 0x4000
		masquerade fully-random
	}
	chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump firewall-check; }
	chain filter-forward {
		type filter hook forward priority -110
		ct state new jump endpoints-check
		ct state new jump cluster-ips-check
	}
	chain filter-input { type filter hook input priority -110; ct state new jump endpoints-check; }
	chain filter-output { type filter hook output priority -110; ct state new jump endpoints-check; }
	chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
	chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }
` + chains.String() + `}
add element ip proxy service-ips { ` + addrs.String() + ` }
add element ip proxy service-nodeports { ` + ports.String() + ` }
add element ip proxy cluster-ips { 172.20.0.1 }
`
}

// bareHop adds instance i, without pods and without package datapath: its packets to the
// router cross one veth pair.
func bareHop(b testing.TB, f *fabric.Fabric, i int) *fabric.Netns {
	b.Helper()
	name := fmt.Sprintf("node-%d", i)
	ns, err := f.AddInstance(name)
	if err != nil {
		b.Fatal(err)
	}
	err = f.Attach(fabric.ENI{
		ID: name, Instance: name, Subnet: "subnet-a", MAC: net.HardwareAddr{6, 0, 0, 0, byte(i), 0}, Addr: netip.AddrFrom4([4]byte{10, 1, byte(i), 10}),
	})
	if err == nil {
		err = f.Boot(b.Context(), name)
	}
	if err != nil {
		b.Fatal(err)
	}
	return ns
}
