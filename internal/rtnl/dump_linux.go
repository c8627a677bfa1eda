// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"cmp"
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
// message of the answer, as the messages arrive. It calls begin before each try: what each
// has got from an earlier try is not consistent. Each must not keep body. After an error
// of each, dump reads the rest of the answer and returns that error.
func (c *Conn) dump(b *Batch, begin func(), each func(body []byte) error) error {
	for range dumpTries {
		begin()
		if err := c.dumpOnce(b, each); !errors.Is(err, ErrInterrupted) {
			return err
		}
	}
	return ErrInterrupted
}

// list dumps and returns the objects that decode returns with true. It expects as many as
// the latest dump of the kind on c had.
func list[T any](c *Conn, b *Batch, decode func(body []byte) (T, bool, error)) ([]T, error) {
	kind := b.kind()
	found := make([]T, 0, c.sizes[kind])
	err := c.dump(b, func() { found = found[:0] }, func(body []byte) error {
		x, ok, err := decode(body)
		if err == nil && ok {
			found = append(found, x)
		}
		return err
	})
	c.sizes[kind] = len(found)
	return found, err
}

func (c *Conn) dumpOnce(b *Batch, each func(body []byte) error) error {
	c.seq++
	if err := send(c.fd, b.serialize(c.seq)); err != nil {
		return err
	}
	d := dumpReader{each: each}
	for !d.done {
		if err := d.read(c); err != nil {
			return err
		}
	}
	if d.interrupted {
		return ErrInterrupted
	}
	return d.err
}

// dumpReader reads the answer to a dump request.
type dumpReader struct {
	each func(body []byte) error
	// done is set when the last message has arrived.
	done bool
	// interrupted is set when the kernel reports that the answer is not consistent.
	interrupted bool
	// err is the first error of the kernel or of each.
	err error
}

// read reads one datagram.
func (d *dumpReader) read(c *Conn) error {
	datagram, err := receive(c.fd, c.buf, 0)
	if err != nil {
		return err
	}
	for m, err := range messagesOf(datagram) {
		if err != nil {
			return err
		}
		if m.Header.Seq != c.seq {
			continue
		}
		d.interrupted = d.interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
		switch m.Header.Type {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			d.done = true
			err = messageError(m)
		default:
			if d.err == nil && !d.interrupted {
				err = d.each(m.Data)
			}
		}
		d.err = cmp.Or(d.err, err)
	}
	return nil
}
