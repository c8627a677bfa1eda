// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// EchoPort is the port of the echo servers on the hosts outside the VPC, for TCP
// and UDP; see [Netns.Echo].
const EchoPort = 7

// resendAfter is the time after which Ask and Exchange repeat a datagram.
const resendAfter = 200 * time.Millisecond

// Start starts cmd in the namespace.
func (n *Netns) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Listen opens a TCP listener in the namespace.
func (n *Netns) Listen(ctx context.Context, local netip.AddrPort) (l net.Listener, err error) {
	err = n.Do(func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(ctx, "tcp", local.String())
		return err
	})
	return l, err
}

// ListenPacket opens a UDP socket in the namespace.
func (n *Netns) ListenPacket(ctx context.Context, local netip.AddrPort) (c net.PacketConn, err error) {
	err = n.Do(func() error {
		var lc net.ListenConfig
		c, err = lc.ListenPacket(ctx, "udp", local.String())
		return err
	})
	return c, err
}

// Dial connects over "tcp" or "udp" from the namespace. A zero local lets the
// kernel choose; a local with port 0 fixes only the address.
func (n *Netns) Dial(ctx context.Context, network string, local, remote netip.AddrPort) (c net.Conn, err error) {
	var d net.Dialer
	switch {
	case !local.IsValid():
	case network == "tcp":
		d.LocalAddr = net.TCPAddrFromAddrPort(local)
	default:
		d.LocalAddr = net.UDPAddrFromAddrPort(local)
	}
	// The Dialer dials a single numeric address in the calling goroutine, so that
	// the socket is created in the namespace.
	err = n.Do(func() error {
		c, err = d.DialContext(ctx, network, remote.String())
		return err
	})
	return c, err
}

// Echo serves TCP and UDP at local until the caller calls stop. It answers each
// line or datagram with the source address and port of the sender, a space, and the
// line or datagram itself.
func (n *Netns) Echo(ctx context.Context, local netip.AddrPort) (stop func(), err error) {
	l, err := n.Listen(ctx, local)
	if err != nil {
		return nil, err
	}
	p, err := n.ListenPacket(ctx, local)
	if err != nil {
		l.Close()
		return nil, err
	}
	e := &echo{conns: map[net.Conn]bool{}}
	e.running.Go(func() { e.accept(l) })
	e.running.Go(func() { answerDatagrams(p) })
	return func() {
		l.Close()
		p.Close()
		e.closeAll()
		e.running.Wait()
	}, nil
}

// echo is an echo server and its connections.
type echo struct {
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]bool
}

func (e *echo) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		e.mu.Lock()
		if e.closed {
			c.Close()
		}
		e.conns[c] = true
		e.mu.Unlock()
		e.running.Go(func() { e.answerLines(c) })
	}
}

func (e *echo) answerLines(c net.Conn) {
	defer func() {
		c.Close()
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.conns, c)
	}()
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		if _, err := fmt.Fprintf(c, "%v %s\n", c.RemoteAddr(), lines.Text()); err != nil {
			return
		}
	}
}

func (e *echo) closeAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for c := range e.conns {
		c.Close()
	}
}

func answerDatagrams(p net.PacketConn) {
	buf := make([]byte, 65536)
	for {
		n, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			// A lost answer needs no handling: the sender repeats its datagram.
			_, _ = p.WriteTo(fmt.Appendf(nil, "%v %s", from, buf[:n]), from)
		}
	}
}

// Ask sends one line to an echo server ([Netns.Echo]) over "tcp" or "udp" and
// returns the source address that the server saw. It tries until ctx ends.
func (n *Netns) Ask(ctx context.Context, network string, local, remote netip.AddrPort) (netip.AddrPort, error) {
	c, err := n.Dial(ctx, network, local, remote)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer c.Close()
	seen, err := Exchange(ctx, c, "who am I")
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("ask %v over %s from %v: %w", remote, network, c.LocalAddr(), err)
	}
	if c, ok := c.(*net.TCPConn); ok {
		closeGracefully(ctx, c)
	}
	return seen, nil
}

// closeGracefully ends a connection and waits until the peer has ended it too, so
// that no packet of it is in flight afterwards.
func closeGracefully(ctx context.Context, c *net.TCPConn) {
	defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
	if c.CloseWrite() == nil {
		// The caller has its answer; an error at the end does not matter.
		_, _ = io.Copy(io.Discard, c)
	}
}

// Exchange sends one line over a connection to an echo server ([Netns.Echo]) and
// returns the source address that the server saw. Over UDP it repeats the line
// until ctx ends. Concurrent calls must not use the same connection.
func Exchange(ctx context.Context, c net.Conn, line string) (netip.AddrPort, error) {
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, datagrams := c.(*net.UDPConn)
	buf := make([]byte, 65536)
	for {
		if _, err := c.Write([]byte(line + "\n")); err != nil {
			return netip.AddrPort{}, err
		}
		if datagrams {
			_ = c.SetReadDeadline(time.Now().Add(resendAfter))
		}
		k, err := c.Read(buf)
		if ctx.Err() != nil {
			return netip.AddrPort{}, fmt.Errorf("no answer: %w", context.Cause(ctx))
		}
		if datagrams && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return netip.AddrPort{}, err
		}
		source, _, _ := strings.Cut(string(buf[:k]), " ")
		return netip.ParseAddrPort(source)
	}
}
