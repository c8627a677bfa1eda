// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// The ENIs of a node of the suite, as indexes of eniKinds.
const (
	primary = iota
	second
	podENI // moves into the sandbox of a pod
	underIPVLAN
	secondCard
	branch5
	branch6
)

// eniKinds holds the positions and the own addresses of the ENIs of a node. ENIs
// with a VLAN ID are branch ENIs; their trunk is the second ENI.
var eniKinds = [...]struct {
	offset       int // of its own addresses in the subnet
	card, device int
	vlan         int
	public       bool
}{
	primary:     {offset: 10, public: true},
	second:      {offset: 20, device: 1, public: true},
	podENI:      {offset: 30, device: 2, public: true},
	underIPVLAN: {offset: 50, device: 3},
	secondCard:  {offset: 60, card: 1, public: true},
	branch5:     {offset: 70, vlan: 5, public: true},
	branch6:     {offset: 80, vlan: 6, public: true},
}

// localPath is the path of a pod's packets to other destinations on its node.
type localPath int

const (
	viaNode      localPath = iota
	viaVPC                 // to all destinations; the node translates no packets of the pod
	viaVPCToPods           // via the VPC to other pods, via the node to the node itself
)

// podKind is one way to connect a pod to the VPC.
type podKind struct {
	name   string
	eni    int // index of the ENI that owns the addresses
	offset int // of the addresses in the subnet
	prefix bool
	// mode is nil for a veth pair.
	mode      func(h *host) datapath.Mode
	localPath func(datapath.Enforcement) localPath
	// beside is the name of another kind. If it is not empty, this kind is the
	// second interface in the sandbox of that kind's pod.
	beside string
	// needs is a kind of links that many kernels do not have.
	needs string
	// bypassesNode means that the pod's packets to the VPC do not pass through the node.
	bypassesNode bool
	// sharedDevice names the device that the pod shares with other pods. Pods that
	// share a device can send with each other's addresses.
	sharedDevice string
}

// always returns p for each enforcement.
func always(p localPath) func(datapath.Enforcement) localPath {
	return func(datapath.Enforcement) localPath { return p }
}

// ifStrict returns viaVPC under strict enforcement.
func ifStrict(e datapath.Enforcement) localPath {
	if e == datapath.Strict {
		return viaVPC
	}
	return viaNode
}

func podKinds() []podKind {
	return []podKind{
		{name: "primary", eni: primary, offset: 11},
		{name: "second", eni: second, offset: 21},
		{name: "prefix", eni: second, offset: 35, prefix: true},
		{name: "bridge", eni: second, offset: 22, mode: onBridge, sharedDevice: "bridge"},
		{name: "bridge-primary", eni: primary, offset: 12, mode: onBridge, sharedDevice: "bridge"},
		{name: "card-0", eni: second, offset: 23},
		{name: "card-1", eni: secondCard, offset: 61, beside: "card-0"},
		{name: "whole-eni", eni: podENI, offset: eniKinds[podENI].offset, mode: wholeENI, localPath: always(viaVPC), bypassesNode: true},
		{name: "ipvlan", eni: underIPVLAN, offset: 51, mode: onIPVLAN, localPath: always(viaVPCToPods), needs: "ipvlan", bypassesNode: true, sharedDevice: "ipvlan"},
		{name: "ipvlan-sibling", eni: underIPVLAN, offset: 52, mode: onIPVLAN, localPath: always(viaVPCToPods), needs: "ipvlan", bypassesNode: true, sharedDevice: "ipvlan"},
		{name: "branch", eni: branch5, offset: eniKinds[branch5].offset, mode: onBranch(branch5), localPath: ifStrict, needs: "vlan"},
		{name: "branch-sibling", eni: branch6, offset: eniKinds[branch6].offset, mode: onBranch(branch6), localPath: ifStrict, needs: "vlan"},
	}
}

func onBridge(*host) datapath.Mode { return datapath.Mode{Bridge: &datapath.Bridge{}} }

func wholeENI(h *host) datapath.Mode {
	return datapath.Mode{Whole: &datapath.WholeENI{ENI: h.describe(podENI)}}
}

// onIPVLAN connects a pod with the VPC and the peer network directly by the ENI.
func onIPVLAN(h *host) datapath.Mode {
	m := datapath.IPVLAN{ENI: h.describe(underIPVLAN), Direct: vpcConfig.VPC, Except: full(h.addrs[:]...)}
	m.Direct = append(full(peerAddrs[:]...), m.Direct...)
	return datapath.Mode{IPVLAN: &m}
}

