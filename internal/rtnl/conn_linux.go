// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Conn is a route netlink socket. The kernel carries out a request within the system
// call that sends it, so that reading the answers never waits. A Conn must not be
// used by two goroutines at the same time.
type Conn struct {
	fd  int
	seq uint32
	buf []byte
	// sizes has, for each kind of dump, how many objects the latest one had.
	sizes map[dumpKind]int
}

// receiveSize holds the largest part of a dump, which the kernel bounds by the
// reader's buffer and by 32 KiB, and the answers to most batches. Memory that no answer
// reaches is never touched.
const receiveSize = 8 * datagramSize

// dial opens a socket in the namespace. A socket stays in the namespace in which it
// was opened, so that the thread is there for this call only.
func dial(ns *os.File) (*Conn, error) {
	c := &Conn{buf: make([]byte, receiveSize), sizes: map[dumpKind]int{}}
	err := InNetns(ns, func() (err error) {
		c.fd, err = openSocket(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	// The options are reasons in words, answers that do not echo the request, and
	// filters in dumps. A kernel that lacks one of them works as well.
	for _, option := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK, unix.NETLINK_GET_STRICT_CHK} {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, option, 1)
	}
	return c, nil
}

func (c *Conn) close() error { return unix.Close(c.fd) }

// Do sends the requests of a batch in one system call and returns the answer to each
// of them, in the order of the requests.
func (c *Conn) Do(b *Batch) ([]Answer, error) {
	if len(b.starts) == 0 {
		return nil, nil
	}
	first := c.seq + 1
	c.seq += uint32(len(b.starts))
	if err := send(c.fd, b.serialize(first)); err != nil {
		return nil, err
	}
	answers := make([]Answer, len(b.starts))
	for done := false; !done; {
		datagrams, err := receiveAll(c.fd, c.buf)
		if err != nil {
			return nil, err
		}
		for _, d := range datagrams {
			last, err := take(d, first, answers)
			if err != nil {
				return nil, err
			}
			done = done || last
		}
	}
	return answers, nil
}

// take puts the messages of a datagram into the answers to requests from number first. It
// reports whether the last answer is complete.
func take(datagram []byte, first uint32, answers []Answer) (done bool, err error) {
	for m, err := range messagesOf(datagram) {
		if err != nil {
			return false, err
		}
		i := int(m.Header.Seq - first)
		if i < 0 || i >= len(answers) {
			continue
		}
		if m.Header.Type != unix.NLMSG_ERROR {
			answers[i].body = append([]byte(nil), m.Data...)
			continue
		}
		answers[i].Err = messageError(m)
		done = done || i == len(answers)-1
	}
	return done, nil
}
