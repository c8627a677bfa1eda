// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// TestTakenUnderTraffic adds pods with the addresses of a pod that sends packets, again
// and again: no packet is lost. Then it adds a pod with an address that the node itself
// uses: AddPod refuses it, and the address stays on the node.
func TestTakenUnderTraffic(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			p, second := l.pod(1, "one"), l.pod(1, "two")
			l.add(p)
			for _, a := range p.Addrs {
				l.waitAnswer(p.Netns, a.Addr, outsideOf(a.Addr))
			}
			stop, done := make(chan struct{}), make(chan struct{})
			var flows [2]flow
			for i := range flows {
				go func() { flows[i].run(t, p, p.Addrs[i].Addr, stop); done <- struct{}{} }()
			}
			for i := range 20 {
				second.Layout = layouts[i%2]
				if _, err := l.h.AddPod(t.Context(), second); !errors.Is(err, datapath.ErrAddressTaken) || !contains(err.Error(), p.HostLink(), p.Addrs[0].Addr.String()) {
					t.Errorf("AddPod = %v, want ErrAddressTaken that names address and link", err)
				}
			}
			close(stop)
			for range flows {
				<-done
			}
			for i := range flows {
				if late, lost := flows[i].unexcused(nil); lost > 0 {
					t.Errorf("flow %d: %d of %d packets lost, the first at %v", i, lost, len(flows[i].sent), late[0])
				}
			}
			onNode := netstate.Address{Link: "ens5", Prefix: netip.MustParsePrefix("10.0.0.120/32")}
			l.apply(onNode)
			second.Layout, second.Addrs = layout, podAddrs("10.0.0.120")
			before := l.state()
			if _, err := l.h.AddPod(t.Context(), second); !errors.Is(err, datapath.ErrAddressTaken) || !contains(err.Error(), "ens5", "10.0.0.120") {
				t.Errorf("on the node: AddPod = %v, want ErrAddressTaken that names address and link", err)
			}
			if l.state() != before {
				t.Errorf("an ADD that was refused changed the node:\n%s", l.state())
			}
			l.apply(netstate.Address{Link: "ens5", Prefix: netip.PrefixFrom(p.Addrs[0].Addr, 32)})
			l.add(p) // repeated: the node's own address is a damage
			l.expectConnected(p)
		})
	}
}
