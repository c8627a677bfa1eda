// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate"
)

// vpcNode is an instance of a fabric with a pod on each of its ENIs.
type vpcNode struct {
	ns   *fabric.Netns
	want datapath.Node
	pods []datapath.Pod
}

const fabricPort = 4321

// newVPC makes a VPC of two nodes in two subnets. Each has a primary ENI with
// single addresses and, on another network card, one with prefixes.
func newVPC(t *testing.T, layout datapath.Layout) (*fabric.Fabric, []*vpcNode) {
	t.Helper()
	isolate.Require(t)
	f, err := fabric.New(t.Context(), fabric.Config{VPC: prefixes("10.0.0.0/16", "2001:db8:1::/56")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	var nodes []*vpcNode
	for i := range 2 {
		nodes = append(nodes, newVPCNode(t, f, i, layout))
	}
	return f, nodes
}

func newVPCNode(t *testing.T, f *fabric.Fabric, i int, layout datapath.Layout) *vpcNode {
	t.Helper()
	name, subnet := fmt.Sprintf("node-%d", i), fmt.Sprintf("subnet-%d", i)
	p4, p6 := fmt.Sprintf("10.0.%d.", i), fmt.Sprintf("2001:db8:1:%d", i)
	if err := f.AddSubnet(fabric.Subnet{ID: subnet, Prefixes: prefixes(p4+"0/24", p6+"::/64")}); err != nil {
		t.Fatal(err)
	}
	ns, err := f.AddInstance(name)
	if err != nil {
		t.Fatal(err)
	}
	n := &vpcNode{ns: ns, want: datapath.Node{Layout: layout}}
	for card := range 2 {
		own4, own6 := fmt.Sprintf("%s%d", p4, 10+card), fmt.Sprintf("%s::%d", p6, 10+card)
		blocks := prefixes(fmt.Sprintf("%s%d/28", p4, 32+16*card), fmt.Sprintf("%s:%x::/80", p6, 10+card))
		e := fabric.ENI{
			ID: fmt.Sprintf("eni-%d-%d", i, card), Instance: name, Card: card, Subnet: subnet,
			MAC: net.HardwareAddr{6, 0, 0, 0, byte(i), byte(card)}, Addr: netip.MustParseAddr(own4),
			Addrs: []netip.Addr{netip.MustParseAddr(own6)}, Prefixes: blocks, Public: card == 0,
		}
		if err := f.Attach(e); err != nil {
			t.Fatal(err)
		}
		n.want.ENIs = append(n.want.ENIs, datapath.ENI{
			ID: e.ID, MAC: e.MAC, Card: card, Addrs: prefixes(own4+"/24", own6+"/64"), Sources: blocks,
		})
		n.pods = append(n.pods, datapath.Pod{
			ContainerID: fmt.Sprintf("pod-%d-%d", i, card), IfName: "eth0", Layout: layout, MTU: 9001,
			Addrs: []datapath.PodAddr{
				{Addr: blocks[0].Addr().Next(), Table: datapath.Table(card, 0)},
				{Addr: blocks[1].Addr().Next(), Table: datapath.Table(card, 0)},
			},
		})
	}
	if err := f.Boot(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	n.setUp(t, f)
	return n
}

// setUp makes the node's network and wires its pods.
func (n *vpcNode) setUp(t *testing.T, f *fabric.Fabric) {
	t.Helper()
	h, err := datapath.Open(n.ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	if err := h.EnsureNode(t.Context(), n.want); err != nil {
		t.Fatal(err)
	}
	if err := f.WaitUp(t.Context(), n.want.ENIs[1].ID); err != nil {
		t.Fatal(err)
	}
	for i := range n.pods {
		n.pods[i].Netns = newNetns(t)
		if _, err := h.AddPod(t.Context(), n.pods[i]); err != nil {
			t.Fatal(err)
		}
	}
}

func open(t *testing.T, path string) *fabric.Netns {
	t.Helper()
	ns, err := fabric.OpenNetns(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// end is one end of a flow: a pod or a node.
type end struct {
	name  string
	ns    *fabric.Netns
	addrs []netip.Addr
	pod   bool
}

// ends are all pods and nodes, and the peer network, each with an echo.
func ends(t *testing.T, f *fabric.Fabric, nodes []*vpcNode) []end {
	t.Helper()
	var all []end
	for _, n := range nodes {
		e := end{name: n.ns.Name(), ns: n.ns}
		for _, a := range n.want.ENIs[0].Addrs {
			e.addrs = append(e.addrs, a.Addr())
		}
		all = append(all, e)
		for _, p := range n.pods {
			e := end{name: p.ContainerID, ns: open(t, p.Netns), pod: true}
			for _, a := range p.Addrs {
				e.addrs = append(e.addrs, a.Addr)
			}
			all = append(all, e)
		}
	}
	all = append(all, end{name: "peer", ns: f.Peer(), addrs: []netip.Addr{fabric.PeerAddr, fabric.PeerAddr6}})
	for _, e := range all {
		for _, a := range e.addrs {
			stop, err := e.ns.Echo(t.Context(), netip.AddrPortFrom(a, fabricPort))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(stop)
		}
	}
	return all
}

// TestFabric sends packets between every two of four pods on two nodes, the nodes
// and a network beyond the VPC, over TCP and UDP in both families. Sources stay as
// they are, and the VPC, which knows which ENI owns what, drops nothing.
func TestFabric(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			f, nodes := newVPC(t, layout)
			all := ends(t, f, nodes)
			for _, from := range all {
				for _, to := range all {
					if !from.pod && !to.pod || from.name == to.name {
						continue
					}
					for i := range from.addrs {
						for _, network := range []string{"tcp", "udp"} {
							askAcross(t, network, from, to, i)
						}
					}
				}
			}
			wantDrops(t, f, 0)
		})
	}
}

// askAcross asks from one end's i-th address to the other's.
func askAcross(t *testing.T, network string, from, to end, i int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	seen, err := from.ns.Ask(ctx, network, netip.AddrPortFrom(from.addrs[i], 0), netip.AddrPortFrom(to.addrs[i], fabricPort))
	if err != nil || seen.Addr() != from.addrs[i] {
		t.Errorf("%s from %s %s to %s %s: seen as %v, %v", network, from.name, from.addrs[i], to.name, to.addrs[i], seen, err)
	}
}

// TestFabricSpoof sends packets with every address but the pod's own from each
// pod: none of them may reach the VPC, which would count it.
func TestFabricSpoof(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			f, nodes := newVPC(t, layout)
			all := ends(t, f, nodes)
			for _, from := range all {
				for _, victim := range all {
					if !from.pod || victim.name == from.name {
						continue
					}
					for i := range from.addrs {
						to := []netip.Addr{fabric.PeerAddr, fabric.PeerAddr6}[i]
						err := from.ns.Send(netip.AddrPortFrom(victim.addrs[i], 999), netip.AddrPortFrom(to, fabricPort), []byte("x"))
						if err != nil {
							t.Errorf("%s as %s: %v", from.name, victim.addrs[i], err)
						}
					}
				}
			}
			// A packet after them, so that all have been where they could get.
			peer := all[len(all)-1]
			askAcross(t, "udp", all[1], peer, 0)
			wantDrops(t, f, 0)
			// The same without our table: the test would have seen it.
			on(t, nodes[0].ns.Path(), func() error {
				c, err := nftables.New()
				if err != nil {
					return err
				}
				c.FlushRuleset()
				return c.Flush()
			})
			other := netip.AddrPortFrom(all[4].addrs[1], 999) // rp_filter knows only IPv4
			if err := all[1].ns.Send(other, netip.AddrPortFrom(peer.addrs[1], fabricPort), []byte("x")); err != nil {
				t.Error(err)
			}
			askAcross(t, "udp", all[1], peer, 0)
			wantDrops(t, f, 1)
		})
	}
}

// wantDrops wants the VPC to have dropped so many packets for their source.
func wantDrops(t *testing.T, f *fabric.Fabric, want uint64) {
	t.Helper()
	drops, err := f.Drops()
	if err != nil {
		t.Fatal(err)
	}
	var got uint64
	for _, n := range drops.Spoofed {
		got += n
	}
	if got != want {
		t.Errorf("the VPC dropped %v for their source, want %d", drops.Spoofed, want)
	}
}
