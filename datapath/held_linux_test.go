// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/trace"
	"golang.org/x/sys/unix"
)

// connectTime is when a connection counts as hanging: without an answer it takes the
// kernel minutes to give up. The refusal comes at once, but with both ends on one
// machine it may come while connect(2) still holds the socket; then IPv6 of the kernel
// only acts on the answer to the second packet, a second later.
const connectTime = 2900 * time.Millisecond

// connect tries a TCP connection from a namespace.
func connect(path string, from, to netip.Addr) error {
	return try(path, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), connectTime)
		defer cancel()
		d := net.Dialer{}
		if from.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(to, echoPort).String())
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

func unreachable(err error) bool {
	return errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)
}

// TestHeld connects to an address that the node holds, before a pod has it, while
// one does, and afterwards, from every place. Without the node's answer a connection
// hangs, because its packets leave the node.
func TestHeld(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			first, second := l.pod(0, "first"), l.pod(1, "second")
			l.add(first)
			l.add(second)
			p := l.pod(1, "comes")
			p.Addrs = podAddrs("10.0.0.112", "2001:db8:0:1:b::5")
			for i, a := range p.Addrs {
				l.deliver(a.Addr)
				for name, from := range map[string]struct {
					path string
					addr netip.Addr
				}{
					"the node": {l.node, netip.Addr{}}, "the node as its second ENI": {l.node, l.n.ENIs[1].Addrs[i].Addr()},
					"a pod on the primary ENI":  {first.Netns, first.Addrs[i].Addr},
					"a pod on a secondary ENI":  {second.Netns, second.Addrs[i].Addr},
					"a host beyond the gateway": {l.vpc, outsideOf(a.Addr)},
				} {
					refused := func(when string) {
						t.Helper()
						if err := connect(from.path, from.addr, a.Addr); !unreachable(err) {
							t.Errorf("%s to %s %s: %v, want unreachable", name, a.Addr, when, err)
						}
					}
					refused("before a pod has it")
					l.add(p)
					if err := connect(from.path, from.addr, a.Addr); !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("%s to pod %s: %v, want the pod to refuse", name, a.Addr, err)
					}
					if err := l.h.DelPod(t.Context(), p); err != nil {
						t.Error(err)
					}
					refused("after its pod")
				}
			}
		})
	}
}

// deliver has the VPC send packets for an address to the second ENI without asking.
func (l *lab) deliver(a netip.Addr) {
	l.t.Helper()
	vpc, err := datapath.Open(l.vpc)
	if err != nil {
		l.t.Fatal(err)
	}
	defer vpc.Close()
	n := netstate.Neighbor{Link: "v1", Addr: a, MAC: l.n.ENIs[1].MAC.String()}
	if err := vpc.Apply(l.t.Context(), []netstate.Change{{Op: netstate.OpAdd, Item: n}}); err != nil {
		l.t.Fatal(err)
	}
}

// TestHeldInUse has pods of another CNI on addresses of the node: as long as the node
// is told, their routes in table main decide.
func TestHeldInUse(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			uses := []netip.Addr{netip.MustParseAddr("10.0.0.101"), netip.MustParseAddr("10.0.0.113"), netip.MustParseAddr("2001:db8:0:1:b::9")}
			l.foreignPod("lxc1", uses...)
			l.n.InUse = append(slices.Clone(uses), netip.MustParseAddr("192.0.2.1")) // which the node does not hold
			l.ensure()
			talks := l.pod(0, "one")
			l.add(talks)
			leads := func(a netip.Addr) bool {
				found, err := l.h.LookupAddrs(t.Context(), []netip.Addr{a})
				if err != nil {
					t.Fatal(err)
				}
				return len(found) == 1 && found[0].Link == "lxc1"
			}
			for _, a := range uses {
				if err := connect(l.node, netip.Addr{}, a); err == nil || unreachable(err) && !leads(a) {
					t.Errorf("%s: %v", a, err)
				}
				p := trace.Trace(l.view(talks), trace.Flow{Src: talks.Addrs[btoi(a.Is6())].Addr, Dst: a})
				if p.Has(trace.FaultNoPod) || p.Egress != "lxc1" {
					t.Errorf("Trace to %s:\n%v", a, p)
				}
			}
			if d := l.drift(talks); len(d) > 0 {
				t.Errorf("drift: %v", d)
			}
			l.n.InUse = nil
			l.ensure()
			for _, a := range uses {
				if err := connect(l.node, netip.Addr{}, a); !unreachable(err) {
					t.Errorf("no longer in use, %s: %v, want unreachable", a, err)
				}
				p := trace.Trace(l.view(talks), trace.Flow{Src: talks.Addrs[btoi(a.Is6())].Addr, Dst: a})
				if !p.Has("no-pod") {
					t.Errorf("Trace to %s:\n%v", a, p)
				}
				if faults, err := trace.Confirm(t.Context(), l.node, p); err != nil || len(faults) > 0 {
					t.Errorf("Confirm: %v %v", faults, err)
				}
			}
		})
	}
}
