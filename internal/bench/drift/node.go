// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// node is an instance of a VPC with two ENIs and a pod on the second.
type node struct {
	f       *fabric.Fabric
	sandbox *fabric.Netns
	h       *datapath.Handle // of the agent
	hostile *datapath.Handle // of the hostile program
	want    datapath.Desired
}

var (
	subnets = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("2001:db8:0:1::/64")}
	pods    = []netip.Prefix{netip.MustParsePrefix("10.0.0.112/28"), netip.MustParsePrefix("2001:db8:0:1:b::/80")}
)

func newNode(ctx context.Context, layout datapath.Layout) (n *node, err error) {
	n = &node{want: datapath.Desired{Node: datapath.Node{Layout: layout}}}
	done := false
	defer func() {
		if !done {
			err = errors.Join(err, n.close())
		}
	}()
	n.f, err = fabric.New(ctx, fabric.Config{VPC: subnets, Subnets: []fabric.Subnet{{ID: "subnet-a", Prefixes: subnets}}})
	if err != nil {
		return n, err
	}
	ns, err := n.f.AddInstance("node-1")
	if err != nil {
		return n, err
	}
	if err := n.attach(ctx); err != nil {
		return n, err
	}
	if n.h, err = datapath.Open(ns.Path()); err != nil {
		return n, err
	}
	if n.hostile, err = datapath.Open(ns.Path()); err != nil {
		return n, err
	}
	if err := n.h.EnsureNode(ctx, n.want.Node); err != nil {
		return n, err
	}
	if err := n.f.WaitUp(ctx, "eni-1"); err != nil {
		return n, err
	}
	if err := n.addPod(ctx, layout); err != nil {
		return n, err
	}
	if err := n.addForeign(ctx); err != nil {
		return n, err
	}
	done = true
	return n, nil
}

// attach attaches the ENIs of the instance and boots it.
func (n *node) attach(ctx context.Context) error {
	for d := range 2 {
		own := []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + d)}), netip.MustParseAddr("2001:db8:0:1::10")}
		if d == 1 {
			own[1] = own[1].Next()
		}
		e := fabric.ENI{
			ID: []string{"eni-0", "eni-1"}[d], Instance: "node-1", Device: d, Subnet: "subnet-a",
			MAC: net.HardwareAddr{6, 0, 0, 0, 0, byte(5 + d)}, Addr: own[0], Addrs: own[1:],
		}
		x := datapath.ENI{ID: e.ID, MAC: e.MAC, Device: d, Link: e.Link(), Addrs: []netip.Prefix{netip.PrefixFrom(own[0], 24), netip.PrefixFrom(own[1], 64)}}
		if d == 1 {
			e.Prefixes, x.Sources, x.MTU = pods, pods, 9001
		}
		if err := n.f.Attach(e); err != nil {
			return err
		}
		n.want.Node.ENIs = append(n.want.Node.ENIs, x)
	}
	return n.f.Boot(ctx, "node-1")
}

func (n *node) addPod(ctx context.Context, layout datapath.Layout) (err error) {
	if n.sandbox, err = fabric.CreateNetns("/run/netns/pod"); err != nil {
		return err
	}
	p := datapath.Pod{ContainerID: "pod", IfName: "eth0", Netns: n.sandbox.Path(), Layout: layout, MTU: 9001}
	for _, b := range pods {
		p.Addrs = append(p.Addrs, datapath.PodAddr{Addr: b.Addr().Next(), Table: n.want.Node.ENIs[1].Table()})
	}
	n.want.Pods = []datapath.Pod{p}
	_, err = n.h.AddPod(ctx, p)
	return err
}

// addForeign adds state of other programs that resembles the agent's.
func (n *node) addForeign(ctx context.Context) error {
	const bootProtocol, table = 3, 77
	return n.h.Apply(ctx, netstate.Diff(netstate.State{}, netstate.State{
		Rules: []netstate.Rule{
			{Priority: 700, From: netip.PrefixFrom(n.want.Pods[0].Addrs[0].Addr, 32), Table: table, Protocol: bootProtocol},
			{Priority: 1536, Mark: 0x100, Mask: 0x100, Table: table, Protocol: bootProtocol},
		},
		Routes: []netstate.Route{
			{Dst: netip.MustParsePrefix("192.0.2.0/24"), Link: "ens5", Table: table, Protocol: bootProtocol},
			{Dst: netip.MustParsePrefix("2001:db8:77::/48"), Link: "ens5", Table: table, Protocol: bootProtocol},
		},
		Neighbors: []netstate.Neighbor{{Link: "ens5", Addr: netip.MustParseAddr("10.0.0.77"), MAC: "02:00:00:00:00:77"}},
	}))
}

func (n *node) close() error {
	var errs []error
	for _, h := range []*datapath.Handle{n.h, n.hostile} {
		if h != nil {
			errs = append(errs, h.Close())
		}
	}
	if n.sandbox != nil {
		errs = append(errs, n.sandbox.Delete())
	}
	if n.f != nil {
		errs = append(errs, n.f.Close())
	}
	return errors.Join(errs...)
}
