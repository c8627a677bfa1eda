// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/internal/fabric"
)

// flow is a sequence of numbered packets from the pod to an echo server outside the
// VPC.
type flow struct {
	conn net.PacketConn
	to   net.Addr

	mu       sync.Mutex
	sent     []time.Time
	answered map[int]bool
	// latest is when the last packet was sent that has an answer.
	latest time.Time
}

func newFlow(ctx context.Context, ns *fabric.Netns, from netip.Addr) (*flow, error) {
	to := fabric.PeerAddr
	if from.Is6() {
		to = fabric.PeerAddr6
	}
	c, err := ns.ListenPacket(ctx, netip.AddrPortFrom(from, 0))
	return &flow{conn: c, to: net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, fabric.EchoPort)), answered: map[int]bool{}}, err
}

// lastAnswers is how long run waits for answers at its end, for a busy machine.
const lastAnswers = time.Second

// run sends a packet a millisecond until stop, and waits for the last answers.
func (f *flow) run(stop <-chan struct{}) {
	defer f.conn.Close()
	done := make(chan struct{})
	go func() { defer close(done); f.read() }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			_ = f.conn.SetReadDeadline(time.Now().Add(lastAnswers))
			<-done
			return
		case <-tick.C:
			f.mu.Lock()
			number := len(f.sent)
			f.sent = append(f.sent, time.Now())
			f.mu.Unlock()
			_, _ = f.conn.WriteTo([]byte(strconv.Itoa(number)+"\n"), f.to)
		}
	}
}

// read records the number at the end of each answer.
func (f *flow) read() {
	buf := make([]byte, 256)
	for {
		n, _, err := f.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		words := strings.Fields(string(buf[:n]))
		if len(words) == 0 {
			continue
		}
		if i, err := strconv.Atoi(words[len(words)-1]); err == nil { // the number is valid: the server echoes it
			f.mu.Lock()
			f.answered[i] = true
			if at := f.sent[i]; at.After(f.latest) {
				f.latest = at
			}
			f.mu.Unlock()
		}
	}
}

// passes reports whether a packet that was sent after at has been answered.
func (f *flow) passes(at time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.latest.After(at)
}

// waitPassing waits until each flow has an answer to a packet that was sent after at,
// and returns that time. It waits until limit at most, and then returns limit.
func waitPassing(flows []*flow, at, limit time.Time) time.Time {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		now := time.Now()
		waiting := slices.ContainsFunc(flows, func(f *flow) bool { return !f.passes(at) })
		if !waiting {
			return now
		}
		if now.After(limit) {
			return limit
		}
		<-tick.C
	}
}

// window is an interval in which packets may be lost because of a damage.
type window struct {
	from, to time.Time
	damage   string
}

// lost returns the number of packets without an answer that were sent in the windows,
// and a description of each that was sent outside of them.
func (f *flow) lost(windows []window) (within int, after []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := 0
	for i, at := range f.sent {
		for w < len(windows) && at.After(windows[w].to) {
			w++
		}
		switch {
		case f.answered[i]:
		case w < len(windows) && at.After(windows[w].from):
			within++
		case w > 0:
			after = append(after, fmt.Sprintf("%v after the time for %q", at.Sub(windows[w-1].to), windows[w-1].damage))
		default:
			after = append(after, "before any damage")
		}
	}
	return within, after
}