func onBranch(eni int) func(*host) datapath.Mode {
	return func(h *host) datapath.Mode {
		return datapath.Mode{Branch: &datapath.Branch{
			ENI: h.describe(eni), Trunk: h.describe(second), VLAN: eniKinds[eni].vlan, Enforcement: h.node.Enforcement,
		}}
	}
}

func full(list ...netip.Addr) (all []netip.Prefix) {
	for _, a := range list {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all
}

func in4(n, offset int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n), byte(offset)}) }

func in6(n, offset int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%d::%x", n, offset))
}

// blocks returns the prefixes delegated to the second ENI of node n.
func blocks(n int) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(in4(n, 32), 28), netip.MustParsePrefix(fmt.Sprintf("2001:db8:1:%d:f::/80", n))}
}

// addrs returns the addresses of the kind's pod on node n.
func (k podKind) addrs(n int) [2]netip.Addr {
	if k.prefix {
		return [2]netip.Addr{in4(n, k.offset), netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%d:f::%x", n, k.offset))}
	}
	return [2]netip.Addr{in4(n, k.offset), in6(n, k.offset)}
}

func eniID(n, eni int) string { return fmt.Sprintf("eni-%d%d", n, eni) }

// fabricENI returns ENI i of node n, with the addresses of its pods.
func fabricENI(n, i int) fabric.ENI {
	k := eniKinds[i]
	e := fabric.ENI{
		ID: eniID(n, i), MAC: net.HardwareAddr{2, 0, 0, 0, byte(n), byte(i)}, Instance: fmt.Sprintf("node-%d", n),
		Card: k.card, Device: k.device, Subnet: []string{"subnet-a", "subnet-b"}[n-1],
		Addr: in4(n, k.offset), Addrs: []netip.Addr{in6(n, k.offset)}, Public: k.public,
	}
	if k.vlan != 0 {
		e.Trunk, e.VLAN = eniID(n, second), k.vlan
	}
	if i == second {
		e.Prefixes = blocks(n)
	}
	for _, p := range podKinds() {
		if p.eni == i && p.offset != k.offset && !p.prefix {
			a := p.addrs(n)
			e.Addrs = append(e.Addrs, a[:]...)
		}
	}
	return e
}

// describe returns ENI i of the host as datapath gets it from an agent.
func (h *host) describe(i int) datapath.ENI {
	e := fabricENI(h.number, i)
	return datapath.ENI{
		ID: e.ID, MAC: e.MAC, Card: e.Card, Device: e.Device, MTU: 9001,
		Addrs:   []netip.Prefix{netip.PrefixFrom(e.Addr, 24), netip.PrefixFrom(e.Addrs[0], 64)},
		Sources: slices.Concat(full(e.Addrs[1:]...), e.Prefixes),
	}
}

// vmEnv is an environment variable that is set in the emulated machine of
// internal/vm.
const vmEnv = "VPCNET_VM"

// missingLinkKinds returns the kinds of links that this kernel does not have. The test of
// internal/vm runs the tests that need them, on a kernel that has all kinds.
func missingLinkKinds(t *testing.T) (kinds []string) {
	t.Helper()
	defer func() {
		if len(kinds) > 0 && os.Getenv(vmEnv) != "" {
			t.Fatalf("this kernel has no links of the kinds %v", kinds)
		}
	}()
	ns, err := fabric.CreateNetns("/run/netns/probe")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Delete()
	run(t, ns, func() error {
		named := func(name string, parent int) netlink.LinkAttrs {
			a := netlink.NewLinkAttrs()
			a.Name, a.ParentIndex = name, parent
			return a
		}
		below := &netlink.Veth{LinkAttrs: named("a", 0), PeerName: "b"}
		if err := netlink.LinkAdd(below); err != nil {
			return err
		}
		for _, link := range []netlink.Link{
			&netlink.Vlan{LinkAttrs: named("v", below.Index), VlanId: 1},
			&netlink.IPVlan{LinkAttrs: named("i", below.Index), Mode: netlink.IPVLAN_MODE_L2},
		} {
			err := netlink.LinkAdd(link)
			if errors.Is(err, unix.EOPNOTSUPP) {
				kinds = append(kinds, link.Type())
			} else if err != nil {
				return fmt.Errorf("%s: %w", link.Type(), err)
			}
			_ = netlink.LinkDel(link) // an ipvlan link excludes other kinds on its parent
		}
		return nil
	})
	return kinds
}
