// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"flag"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
)

var hostileTime = flag.Duration("hostile", 5*time.Second, "how long a hostile program changes the node in TestHostile")

// A packet may be lost for repairBound after a damage, and until graceTime after its
// repair, which on a busy machine may take longer. Where a link went down or lost
// its address, the kernel itself waits up to two seconds before it asks for a
// neighbour again.
const (
	graceTime   = 50 * time.Millisecond
	repairBound = 300 * time.Millisecond
	kernelBound = 2500 * time.Millisecond
	// quietTime is how long nothing is damaged once a bound has passed.
	quietTime = 200 * time.Millisecond
)

// blow is a damage that was done; packets after it may be lost until end.
type blow struct{ at, end time.Time }

// flow is a row of numbered packets with the time of each.
type flow struct {
	sent     []time.Time
	answered sync.Map // numbers
	answers  atomic.Int64
}

// A packet that has no answer after settleTime without any is lost: those before it
// may have to wait for a processor. Up to inFlight packets younger than flightTime may be without an
// answer: more would fill the buffers of the other side if it has to wait.
const (
	settleTime = 3 * time.Second
	inFlight   = 32
	flightTime = 250 * time.Millisecond
)

// run sends a packet a millisecond from the pod to the outside until stop, less often
// if answers stay away, and waits for the last answers.
func (f *flow) run(t *testing.T, p datapath.Pod, a netip.Addr, stop <-chan struct{}) {
	var c *net.UDPConn
	on(t, p.Netns, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		return err
	})
	defer c.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64)
		for {
			n, _, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if _, again := f.answered.Swap(string(buf[:n]), true); !again {
				f.answers.Add(1)
			}
		}
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	to := netip.AddrPortFrom(outsideOf(a), echoPort)
	for running := true; running; {
		select {
		case <-stop:
			running = false
		case <-tick.C:
			if f.full() {
				continue
			}
			f.sent = append(f.sent, time.Now())
			_, _ = c.WriteToUDPAddrPort([]byte(strconv.Itoa(len(f.sent)-1)), to)
		}
	}
	for last, since := f.answers.Load(), time.Now(); last < int64(len(f.sent)) && time.Since(since) < settleTime; <-tick.C {
		if now := f.answers.Load(); now != last {
			last, since = now, time.Now()
		}
	}
	_ = c.SetReadDeadline(time.Now())
	<-done
}

// full reports whether too many packets are without an answer.
func (f *flow) full() bool {
	if len(f.sent) < inFlight {
		return false
	}
	missing := 0
	for i := len(f.sent) - 1; i >= 0 && time.Since(f.sent[i]) < flightTime; i-- {
		if _, ok := f.answered.Load(strconv.Itoa(i)); !ok {
			missing++
		}
	}
	return missing >= inFlight
}

// more waits until n further packets were answered.
func (f *flow) more(t *testing.T, n int64) {
	t.Helper()
	want := f.answers.Load() + n
	if !eventually(func() bool { return f.answers.Load() >= want }) {
		t.Fatalf("%d answers, want %d: the flow has stopped", f.answers.Load(), want)
	}
}

// late returns the packets that were lost though no damage was done just before.
func (f *flow) late(damaged []blow) (late []time.Time, lost int) {
	for i, at := range f.sent {
		if _, ok := f.answered.Load(strconv.Itoa(i)); ok {
			continue
		}
		lost++
		excused := slices.ContainsFunc(damaged, func(b blow) bool {
			return at.After(b.at.Add(-50*time.Millisecond)) && at.Before(b.end)
		})
		if !excused {
			late = append(late, at)
		}
	}
	return late, lost
}

// unexplained returns the packets of gaps in which nothing was damaged: a gap is from
// one answered packet to the next. However long a busy machine takes from a damage to
// its report and its repair, both fall into the gap that they make.
func (f *flow) unexplained(damaged []blow) (packets []time.Time, lost int) {
	if len(f.sent) == 0 {
		return nil, 0
	}
	last := f.sent[0]
	var gap []time.Time
	end := func(next time.Time) {
		explained := slices.ContainsFunc(damaged, func(b blow) bool { return b.at.Before(next) && b.end.After(last) })
		if lost += len(gap); !explained {
			packets = append(packets, gap...)
		}
		gap, last = nil, next
	}
	for i, at := range f.sent {
		if _, ok := f.answered.Load(strconv.Itoa(i)); ok {
			end(at)
			continue
		}
		gap = append(gap, at)
	}
	end(f.sent[len(f.sent)-1])
	return packets, lost
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
				t.Errorf("%d packets were lost long after any damage, the first at %v", len(late), late[0])
			}
			t.Logf("%d damages, %d packets, %d lost", len(damaged), len(f.sent), lost)
		})
	}
}

// harass does random damage until d is over, and each time waits for the repair.
func (l *lab) harass(p datapath.Pod, want string, repairs <-chan datapath.Repair, d time.Duration) (damaged []blow) {
	var times []time.Duration
	for end := time.Now().Add(d); time.Now().Before(end); {
		dmg := damages[rand.IntN(len(damages))]
		if dmg.layout != "" && dmg.layout != l.n.Layout {
			continue
		}
		start, bound := time.Now(), repairBound
		if dmg.slow {
			bound = kernelBound
		}
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
			l.t.Fatalf("after %q", dmg.name)
		}
		times = append(times, r.Took)
		closes := start.Add(bound)
		if after := time.Now().Add(graceTime); after.After(closes) {
			closes = after
		}
		damaged = append(damaged, blow{at: start, end: closes})
		// Most damages follow soon on each other; after some comes a quiet time in
		// which no packet is excused.
		wait := 50 * time.Millisecond
		if len(damaged)%4 == 0 {
			wait = time.Until(closes) + quietTime
		}
		for pause := time.After(wait); ; {
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
