// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/internal/fabric"
)

// answerWithin is how long ping and ask wait for an answer.
const answerWithin = 2 * time.Second

// ping sends one ICMP echo from a namespace and waits for the answer.
func ping(ctx context.Context, ns *fabric.Netns, to netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	_, err := ns.Ping(ctx, netip.Addr{}, to)
	return err
}

// ask connects to an echo server over TCP or UDP and returns the source that
// the server saw.
func ask(ctx context.Context, network string, ns *fabric.Netns, to netip.AddrPort) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	seen, err := ns.Ask(ctx, network, netip.AddrPort{}, to)
	return seen.Addr().Unmap(), err
}

// point is a link at which packets can be captured.
type point struct {
	ns    *fabric.Netns
	place string // name of the node, pod or host, for the output
	link  string
}

func (n *node) point(link string) point { return point{n.ns, n.name, link} }
func (p *pod) point() point             { return point{p.ns, p.name, ifName} }

// eniPoints returns the points at all ENIs of a node.
func (n *node) eniPoints() []point {
	var points []point
	for _, e := range n.enis() {
		points = append(points, n.point(link(e)))
	}
	return points
}

// sighting is an IP packet seen at a point.
type sighting struct {
	place  string
	link   string
	flow   fabric.Flow
	packet fabric.Packet
}

// record captures packets at the points while traffic runs, and returns the IP
// packets in order of time.
func record(points []point, traffic func() error) ([]sighting, error) {
	var captures []*fabric.Capture
	defer func() {
		for _, c := range captures {
			c.Close()
		}
	}()
	for _, p := range points {
		c, err := p.ns.Capture(p.link)
		if err != nil {
			return nil, err
		}
		captures = append(captures, c)
	}
	err := traffic()
	var seen []sighting
	for i, c := range captures {
		packets, e := c.Packets()
		err = errors.Join(err, e)
		for _, packet := range packets {
			if flow, ok := packet.Flow(); ok && flow.Src.Addr().Is4() {
				seen = append(seen, sighting{points[i].place, points[i].link, flow, packet})
			}
		}
	}
	slices.SortStableFunc(seen, func(a, b sighting) int { return a.packet.Time.Compare(b.packet.Time) })
	return seen, err
}

// tcpdump lists sightings as tcpdump does, with the place in front.
func tcpdump(seen []sighting) []string {
	var rows [][]string
	for _, s := range seen {
		rows = append(rows, []string{s.place, s.link, s.packet.String()})
	}
	return columns(rows)
}

// at selects the sightings at a link of a place.
func at(seen []sighting, place, link string) []sighting {
	return slices.DeleteFunc(slices.Clone(seen), func(s sighting) bool { return s.place != place || s.link != link })
}

// between counts the sightings of packets from src to dst.
func between(seen []sighting, src, dst netip.Addr) int {
	n := 0
	for _, s := range seen {
		if s.flow.Src.Addr() == src && s.flow.Dst.Addr() == dst {
			n++
		}
	}
	return n
}

// about selects the sightings of packets from or to addr.
func about(seen []sighting, addr netip.Addr) []sighting {
	return slices.DeleteFunc(slices.Clone(seen), func(s sighting) bool {
		return s.flow.Src.Addr() != addr && s.flow.Dst.Addr() != addr
	})
}

// stream is continuous traffic to an echo server. It consists of numbered datagrams,
// each of which must come back.
type stream struct {
	name string
	conn net.Conn

	mu   sync.Mutex
	sent int
	back map[string]bool
}

// streamEvery is the pause between two datagrams of a stream.
const streamEvery = 2 * time.Millisecond

// startStream opens a stream, and returns when a first datagram has come back: by then
// each host on the way knows the MAC of the next one. The method run of the stream sends
// the datagrams.
func startStream(ctx context.Context, name string, ns *fabric.Netns, to netip.AddrPort) (*stream, error) {
	conn, err := ns.Dial(ctx, "udp", netip.AddrPort{}, to)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if _, err := fabric.Exchange(ctx, conn, helloLine); err != nil {
		return nil, errors.Join(fmt.Errorf("stream %s: %w", name, err), conn.Close())
	}
	return &stream{name: name, conn: conn, back: map[string]bool{}}, nil
}

// helloLine is the first datagram of a stream. It has no number.
const helloLine = "hello"

// run sends datagrams until ctx ends, and then waits for the last answers.
func (s *stream) run(ctx context.Context) error {
	received := make(chan struct{})
	go func() {
		defer close(received)
		s.receive()
	}()
	err := s.send(ctx)
	deadline := time.Now().Add(answerWithin)
	for s.lost() > 0 && time.Now().Before(deadline) {
		select {
		case <-received: // the connection has failed, so that no more answers can arrive
			deadline = time.Time{}
		case <-time.After(pollEvery):
		}
	}
	s.conn.Close()
	<-received
	return err
}

func (s *stream) send(ctx context.Context) error {
	tick := time.NewTicker(streamEvery)
	defer tick.Stop()
	for {
		s.mu.Lock()
		s.sent++
		number := s.sent
		s.mu.Unlock()
		if _, err := fmt.Fprintf(s.conn, "%d", number); err != nil {
			return fmt.Errorf("stream %s: %w", s.name, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// receive records the numbers that come back, until the connection is closed.
func (s *stream) receive() {
	buf := make([]byte, 256)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			return
		}
		_, number, _ := strings.Cut(string(buf[:n]), " ")
		if strings.TrimSpace(number) == helloLine {
			continue // the answer to a repeated one
		}
		s.mu.Lock()
		s.back[number] = true
		s.mu.Unlock()
	}
}

// lost returns the number of datagrams that have not come back.
func (s *stream) lost() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent - len(s.back)
}
