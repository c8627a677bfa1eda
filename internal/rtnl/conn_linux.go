// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Conn is a route netlink socket. The kernel works on a request within the
// system call that sends it, so reading the answers never waits. One goroutine
// uses a conn at a time.
type Conn struct {
	fd  int
	seq uint32
	buf []byte
}

// receiveSize holds the largest part of a dump, which the kernel bounds by the
// reader's buffer and 32 KiB.
const receiveSize = 64 << 10

// dial opens a socket in the namespace. The thread is there only for the socket
// call: a socket belongs to its namespace for good.
func dial(ns *os.File) (*Conn, error) {
	c := &Conn{fd: -1, buf: make([]byte, receiveSize)}
	err := InNetns(ns, func() (err error) {
		c.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	// Reasons in words, no echo of the request in answers, and filters in dumps.
	// A kernel without one of them works as well.
	for _, opt := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK, unix.NETLINK_GET_STRICT_CHK} {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, opt, 1)
	}
	return c, nil
}

func (c *Conn) close() error { return unix.Close(c.fd) }

// kernelError is the kernel's answer to one request: errno and, if it gave one,
// its reason in words.
type kernelError struct {
	errno  unix.Errno
	reason string
}

func (e *kernelError) Error() string {
	if e.reason == "" {
		return e.errno.Error()
	}
	return fmt.Sprintf("%v (%s)", e.errno, e.reason)
}

func (e *kernelError) Unwrap() error { return e.errno }

// Answer is what came back for one request of a batch.
type Answer struct {
	Err  error
	Data []byte
}

// Do sends a batch in one system call and returns an answer for each request.
func (c *Conn) Do(b *Batch) ([]Answer, error) {
	if len(b.Starts) == 0 {
		return nil, nil
	}
	first := c.seq + 1
	for _, at := range b.Starts {
		c.seq++
		binary.NativeEndian.PutUint32(b.Buf[at+8:], c.seq)
	}
	if err := c.send(b.Buf); err != nil {
		return nil, err
	}
	answers := make([]Answer, len(b.Starts))
	for left := len(answers); left > 0; {
		err := c.receive(func(m Message) {
			i := int(m.seq - first)
			if i < 0 || i >= len(answers) {
				return
			}
			if m.Kind != unix.NLMSG_ERROR {
				answers[i].Data = append([]byte(nil), m.Body...)
				return
			}
			answers[i].Err = m.err()
			left--
		})
		if err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// dumpTries bounds how often a dump is started again because something changed
// meanwhile; on a busy node that happens now and then.
const dumpTries = 20

// ErrInterrupted means that what was dumped changed under way.
var ErrInterrupted = errors.New("dump interrupted by changes")

// Dump sends one request and calls each for every message of the answer, after
// it has arrived as a whole and consistent.
func (c *Conn) Dump(b *Batch, each func(body []byte) error) error {
	var err error
	for range dumpTries {
		var bodies [][]byte
		bodies, err = c.dumpOnce(b)
		if errors.Is(err, ErrInterrupted) {
			continue
		}
		if err != nil {
			return err
		}
		for _, body := range bodies {
			if err := each(body); err != nil {
				return err
			}
		}
		return nil
	}
	return err
}

func (c *Conn) dumpOnce(b *Batch) ([][]byte, error) {
	c.seq++
	binary.NativeEndian.PutUint32(b.Buf[8:], c.seq)
	if err := c.send(b.Buf); err != nil {
		return nil, err
	}
	var (
		bodies [][]byte
		broken error
		done   bool
	)
	for !done {
		err := c.receive(func(m Message) {
			if m.seq != c.seq {
				return
			}
			if m.flags&unix.NLM_F_DUMP_INTR != 0 {
				broken = ErrInterrupted
			}
			switch m.Kind {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				done = true
				if err := m.err(); err != nil {
					broken = err
				}
			default:
				bodies = append(bodies, append([]byte(nil), m.Body...))
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return bodies, broken
}

func (c *Conn) send(b []byte) error {
	for {
		err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Message is one netlink message. The port is that of the socket whose request
// it answers or reports, 0 for the kernel itself.
type Message struct {
	Kind, flags uint16
	seq, Port   uint32
	Body        []byte
}

// receive reads one datagram and calls f for each message in it; the body is
// valid until f returns.
func (c *Conn) receive(f func(Message)) error {
	n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return err
	}
	for b := c.buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return fmt.Errorf("netlink message of %d bytes in %d", size, len(b))
		}
		f(Message{
			Kind:  binary.NativeEndian.Uint16(b[4:]),
			flags: binary.NativeEndian.Uint16(b[6:]),
			seq:   binary.NativeEndian.Uint32(b[8:]),
			Port:  binary.NativeEndian.Uint32(b[12:]),
			Body:  b[unix.NLMSG_HDRLEN:size],
		})
		b = b[min(align(size), len(b)):]
	}
	return nil
}

// err decodes an NLMSG_ERROR or NLMSG_DONE message; nil is success.
func (m Message) err() error {
	if len(m.Body) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(m.Body))
	if code == 0 {
		return nil
	}
	e := &kernelError{errno: unix.Errno(-code)}
	// After the code of an error comes the header of the request, unless more.
	if m.Kind == unix.NLMSG_ERROR && m.flags&unix.NLM_F_ACK_TLVS != 0 && m.flags&unix.NLM_F_CAPPED != 0 && len(m.Body) >= 20 {
		for a, v := range Attributes(m.Body[20:]) {
			if a == unix.NLMSGERR_ATTR_MSG {
				e.reason = Text(v)
			}
		}
	}
	return e
}

func align(n int) int { return (n + 3) &^ 3 }
