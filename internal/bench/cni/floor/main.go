// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Floor makes the kernel changes of one ADD or DEL of vpc-cni and nothing else: no
// configuration, no agent, no look at what is there, no undo, no result. Its time is a
// lower bound for a Go program that does the same. The environment has the CNI variables
// and FLOOR_ADDRS, the addresses of the pod with commas between them.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// Numbers that vpc-cni uses in the flat layout, and any other would do.
const (
	mtu        = 9001
	podTable   = 20000
	protocol   = 118
	newGroup   = 0x7670_0001
	endedGroup = 0x7670_0002
)

// gateways are the next hops inside the sandbox.
var gateways = map[bool]netip.Addr{true: netip.MustParseAddr("169.254.1.1"), false: netip.MustParseAddr("fe80::1")}

var (
	hostMAC    = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	sandboxMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

func main() {
	if err := run(os.Getenv); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func run(getenv func(string) string) error {
	node, err := rtnl.OpenNetns(rtnl.OwnNetns)
	if err != nil {
		return err
	}
	link := "fl" + getenv("CNI_CONTAINERID")[len(getenv("CNI_CONTAINERID"))-8:]
	host := rtnl.NewClient(node)
	sandbox, err := rtnl.OpenNetns(getenv("CNI_NETNS"))
	if err != nil {
		return err
	}
	var addrs []netip.Addr
	for _, a := range strings.Split(getenv("FLOOR_ADDRS"), ",") {
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return err
		}
		addrs = append(addrs, addr)
	}
	if getenv("CNI_COMMAND") == "DEL" {
		return del(host, rtnl.NewClient(sandbox), link, addrs)
	}
	return add(host, node, sandbox, link, addrs)
}

func add(host *rtnl.Client, node, sandbox *os.File, link string, addrs []netip.Addr) error {
	ctx := context.Background()
	var made rtnl.Link
	err := host.Do(ctx, func(c *rtnl.Conn) (err error) {
		var b rtnl.Batch
		b.CreateVeth(rtnl.VethPair{Name: link, MAC: hostMAC, Peer: "eth0", PeerMAC: sandboxMAC, MTU: mtu, Group: newGroup}, int(sandbox.Fd()))
		b.FindLink(link)
		answers, err := do(c, &b)
		if err == nil {
			made, err = answers[1].Link()
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := rtnl.WriteSysctls(node, settings(link)); err != nil {
		return err
	}
	err = rtnl.NewClient(sandbox).Do(ctx, func(c *rtnl.Conn) error {
		_, err := do(c, inside(made.PeerIndex, addrs))
		return err
	})
	if err != nil {
		return err
	}
	return host.Do(ctx, func(c *rtnl.Conn) error {
		_, err := do(c, outside(made.Index, addrs))
		return err
	})
}

// settings are those that vpc-cni writes for the host link on a node with other defaults.
func settings(link string) []netstate.Sysctl {
	return []netstate.Sysctl{
		netstate.LinkSysctl("ipv4", link, "forwarding", "1"),
		netstate.LinkSysctl("ipv6", link, "accept_ra", "0"),
	}
}

// inside returns the changes in the sandbox.
func inside(index int, addrs []netip.Addr) *rtnl.Batch {
	var b rtnl.Batch
	b.SetLink(index, netstate.Link{Up: true})
	for _, a := range addrs {
		gateway, all := gateways[a.Is4()], netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if a.Is4() {
			all = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		b.Address(netstate.OpAdd, index, netstate.Address{Prefix: netstate.HostPrefix(a)})
		b.Neighbor(netstate.OpAdd, index, netstate.Neighbor{Addr: gateway, MAC: hostMAC.String()})
		b.AddRoute(index, netstate.Route{Dst: netstate.HostPrefix(gateway), Table: 254, Protocol: protocol})
		b.AddRoute(index, netstate.Route{Dst: all, Via: gateway, Table: 254, Protocol: protocol})
		if a.Is6() {
			b.AddRoute(index, netstate.Route{Dst: netstate.HostPrefix(a), Table: netstate.TableLocal, Type: "local", Protocol: protocol})
		}
	}
	return &b
}

// outside returns the changes on the node.
func outside(index int, addrs []netip.Addr) *rtnl.Batch {
	var b rtnl.Batch
	b.NoLinkLocal(index)
	b.SetLink(index, netstate.Link{Up: true, NoARP: true})
	for _, a := range addrs {
		b.Neighbor(netstate.OpAdd, index, netstate.Neighbor{Addr: a, MAC: sandboxMAC.String()})
		b.AddRoute(index, netstate.Route{Dst: netstate.HostPrefix(a), Table: podTable, Protocol: protocol})
	}
	b.Group(index, 0)
	return &b
}

// del takes the addresses from the pod, sets both ends of its veth pair down, renames
// them, and puts the host link where the agent finds it.
func del(host, inside *rtnl.Client, link string, addrs []netip.Addr) error {
	ctx := context.Background()
	var l rtnl.Link
	err := host.Do(ctx, func(c *rtnl.Conn) (err error) {
		l, err = c.LinkByName(link)
		return err
	})
	if err != nil {
		return err
	}
	var in, out rtnl.Batch
	for _, a := range addrs {
		in.Address(netstate.OpDelete, l.PeerIndex, netstate.Address{Prefix: netstate.HostPrefix(a)})
	}
	in.SetLink(l.PeerIndex, netstate.Link{})
	in.Rename(l.PeerIndex, fmt.Sprintf("ended%d", l.PeerIndex))
	out.SetLink(l.Index, netstate.Link{Kind: "veth", Group: endedGroup})
	out.Rename(l.Index, fmt.Sprintf("ended%d", l.Index))
	return errors.Join(
		inside.Do(ctx, func(c *rtnl.Conn) error { _, err := do(c, &in); return err }),
		host.Do(ctx, func(c *rtnl.Conn) error { _, err := do(c, &out); return err }))
}

// do sends a batch of which each request must succeed.
func do(c *rtnl.Conn, b *rtnl.Batch) ([]rtnl.Answer, error) {
	answers, err := c.Do(b)
	for i, a := range answers {
		if err == nil && a.Err != nil {
			err = fmt.Errorf("request %d: %w", i, a.Err)
		}
	}
	return answers, err
}
