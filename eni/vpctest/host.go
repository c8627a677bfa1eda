// SPDX-License-Identifier: Apache-2.0

package vpctest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/internal/fabric"
)

// Host is a network namespace: a node, a pod, or a host outside of the VPC. It is safe for
// concurrent use.
type Host struct{ ns *fabric.Netns }

// Name returns the name of the namespace.
func (h *Host) Name() string { return h.ns.Name() }

// Path returns the path at which the namespace is mounted, as CNI passes it to plugins.
func (h *Host) Path() string { return h.ns.Path() }

// Do runs f in the namespace, on another goroutine. Sockets and processes that f creates stay
// in the namespace; goroutines that f starts are not in it. An error ends the test.
func (h *Host) Do(t TB, f func() error) {
	t.Helper()
	fatal(t, h.ns.Do(f), "in %s", h.Name())
}

// Run runs a program in the namespace and returns what it prints. It ends the test if the
// program fails.
func (h *Host) Run(t TB, name string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := h.ns.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("in %s: %s: %v\n%s", h.Name(), cmd, err, &out)
	}
	return out.String()
}

// stopTime is how long a program may take to end after SIGTERM.
const stopTime = 10 * time.Second

// Start starts cmd in the namespace. The end of the test stops it: by SIGTERM, and if it still
// runs after ten seconds, by SIGKILL. If cmd has neither Stdout nor Stderr, the output is
// logged if the test fails.
func (h *Host) Start(t TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{host: h, cmd: cmd, done: make(chan struct{})}
	if cmd.Stdout == nil && cmd.Stderr == nil {
		cmd.Stdout, cmd.Stderr = &p.output, &p.output
	}
	fatal(t, h.ns.Start(cmd), "start %s in %s", cmd.Path, h.Name())
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Stop(t)
		if t.Failed() {
			t.Logf("output of %s in %s:\n%s", cmd.Path, h.Name(), p.Output())
		}
	})
	return p
}

// Process is a program in a namespace. It is safe for concurrent use.
type Process struct {
	host   *Host
	cmd    *exec.Cmd
	output lockedBuffer
	done   chan struct{} // closed when the program has ended
	err    error         // of the program, valid once done is closed
}

// Output returns what the program has printed so far. It is "" if the caller of Start has set
// Stdout or Stderr.
func (p *Process) Output() string { return p.output.String() }

// PID returns the ID of the program's process, as the caller sees it in /proc.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns how the program ended, as exec.Cmd.Wait does, and nil as long as it runs.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Signal sends a signal to the program.
func (p *Process) Signal(t TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); !errors.Is(err, os.ErrProcessDone) {
		fatal(t, err, "signal %v to %s in %s", s, p.cmd.Path, p.host.Name())
	}
}

// Stop ends the program by SIGTERM and waits for its end.
func (p *Process) Stop(t TB) {
	t.Helper()
	p.Signal(t, syscall.SIGTERM)
	select {
	case <-p.done:
		return
	case <-time.After(stopTime):
	}
	p.Signal(t, os.Kill)
	<-p.done
	t.Errorf("%s in %s did not end within %v of %v", p.cmd.Path, p.host.Name(), stopTime, syscall.SIGTERM)
}

// lockedBuffer is a buffer for the output of a program.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Dial connects over "tcp" or "udp". The end of the test closes the connection.
func (h *Host) Dial(t TB, network string, to netip.AddrPort) net.Conn {
	t.Helper()
	ctx, cancel := within(t, patience)
	defer cancel()
	c, err := h.ns.Dial(ctx, network, netip.AddrPort{}, to)
	fatal(t, err, "dial from %s", h.Name())
	t.Cleanup(func() { c.Close() })
	return c
}

// Listen opens a TCP listener. The end of the test closes it.
func (h *Host) Listen(t TB, local netip.AddrPort) net.Listener {
	t.Helper()
	l, err := h.ns.Listen(t.Context(), local)
	fatal(t, err, "listen in %s", h.Name())
	t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket opens a UDP socket. The end of the test closes it.
func (h *Host) ListenPacket(t TB, local netip.AddrPort) net.PacketConn {
	t.Helper()
	c, err := h.ns.ListenPacket(t.Context(), local)
	fatal(t, err, "listen in %s", h.Name())
	t.Cleanup(func() { c.Close() })
	return c
}

// Echo starts an echo server for TCP and UDP, which answers [Host.Ask]. The caller or the end
// of the test stops it.
func (h *Host) Echo(t TB, local netip.AddrPort) (stop func()) {
	t.Helper()
	end, err := h.ns.Echo(t.Context(), local)
	fatal(t, err, "echo server in %s", h.Name())
	stop = sync.OnceFunc(end)
	t.Cleanup(stop)
	return stop
}

// Ask connects over "tcp" or "udp" to an echo server and returns the source address that the
// server saw. Without an answer within ten seconds it ends the test.
func (h *Host) Ask(t TB, network string, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	seen, err := h.ask(t, network, to)
	fatal(t, err, "from %s over %s to %v", h.Name(), network, to)
	return seen
}

// NoAnswer fails the test if the echo server at an address answers within half a second.
func (h *Host) NoAnswer(t TB, network string, to netip.AddrPort) {
	t.Helper()
	ctx, cancel := within(t, silence)
	defer cancel()
	if seen, err := h.ns.Ask(ctx, network, netip.AddrPort{}, to); err == nil {
		t.Errorf("from %s over %s to %v: an answer to %v, want none", h.Name(), network, to, seen)
	}
}

// ask tries until there is an answer: a connection that is refused may be one to a server that
// has not begun to listen.
func (h *Host) ask(t TB, network string, to netip.AddrPort) (netip.AddrPort, error) {
	ctx, cancel := within(t, patience)
	defer cancel()
	return retry(ctx, func(ctx context.Context) (netip.AddrPort, error) {
		seen, err := h.ns.Ask(ctx, network, netip.AddrPort{}, to)
		return netip.AddrPortFrom(seen.Addr().Unmap(), seen.Port()), err
	})
}

// attemptTime bounds one attempt of retry.
const attemptTime = time.Second

// retry calls f until it succeeds or ctx ends, and returns the last error that tells more than
// that ctx has ended.
func retry[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	var before error
	for {
		attempt, cancel := context.WithTimeoutCause(ctx, attemptTime, fmt.Errorf("waited %v", attemptTime))
		x, err := f(attempt)
		cancel()
		switch {
		case err == nil:
			return x, nil
		case over(ctx):
			return x, cmp.Or(before, err)
		}
		before = err
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return x, err
		}
	}
}

// over reports whether ctx has ended. A connection has a timer of its own for the deadline of
// ctx, which may fire before that of ctx.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// Ping sends ICMP echo requests until one is answered. Without an answer within ten seconds it
// ends the test.
func (h *Host) Ping(t TB, to netip.Addr) {
	t.Helper()
	ctx, cancel := within(t, patience)
	defer cancel()
	_, err := retry(ctx, func(ctx context.Context) (time.Duration, error) { return h.ns.Ping(ctx, netip.Addr{}, to) })
	fatal(t, err, "from %s", h.Name())
}

// NoPing fails the test if an address answers an ICMP echo request within half a second.
func (h *Host) NoPing(t TB, to netip.Addr) {
	t.Helper()
	ctx, cancel := within(t, silence)
	defer cancel()
	if _, err := h.ns.Ping(ctx, netip.Addr{}, to); err == nil {
		t.Errorf("from %s: %v answers, want no answer", h.Name(), to)
	}
}
