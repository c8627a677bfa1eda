// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrMissing means that the kernel has no nftables.
var ErrMissing = fmt.Errorf("the kernel has no nftables: load the module nf_tables: %w", errors.ErrUnsupported)

// missing returns ErrMissing with err if err is the answer of a kernel without nftables:
// that it has no such protocol, subsystem, or request.
func missing(err error) error {
	for _, answer := range []error{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EINVAL, unix.EOPNOTSUPP} {
		if errors.Is(err, answer) {
			return fmt.Errorf("%w: %w", ErrMissing, err)
		}
	}
	return err
}

// Socket works on nftables in one network namespace. It is safe for concurrent use. It
// keeps a connection open between calls: close blocks for 10 to 20 ms, until the kernel
// has freed everything deleted by earlier transactions.
type Socket struct {
	ns   *os.File
	idle chan *conn
}

// New returns a socket for the namespace ns. The caller closes the socket, and ns after
// it.
func New(ns *os.File) *Socket { return &Socket{ns: ns, idle: make(chan *conn, 1)} }

// Close closes the idle connection. A later call opens another one.
func (s *Socket) Close() error {
	select {
	case c := <-s.idle:
		return c.close()
	default:
		return nil
	}
}

// conn is a connection, and one for requests that the library cannot make.
type conn struct {
	*nftables.Conn
	library  *netlink.Conn // of Conn
	owned    map[string]bool
	requests *netlink.Conn
	raw      syscall.RawConn // of requests
	buf      []byte
}

func (c *conn) close() error { return errors.Join(c.CloseLasting(), c.requests.Close()) }

// Do calls f with a connection that no other call uses. After an error it closes the
// connection, because requests that were not sent, or answers that were not received,
// may be left in it.
func (s *Socket) Do(f func(*nftables.Conn) error) error {
	return s.do(func(c *conn) error { return f(c.Conn) })
}

func (s *Socket) do(f func(*conn) error) error {
	c, err := s.connect()
	if err != nil {
		return fmt.Errorf("%s: open netfilter socket: %w", s.ns.Name(), err)
	}
	if err := f(c); err != nil {
		return errors.Join(err, c.close())
	}
	select {
	case s.idle <- c:
		return nil
	default:
		return c.close()
	}
}

// connect returns the idle connection, or else a new one.
func (s *Socket) connect() (*conn, error) {
	select {
	case c := <-s.idle:
		return c, nil
	default:
		return dial(s.ns)
	}
}

func dial(ns *os.File) (*conn, error) {
	fd, err := namespaceFD(ns)
	if err != nil {
		return nil, err
	}
	requests, err := dialNetfilter(fd)
	if err != nil {
		return nil, missing(err)
	}
	var library *netlink.Conn
	options := func(c *netlink.Conn) error {
		library = c
		return setBuffers(c)
	}
	c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(fd), nftables.WithSockOptions(options))
	if err != nil {
		return nil, errors.Join(err, requests.Close())
	}
	raw, err := requests.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, c.CloseLasting(), requests.Close())
	}
	return &conn{Conn: c, library: library, owned: map[string]bool{}, requests: requests, raw: raw, buf: make([]byte, datagramSize)}, nil
}

// dialNetfilter opens a socket in the namespace ns, 0 for that of the thread. It first makes
// sure that the kernel has the protocol: version 0.5.1 of the library's package socket
// dereferences a nil pointer if the kernel answers EPROTONOSUPPORT.
func dialNetfilter(ns int) (*netlink.Conn, error) {
	probe, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	if err := unix.Close(probe); err != nil {
		return nil, err
	}
	return netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns})
}

// exchange sends a request and returns the answers. The kernel fills as much of a
// datagram as the receiver has room for, at most 32 kB, and counts from the first
// element on for each. The library receives 4 kB at a time, with which a set of 100,000
// elements takes several seconds.
func (c *conn) exchange(request netlink.Message) ([]syscall.NetlinkMessage, error) {
	sent, err := c.requests.Send(request)
	if err != nil {
		return nil, err
	}
	isDump := request.Header.Flags&netlink.Dump == netlink.Dump
	var answers []syscall.NetlinkMessage
	for {
		n, err := c.receive()
		if err != nil {
			return nil, err
		}
		messages, err := syscall.ParseNetlinkMessage(slices.Clone(c.buf[:n]))
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch {
			case m.Header.Seq != sent.Header.Sequence:
				continue
			case m.Header.Type == unix.NLMSG_ERROR || m.Header.Type == unix.NLMSG_DONE:
				return answers, errorOf(m)
			}
			answers = append(answers, m)
			if !isDump {
				return answers, nil
			}
		}
	}
}

