// SPDX-License-Identifier: Apache-2.0

package datapathtest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

// nodeName is the name of the lab's instance in its VPC.
const nodeName = "node"

// linkMTU is the MTU of the links of the VPC, in bytes.
const linkMTU = 1500

// Lab is a node with two ENIs in a VPC. The package documentation lists the addresses.
type Lab struct {
	t   testing.TB
	VPC *fabric.Fabric
	// Netns is the namespace of the node.
	Netns *fabric.Netns
	// Handle is open on the node.
	Handle *datapath.Handle
	// Node is the configuration that EnsureNode applies. Tests change it.
	Node datapath.Node
}

// NewLab creates a VPC and a node. The primary ENI is configured as by DHCP; package
// datapath has not configured anything yet.
func NewLab(t testing.TB, layout datapath.Layout) *Lab {
	t.Helper()
	isolatetest.Require(t)
	l := &Lab{t: t, Node: Node(layout)}
	l.Node.ENIs = l.Node.ENIs[:2]
	l.Node.ENIs[1].MTU = 1400
	var err error
	l.VPC, err = fabric.New(t.Context(), fabric.Config{
		VPC: Prefixes("10.0.0.0/16", "2001:db8::/56"),
		Subnets: []fabric.Subnet{
			{ID: "10.0.0.0/24", Prefixes: Prefixes("10.0.0.0/24", "2001:db8:0:1::/64")},
			{ID: "10.0.1.0/24", Prefixes: Prefixes("10.0.1.0/24")},
			{ID: "10.0.2.0/24", Prefixes: Prefixes("10.0.2.0/24", "2001:db8:0:2::/64")},
			{ID: "10.0.7.0/24", Prefixes: Prefixes("10.0.7.0/24", "2001:db8:0:7::/64")},
		},
		MTU:       linkMTU,
		PeerAddrs: []netip.Addr{Outside4, Outside6},
		Dir:       t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.VPC.Close(); err != nil {
			t.Error(err)
		}
	})
	if l.Netns, err = l.VPC.AddInstance(nodeName); err != nil {
		t.Fatal(err)
	}
	// Package fabric switches duplicate address detection off. Here all links but the
	// primary ENI have it, as on a real node.
	if HasIPv6() {
		if err := l.Netns.Sysctl("ipv6/conf/default/accept_dad", "1"); err != nil {
			t.Fatal(err)
		}
	}
	for i, e := range l.Node.ENIs {
		l.AttachENI(i, e)
	}
	l.configurePrimary()
	if l.Handle, err = datapath.Open(l.Netns.Path()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Handle.Close() })
	return l
}

// AttachENI attaches an ENI to the node at a device index of card 0, which decides the
// name of its link.
func (l *Lab) AttachENI(device int, e datapath.ENI) {
	l.t.Helper()
	l.attach(e, fabric.ENI{Device: device})
}

// AttachBranch attaches a branch ENI to the node's trunk ENI.
func (l *Lab) AttachBranch(b datapath.Branch) {
	l.t.Helper()
	l.attach(b.ENI, fabric.ENI{Trunk: b.Trunk.ID, VLAN: b.VLAN})
}

// attach attaches e, with the place that at holds.
func (l *Lab) attach(e datapath.ENI, at fabric.ENI) {
	l.t.Helper()
	at.ID, at.MAC, at.Instance, at.Subnet = e.ID, e.MAC, nodeName, e.Addrs[0].Masked().String()
	at.Addr = e.Addrs[0].Addr()
	for _, p := range e.Addrs[1:] {
		at.Addrs = append(at.Addrs, p.Addr())
	}
	at.Prefixes = e.Sources
	if err := l.VPC.Attach(at); err != nil {
		l.t.Fatal(err)
	}
}

