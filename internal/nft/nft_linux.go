// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Socket works on nftables in one network namespace. It is safe for concurrent
// use. It keeps an open connection for the next call: the kernel makes who closes
// one wait, for 10 ms and more, until what anybody's transactions deleted is
// freed.
type Socket struct {
	ns   *os.File
	idle chan *conn
}

// New returns a socket for the namespace, which the caller keeps open until it
// has closed the socket.
func New(ns *os.File) *Socket { return &Socket{ns: ns, idle: make(chan *conn, 1)} }

// Close closes the connection that is kept; the next call opens another.
func (s *Socket) Close() error {
	select {
	case c := <-s.idle:
		return c.close()
	default:
		return nil
	}
}

// conn is a connection, and one of its own to count transactions with, which the
// library does not do.
type conn struct {
	*nftables.Conn
	count *netlink.Conn
}

func (c *conn) close() error { return errors.Join(c.CloseLasting(), c.count.Close()) }

// Do lends f a connection. After an error it is not used again, for there may be
// requests in it that were never sent, and answers that belong to no question.
func (s *Socket) Do(f func(*nftables.Conn) error) error {
	return s.lend(func(c *conn) error { return f(c.Conn) })
}

func (s *Socket) lend(f func(*conn) error) error {
	c, err := s.take()
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

func (s *Socket) take() (*conn, error) {
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
	count, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: fd})
	if err != nil {
		return nil, err
	}
	c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(fd))
	if err != nil {
		return nil, errors.Join(err, count.Close())
	}
	return &conn{c, count}, nil
}

// namespaceFD returns the descriptor of ns, 0 if the calling thread is in ns: to
// enter it again would take CAP_SYS_ADMIN.
func namespaceFD(ns *os.File) (int, error) {
	own, err := isOwn(ns)
	if err != nil || own {
		return 0, err
	}
	return int(ns.Fd()), nil
}

// isOwn reports whether ns is that of the calling thread.
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

// generation returns the number of the last transaction of anybody in the
// namespace.
func (c *conn) generation() (uint32, error) {
	answers, err := c.count.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, nfgenmsg),
	})
	if err != nil {
		return 0, fmt.Errorf("nftables generation: %w", err)
	}
	for _, m := range answers {
		attributes, err := netlink.UnmarshalAttributes(m.Data[min(nfgenmsg, len(m.Data)):])
		if err != nil {
			return 0, fmt.Errorf("nftables generation: %w", err)
		}
		for _, a := range attributes {
			if a.Type == unix.NFTA_GEN_ID && len(a.Data) == 4 {
				return binary.BigEndian.Uint32(a.Data), nil
			}
		}
	}
	return 0, errors.New("nftables generation: none in the answer")
}

// nfgenmsg is the size of the header of netfilter messages.
const nfgenmsg = 4

// ErrTorn is that what was listed is gone when it is looked into. Which error the
// kernel gave the library does not tell.
var ErrTorn = errors.New("changed by others while it is read")

// Torn marks the error of a request about something that was listed before.
func Torn(what string, err error) error { return fmt.Errorf("%s: %w: %w", what, ErrTorn, err) }

// tries bounds how often Read begins again.
const tries = 20

// Read calls read, which asks for what it wants in several requests, until it has
// a whole answer: others may change between two requests what is asked for. Where
// others never pause, two answers that are equal will do. It ends early with ctx.
func Read[T any](ctx context.Context, s *Socket, equal func(a, b T) bool, read func(*nftables.Conn) (T, error)) (T, error) {
	var (
		last    *T // may be torn
		outcome error
	)
	for range tries {
		var (
			got     T
			settled bool
		)
		if err := ctx.Err(); err != nil {
			return got, err
		}
		err := s.lend(func(c *conn) error {
			before, err := c.generation()
			if err != nil {
				return err
			}
			if got, err = read(c.Conn); err != nil {
				return err
			}
			after, err := c.generation()
			settled = before == after
			return err
		})
		switch {
		case err == nil && (settled || last != nil && equal(got, *last)):
			return got, nil
		case err == nil:
			last, outcome = &got, ErrTorn
		case errors.Is(err, ErrTorn):
			outcome = err
		default:
			return got, err
		}
	}
	var none T
	return none, outcome
}