// errorOf returns the error in the last answer to a request, nil if it has none.
func errorOf(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(m.Data)); code < 0 {
		return syscall.Errno(-code)
	}
	return nil
}

// receive receives one datagram.
func (c *conn) receive() (n int, err error) {
	waitErr := c.raw.Read(func(fd uintptr) bool {
		for {
			n, _, err = unix.Recvfrom(int(fd), c.buf, unix.MSG_DONTWAIT)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	return n, errors.Join(waitErr, err)
}

// The kernel takes a transaction in one message, for which the send buffer must be
// large enough, and queues an answer to each of its parts in the receive buffer.
// 100,000 prefixes take 4 MB in a set with IPv4 keys and 9 MB in a map with IPv6 keys.
// 1,000 classes of package policy take 14,000 answers, of nearly 1 kB each.
// The kernel doubles the sizes; they are bounds, and it allocates what a message needs.
const (
	sendBuffer    = 16 << 20
	receiveBuffer = 16 << 20
)

// setBuffers sizes the buffers of a socket. To exceed net.core.wmem_max and rmem_max
// takes CAP_NET_ADMIN in the initial user namespace. Without it they are the bounds,
// and the kernel refuses what does not fit, see [ErrTooLarge].
func setBuffers(c *netlink.Conn) error {
	return errors.Join(
		c.SetWriteBuffer(sendBuffer), c.SetReadBuffer(receiveBuffer),
		// Otherwise the answer to a refused part repeats the part.
		c.SetOption(netlink.CapAcknowledge, true),
	)
}

// namespaceFD returns the descriptor of ns, or 0 if ns is the namespace of the calling
// thread: entering it again needs CAP_SYS_ADMIN.
func namespaceFD(ns *os.File) (int, error) {
	own, err := isOwn(ns)
	if err != nil || own {
		return 0, err
	}
	return int(ns.Fd()), nil
}

// isOwn reports whether ns is the namespace of the calling thread.
func isOwn(ns *os.File) (bool, error) {
	own, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return false, err
	}
	other, err := ns.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(own, other), nil
}

// Generation returns the number of the last transaction in the namespace, by any program.
// While it stays the same, no table has changed.
func (s *Socket) Generation() (number uint32, err error) {
	err = s.do(func(c *conn) (err error) {
		number, err = c.generation()
		return err
	})
	return number, err
}

// generation returns the number of the last transaction in the namespace, by any
// program.
func (c *conn) generation() (uint32, error) {
	answers, err := c.request(unix.NFT_MSG_GETGEN, 0)
	if err != nil {
		return 0, fmt.Errorf("nftables generation: %w", missing(err))
	}
	for _, answer := range answers {
		if id := answer[unix.NFTA_GEN_ID]; len(id) == 4 {
			return number(id), nil
		}
	}
	return 0, errors.New("nftables generation: the kernel's answer has no number")
}

// nfgenmsg is the size of the header of netfilter messages.
const nfgenmsg = 4

// ErrTorn means that other programs changed a table while it was read, as often as the
// reading began again.
var ErrTorn = errors.New("changed by other programs while it is read")

// torn returns the error of a request about a part of a table that was listed before.
// If the part no longer exists, the error is ErrTorn.
func torn(what string, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s: %w: %w", what, ErrTorn, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// tries is how often readConsistent calls its function.
const tries = 50

// readConsistent calls read, which makes several requests, until no transaction came
// between the first and the last of them. If other programs never pause, two equal
// results in succession are enough. It ends early with ctx.
func readConsistent[T any](ctx context.Context, s *Socket, equal func(a, b T) bool, read func(*conn) (T, error)) (T, error) {
	var (
		last    *T // perhaps torn
		lastErr error
	)
	for range tries {
		var (
			got       T
			unchanged bool
		)
		if err := ctx.Err(); err != nil {
			return got, err
		}
		err := s.do(func(c *conn) error {
			before, err := c.generation()
			if err != nil {
				return err
			}
			if got, err = read(c); err != nil {
				return err
			}
			after, err := c.generation()
			unchanged = before == after
			return err
		})
		switch {
		case err == nil && (unchanged || last != nil && equal(got, *last)):
			return got, nil
		case err == nil:
			last, lastErr = &got, ErrTorn
		case errors.Is(err, ErrTorn):
			lastErr = err
		default:
			return got, err
		}
	}
	var zero T
	return zero, lastErr
}
