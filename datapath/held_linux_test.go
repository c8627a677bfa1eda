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

	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"golang.org/x/sys/unix"
)

// connectTime is the time after which the tests consider a connection attempt to hang:
// without an answer, the kernel gives up only after minutes. The node refuses at once.
// But with both ends on one machine the refusal can arrive while connect(2) still holds
// the socket. The kernel's IPv6 then ignores it and acts on the answer to the second
// packet, a second later.
const connectTime = 2900 * time.Millisecond

// connect opens a TCP connection from the namespace at path and closes it.
func connect(path string, from, to netip.Addr) error {
	return try(path, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), connectTime)
		defer cancel()
		d := net.Dialer{}
		if from.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(to, fabric.EchoPort).String())
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

func unreachable(err error) bool {
	return errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)
}

// TestHeld connects to an address that the node holds, from every kind of source: before
// a pod has the address, while a pod has it, and afterwards. If the node did not answer,
// the connection would hang, because its packets would leave the node.
func TestHeld(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			first, second := l.pod(0, "first"), l.pod(1, "second")
			l.add(first)
			l.add(second)
			p := l.pod(1, "third")
			p.Addrs = podAddrs("10.0.0.112", "2001:db8:0:1:b::5")
			for i, a := range p.Addrs {
				for name, from := range map[string]struct {
					path string
					addr netip.Addr
				}{
					"the node": {l.node, netip.Addr{}}, "the node as its second ENI": {l.node, l.n.ENIs[1].Addrs[i].Addr()},
					"a pod on the primary ENI":  {first.Netns, first.Addrs[i].Addr},
					"a pod on a secondary ENI":  {second.Netns, second.Addrs[i].Addr},
					"a host beyond the gateway": {l.outside, outsideOf(a.Addr)},
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
						t.Errorf("%s to pod %s: %v, want connection refused by the pod", name, a.Addr, err)
					}
					if err := l.h.DelPod(t.Context(), p); err != nil {
						t.Error(err)
					}
					refused("after the pod was deleted")
				}
			}
		})
	}
}

// TestHeldInUse has pods of another CNI plugin with addresses of the node's ENIs. As long
// as Node.InUse contains the addresses, the routes of the other plugin in table main
// decide.
func TestHeldInUse(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			uses := []netip.Addr{netip.MustParseAddr("10.0.0.101"), netip.MustParseAddr("10.0.0.113"), netip.MustParseAddr("2001:db8:0:1:b::9")}
			l.foreignPod("lxc1", uses...)
			l.n.InUse = append(slices.Clone(uses), netip.MustParseAddr("192.0.2.1")) // not an address of the node
			l.ensure()
			p := l.pod(0, "one")
			l.add(p)
			usesOtherLink := func(a netip.Addr) bool {
				found, err := l.h.LookupAddrs(t.Context(), []netip.Addr{a})
				if err != nil {
					t.Fatal(err)
				}
				return len(found) == 1 && found[0].Link == "lxc1"
			}
			for _, a := range uses {
				if err := connect(l.node, netip.Addr{}, a); err == nil || unreachable(err) && !usesOtherLink(a) {
					t.Errorf("connection to %s: %v, want one by lxc1", a, err)
				}
				path := trace.Trace(l.View(p), trace.Flow{Src: p.Addrs[btoi(a.Is6())].Addr, Dst: a})
				if path.Has(trace.FaultNoPod) || path.Egress != "lxc1" {
					t.Errorf("Trace to %s does not leave by lxc1:\n%v", a, path)
				}
			}
			if d := l.drift(p); len(d) > 0 {
				t.Errorf("drift: %v", d)
			}
			l.n.InUse = nil
			l.ensure()
			for _, a := range uses {
				if err := connect(l.node, netip.Addr{}, a); !unreachable(err) {
					t.Errorf("connection to %s without InUse: %v, want unreachable", a, err)
				}
				path := trace.Trace(l.View(p), trace.Flow{Src: p.Addrs[btoi(a.Is6())].Addr, Dst: a})
				if !path.Has(trace.FaultNoPod) {
					t.Errorf("Trace to %s does not find %s:\n%v", a, trace.FaultNoPod, path)
				}
				if faults, err := trace.Confirm(t.Context(), l.node, path); err != nil || len(faults) > 0 {
					t.Errorf("Confirm = %v, %v", faults, err)
				}
			}
		})
	}
}