// configurePrimary configures the primary ENI. Unlike [fabric.Fabric.Boot] it adds
// routes without metric and with the protocol of ip(8), because the golden files and
// the scripts of the tests name them.
func (l *Lab) configurePrimary() {
	l.t.Helper()
	In(l.t, l.Netns.Path(), func(h *netlink.Handle) error {
		link, err := h.LinkByName("ens5")
		if err != nil {
			return err
		}
		if HasIPv6() {
			if err := SetSysctl("net/ipv6/conf/ens5/accept_dad", "0"); err != nil {
				return err
			}
		}
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
		addrs, gateways := []string{"10.0.0.10/24", "2001:db8:0:1::10/128"}, []string{"10.0.0.1", "fe80:ec2::1"}
		if !HasIPv6() {
			addrs, gateways = addrs[:1], gateways[:1]
		}
		for _, a := range addrs {
			if err := AddAddr(h, link, a); err != nil {
				return err
			}
		}
		for _, gateway := range gateways {
			err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway), Flags: int(netlink.FLAG_ONLINK)})
			if err != nil {
				return fmt.Errorf("default route via %s: %w", gateway, err)
			}
		}
		return nil
	})
}

// AddVPCHost adds an instance with VPCHost4 and VPCHost6 and its echo servers, and returns the
// path of its namespace.
func (l *Lab) AddVPCHost() (path string) {
	l.t.Helper()
	const name = "vpc-host"
	ns, err := l.VPC.AddInstance(name)
	if err != nil {
		l.t.Fatal(err)
	}
	err = l.VPC.Attach(fabric.ENI{
		ID: "eni-0e", MAC: MAC("06:00:00:00:00:0e"), Instance: name, Subnet: "10.0.7.0/24",
		Addr: VPCHost4, Addrs: []netip.Addr{VPCHost6},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.VPC.Boot(l.t.Context(), name); err != nil {
		l.t.Fatal(err)
	}
	for _, a := range []netip.Addr{VPCHost4, VPCHost6} {
		Echo(l.t, ns.Path(), a)
	}
	return ns.Path()
}

// RouterLink returns the name of the router's link to an ENI of the node.
func (l *Lab) RouterLink(id string) string {
	l.t.Helper()
	name, ok := l.VPC.RouterLink(id)
	if !ok {
		l.t.Fatalf("%s is not attached", id)
	}
	return name
}

// HasIPv6 reports whether the kernel has IPv6. Without it, the lab has IPv4 only, although
// Node keeps the IPv6 addresses of its ENIs.
func HasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// Pod returns a pod in a new sandbox that has all single addresses of ENI i and one
// address of each of its IPv6 prefixes, if the kernel has IPv6.
func (l *Lab) Pod(i int, id string) datapath.Pod {
	p := datapath.Pod{ContainerID: id, IfName: "eth0", Netns: NewNetns(l.t), Layout: l.Node.Layout, MTU: 1400}
	e := l.Node.ENIs[i]
	for _, s := range e.Sources {
		switch {
		case s.IsSingleIP():
			p.Addrs = append(p.Addrs, datapath.PodAddr{Addr: s.Addr(), Table: e.Table()})
		case s.Addr().Is6() && HasIPv6():
			p.Addrs = append(p.Addrs, datapath.PodAddr{Addr: s.Addr().Next(), Table: e.Table()})
		}
	}
	return p
}

// EnsureNode configures the node and waits until its ENIs pass packets.
func (l *Lab) EnsureNode() {
	l.t.Helper()
	if err := l.Handle.EnsureNode(l.t.Context(), l.Node); err != nil {
		l.t.Fatalf("EnsureNode: %v", err)
	}
	// The kernel informs IPv6 of a link's carrier up to a second later.
	for _, e := range l.Node.ENIs {
		a := e.Addrs[len(e.Addrs)-1].Addr()
		if !HasIPv6() {
			a = e.Addrs[0].Addr()
		}
		WaitAnswer(l.t, l.Netns.Path(), a, OutsideOf(a))
	}
}

// AddPod adds a pod to the node.
func (l *Lab) AddPod(p datapath.Pod) datapath.Wiring {
	l.t.Helper()
	w, err := l.Handle.AddPod(l.t.Context(), p)
	if err != nil {
		l.t.Fatalf("AddPod: %v", err)
	}
	return w
}

// State returns the state of the node as text. It does not contain counters and
// neighbour entries that the kernel learned.
func (l *Lab) State() string {
	l.t.Helper()
	s, err := l.Handle.Observe(l.t.Context())
	if err != nil {
		l.t.Fatalf("Observe: %v", err)
	}
	return s.String()
}
