// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"

	"golang.org/x/sys/unix"
)

// dumpTries bounds how often a dump is started again because something changed while
// it ran. On a busy node that happens now and then.
const dumpTries = 20

// ErrInterrupted means that the dumped table changed during each of several dumps, so
// that none of them was consistent.
var ErrInterrupted = errors.New("dump interrupted by changes")

// dump sends a batch of one request with flag NLM_F_DUMP and calls each for every
// message of the answer, after the whole answer has arrived and is consistent.
func (c *Conn) dump(b *Batch, each func(body []byte) error) error {
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
	if err := send(c.fd, b.serialize(c.seq)); err != nil {
		return nil, err
	}
	var d dumpReader
	for !d.done {
		if err := d.read(c); err != nil {
			return nil, err
		}
	}
	return d.bodies, d.err
}

// dumpReader collects the answer to a dump request.
type dumpReader struct {
	bodies [][]byte
	// done is set when the last message has arrived.
	done bool
	// err is the kernel's error, or ErrInterrupted.
	err error
}

// read reads one datagram.
func (d *dumpReader) read(c *Conn) error {
	messages, err := receive(c.fd, c.buf, 0)
	if err != nil {
		return err
	}
	size := 0
	for _, m := range messages {
		size += len(m.Data)
	}
	copied := make([]byte, 0, size) // one allocation for all bodies
	for _, m := range messages {
		if m.Header.Seq != c.seq {
			continue
		}
		if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
			d.err = ErrInterrupted
		}
		switch m.Header.Type {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			d.done = true
			if err := messageError(m); err != nil {
				d.err = err
			}
		default:
			at := len(copied)
			copied = append(copied, m.Data...)
			d.bodies = append(d.bodies, copied[at:len(copied):len(copied)])
		}
	}
	return nil
}
