// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"flag"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

var hostileTime = flag.Duration("hostile", 5*time.Second, "how long TestHostile damages the node")

// Packets may be lost for repairBound after a damage and until graceTime after its
// repair; on a busy machine the latter may be later. If a link went down or lost its
// address, the kernel waits up to two seconds before it solicits a neighbour again, and
// the bound is kernelBound.
const (
	graceTime   = 50 * time.Millisecond
	repairBound = 300 * time.Millisecond
	kernelBound = 2500 * time.Millisecond
	// quietTime is how long the test waits after a bound without any damage.
	quietTime = 200 * time.Millisecond
)

// outage is the time after a damage during which packets may be lost.
type outage struct{ start, end time.Time }

// flow is a sequence of numbered packets.
type flow struct {
	sent     []time.Time // when each packet was sent
	answered sync.Map    // numbers of the answered packets
	answers  atomic.Int64
}

const (
	// lastAnswerTime is how long run waits for a further answer at the end. On a busy
	// machine, answers can be late.
	lastAnswerTime = 3 * time.Second
	// At most inFlight packets sent during the last flightTime may be without an
	// answer. More could fill the receive buffer of a destination that waits for a
	// processor.
	inFlight   = 32
	flightTime = 250 * time.Millisecond
)

// run sends a packet each millisecond from the pod to the outside host until stop is
// closed, fewer if answers are missing, and then waits for the last answers.
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
			// The answer consists of the source, a space and the packet.
			_, number, _ := strings.Cut(string(buf[:n]), " ")
			if _, again := f.answered.Swap(number, true); !again {
				f.answers.Add(1)
			}
		}
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	to := netip.AddrPortFrom(outsideOf(a), fabric.EchoPort)
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
	for last, since := f.answers.Load(), time.Now(); last < int64(len(f.sent)) && time.Since(since) < lastAnswerTime; <-tick.C {
		if now := f.answers.Load(); now != last {
			last, since = now, time.Now()
		}
	}
	_ = c.SetReadDeadline(time.Now())
	<-done
}

// full reports whether inFlight packets are without an answer.
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

// waitAnswers waits for n further answers.
func (f *flow) waitAnswers(t *testing.T, n int64) {
	t.Helper()
	want := f.answers.Load() + n
	if !eventually(func() bool { return f.answers.Load() >= want }) {
		t.Fatalf("%d answers after ten seconds, want %d", f.answers.Load(), want)
	}
}

// unexcused returns the times of the lost packets that were not sent during or shortly
// before one of the outages, and the number of all lost packets.
func (f *flow) unexcused(outages []outage) (unexcused []time.Time, lost int) {
	for i, at := range f.sent {
		if _, ok := f.answered.Load(strconv.Itoa(i)); ok {
			continue
		}
		lost++
		excused := slices.ContainsFunc(outages, func(o outage) bool {
			return at.After(o.start.Add(-50*time.Millisecond)) && at.Before(o.end)
		})
		if !excused {
			unexcused = append(unexcused, at)
		}
	}
	return unexcused, lost
}

// unexplained returns the times of the lost packets in gaps that overlap none of the
// outages, and the number of all lost packets. A gap lasts from one answered packet to
// the next. However long a busy machine takes from a damage to its report and its
// repair, both happen in the gap that they cause.
func (f *flow) unexplained(outages []outage) (packets []time.Time, lost int) {
	if len(f.sent) == 0 {
		return nil, 0
	}
	last := f.sent[0]
	var gap []time.Time
	end := func(next time.Time) {
		explained := slices.ContainsFunc(outages, func(o outage) bool { return o.start.Before(next) && o.end.After(last) })
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

// TestHostile damages random parts of the node's network while a pod sends packets and
// Watch runs. Packets may be lost only shortly after a damage, and at the end the state
// must be as before.
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
			outages := l.damageAtRandom(p, want, repairs, *hostileTime)
			close(stop)
			<-done
			if diff := cmp.Diff(want, l.state()); diff != "" {
				t.Errorf("state after all repairs (-want +got):\n%s", diff)
			}
			unexcused, lost := f.unexcused(outages)
			if len(unexcused) > 0 {
				t.Errorf("%d packets were lost outside of the outages, the first at %v", len(unexcused), unexcused[0])
			}
			t.Logf("%d damages, %d packets, %d lost", len(outages), len(f.sent), lost)
		})
	}
}

// damageAtRandom damages the node until d is over, waits for the repair each time, and
// returns the outages.
func (l *lab) damageAtRandom(p datapath.Pod, want string, repairs <-chan datapath.Repair, d time.Duration) (outages []outage) {
	var times []time.Duration
	for stop := time.Now().Add(d); time.Now().Before(stop); {
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
			l.t.Fatalf("%s: not repaired", dmg.name)
		}
		times = append(times, r.Took)
		end := start.Add(bound)
		if after := time.Now().Add(graceTime); after.After(end) {
			end = after
		}
		outages = append(outages, outage{start: start, end: end})
		// Most damages follow the previous one soon. After every fourth comes a quiet
		// time in which no packet may be lost.
		wait := 50 * time.Millisecond
		if len(outages)%4 == 0 {
			wait = time.Until(end) + quietTime
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
	l.t.Logf("time from the kernel's report to the end of the repair: p50 %v, p99 %v, max %v",
		times[len(times)/2], times[len(times)*99/100], times[len(times)-1])
	return outages
}
