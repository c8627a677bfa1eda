// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"flag"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
)

var hostileTime = flag.Duration("hostile", 3*time.Second, "how long a hostile program changes the node in TestHostile")

// repairBound is how long after a damage a packet may be lost. Most repairs take
// a few milliseconds; a busy machine with two processors takes its time.
const repairBound = 300 * time.Millisecond

// flow is a row of packets with the time of each, sent and answered.
type flow struct {
	mu   sync.Mutex
	sent []time.Time
	lost []bool
}

// run sends a packet a millisecond from the pod to the outside until stop.
func (f *flow) run(t *testing.T, p datapath.Pod, a netip.Addr, stop <-chan struct{}) {
	var c *net.UDPConn
	on(t, p.Netns, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		return err
	})
	to := netip.AddrPortFrom(outsideOf(a), echoPort)
	buf := make([]byte, 64)
	for {
		select {
		case <-stop:
			c.Close()
			return
		default:
		}
		now := time.Now()
		_, err := c.WriteToUDPAddrPort([]byte("x"), to)
		if err == nil {
			_ = c.SetReadDeadline(now.Add(20 * time.Millisecond))
			_, _, err = c.ReadFromUDPAddrPort(buf)
		}
		f.mu.Lock()
		f.sent, f.lost = append(f.sent, now), append(f.lost, err != nil)
		f.mu.Unlock()
	}
}

// late returns the packets that were lost though no damage was done just before.
func (f *flow) late(damaged []time.Time) (late []time.Time, lost int) {
	for i, at := range f.sent {
		if !f.lost[i] {
			continue
		}
		lost++
		excused := slices.ContainsFunc(damaged, func(d time.Time) bool {
			return at.After(d.Add(-50*time.Millisecond)) && at.Before(d.Add(repairBound))
		})
		if !excused {
			late = append(late, at)
		}
	}
	return late, lost
}

// TestHostile has a program change random pieces of ours while pods talk: no
// packet may be lost but for a moment after each change, and in the end nothing
// is different.
func TestHostile(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.ensure()
			p := l.pod(1, "one")
			l.add(p)
			l.foreign()
			want := l.state()
			repairs := l.watch(p)
			var f flow
			stop, done := make(chan struct{}), make(chan struct{})
			go func() { f.run(t, p, p.Addrs[0].Addr, stop); close(done) }()
			damaged := l.harass(p, want, repairs, *hostileTime)
			close(stop)
			<-done
			if diff := cmp.Diff(want, l.state()); diff != "" {
				t.Errorf("something stayed changed (-want +got):\n%s", diff)
			}
			late, lost := f.late(damaged)
			if len(late) > 0 {
				t.Errorf("%d packets were lost with no damage in the %v before, the first at %v", len(late), repairBound, late[0])
			}
			t.Logf("%d damages, %d packets, %d lost", len(damaged), len(f.sent), lost)
		})
	}
}

// harass does random damage until d is over, and each time waits for the repair.
func (l *lab) harass(p datapath.Pod, want string, repairs <-chan datapath.Repair, d time.Duration) (damaged []time.Time) {
	var times []time.Duration
	for end := time.Now().Add(d); time.Now().Before(end); {
		dmg := damages[rand.IntN(len(damages))]
		if dmg.layout != "" && dmg.layout != l.n.Layout {
			continue
		}
		damaged = append(damaged, time.Now())
		err := try(l.node, func() error {
			h, err := netlink.NewHandle()
			if err != nil {
				return err
			}
			defer h.Close()
			return dmg.do(h, p)
		})
		if err != nil {
			l.t.Errorf("%s: %v", dmg.name, err)
		}
		r, ok := l.repaired(want, repairs)
		if !ok {
			l.t.Errorf("after %q", dmg.name)
			return damaged
		}
		times = append(times, r.Took)
		// The patience of Watch is with each thing: a few damages a second.
		for pause := time.After(40 * time.Millisecond); ; {
			select {
			case <-repairs:
				continue
			case <-pause:
			}
			break
		}
	}
	slices.Sort(times)
	l.t.Logf("from the kernel's report to the end of the repair: p50 %v, p99 %v, most %v",
		times[len(times)/2], times[len(times)*99/100], times[len(times)-1])
	return damaged
}
