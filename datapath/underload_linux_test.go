// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// TestChangeUnderLoad changes the node again and again while a pod on its second ENI sends
// and receives packets as fast as it can. Each packet must arrive, and by the right ENI.
func TestChangeUnderLoad(t *testing.T) {
	third := datapathtest.Node(datapath.Flat).ENIs[2]
	for _, tt := range []struct {
		name   string
		before datapath.Layout
		change func(n *datapath.Node)
	}{
		{"an ENI joins", datapath.Flat, func(n *datapath.Node) { n.ENIs = append(n.ENIs, third) }},
		{"an ENI with a lower number joins", datapath.Flat, func(n *datapath.Node) {
			other := third
			other.Card, n.ENIs[1].Device = 0, 2
			n.ENIs = append(n.ENIs, other)
		}},
		{"addresses join the ENI", datapath.Flat, func(n *datapath.Node) {
			n.ENIs[1].Sources = append(slices.Clone(n.ENIs[1].Sources), datapathtest.Prefixes("10.0.0.102/32", "10.0.0.144/28", "2001:db8:0:1:c::/80")...)
		}},
		{"metadata is refused", datapath.Flat, func(n *datapath.Node) { n.RefuseMetadata = true }},
		{"the layout becomes per-pod", datapath.Flat, func(n *datapath.Node) { n.Layout = datapath.PerPod }},
		{"the layout becomes flat", datapath.PerPod, func(n *datapath.Node) { n.Layout = datapath.Flat }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, tt.before)
			l.AttachENI(2, third)
			after := *l.n
			after.ENIs = slices.Clone(after.ENIs)
			tt.change(&after)
			l.n.ENIs[1].Device = after.ENIs[1].Device
			l.ensure()
			p := l.pod(1, "busy")
			l.add(p)
			l.waitAnswer(p.Netns, p.Addrs[0].Addr, outside4)
			stop := l.load(p.Netns, p.Addrs[0].Addr)
			for range 40 {
				for _, n := range []datapath.Node{after, *l.n} {
					p.Layout = n.Layout
					if err := l.h.Ensure(t.Context(), datapath.Desired{Node: n, Pods: []datapath.Pod{p}}); err != nil {
						t.Fatal(err)
					}
				}
			}
			stop()
			drops, err := l.VPC.Drops()
			if err != nil {
				t.Fatal(err)
			}
			for id, n := range drops.Spoofed {
				if n > 0 {
					t.Errorf("%d packets left by %s, which does not own their source", n, id)
				}
			}
		})
	}
}

// load sends packets between a pod with the given address and a host outside the VPC, in
// both directions, until the caller calls stop, which checks that all of them arrived.
func (l *lab) load(netns string, pod netip.Addr) (stop func()) {
	l.t.Helper()
	const port = 4000
	var ends [2]*net.UDPConn
	for i, at := range []struct {
		netns           string
		local, opposite netip.Addr
	}{{netns, pod, outside4}, {l.outside, outside4, pod}} {
		ns, err := fabric.OpenNetns(at.netns)
		if err != nil {
			l.t.Fatal(err)
		}
		defer ns.Close()
		c, err := ns.Dial(l.t.Context(), "udp", netip.AddrPortFrom(at.local, port), netip.AddrPortFrom(at.opposite, port))
		if err != nil {
			l.t.Fatal(err)
		}
		ends[i] = c.(*net.UDPConn)
	}
	var (
		running sync.WaitGroup
		ended   atomic.Bool
	)
	for i, direction := range []string{"out of the pod", "to the pod"} {
		f := &loadFlow{to: ends[1-i], from: ends[i], ended: &ended}
		running.Go(f.receive)
		running.Go(func() {
			f.send()
			if sent, received := f.sent.Load(), f.received.Load(); sent != received || sent == 0 {
				l.t.Errorf("%s: %d of %d packets arrived, %v", direction, received, sent, f.err)
			}
		})
	}
	return func() {
		l.t.Helper()
		ended.Store(true)
		running.Wait()
		for _, c := range ends {
			c.Close()
		}
	}
}

// loadFlow is traffic in one direction with few packets under way, so that no queue overflows.
type loadFlow struct {
	from, to       *net.UDPConn
	ended          *atomic.Bool
	sent, received atomic.Int64
	err            error
}

const (
	underWay = 64
	// lostAfter is the time after which a packet that has not arrived is lost.
	lostAfter = 10 * time.Second
)

// send sends packets until the flow has ended, and waits for the last ones to arrive.
func (f *loadFlow) send() {
	progress := time.Now()
	for last := int64(-1); ; {
		if received := f.received.Load(); received != last {
			last, progress = received, time.Now()
		}
		switch waiting := f.sent.Load() - last; {
		case f.ended.Load() && waiting == 0, time.Since(progress) > lostAfter:
			return
		case f.ended.Load() || waiting >= underWay:
			time.Sleep(50 * time.Microsecond)
		default:
			f.sent.Add(1)
			if _, err := f.from.Write([]byte("x")); err != nil {
				f.err = errors.Join(f.err, err) // an ICMP error for an earlier packet
				return
			}
		}
	}
}

// receive counts packets until the flow has ended and no more packets come. On a busy machine
// the sender may pause for seconds.
func (f *loadFlow) receive() {
	buf := make([]byte, 16)
	for !f.ended.Load() || f.received.Load() < f.sent.Load() {
		_ = f.to.SetReadDeadline(time.Now().Add(lostAfter))
		if _, err := f.to.Read(buf); err == nil {
			f.received.Add(1)
		} else if errors.Is(err, os.ErrDeadlineExceeded) && f.ended.Load() {
			return
		}
	}
}
