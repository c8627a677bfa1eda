// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

// content is the part of a log up to the first wrong checksum.
type content struct {
	stamp stamp
	// items are the items of all records.
	items [][]byte
	// last is the point after the last record and prev the one before it. They
	// are equal in a log without records.
	prev, last point
	// size is the number of bytes up to the end of the last record.
	size int64
	// stop is why the next record cannot be read. Nil means that the file ends
	// there.
	stop error
}

// scan reads a log of size bytes up to the first wrong checksum. It returns an
// error if the header is wrong.
func scan(r io.Reader, size int64, name string) (content, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	line, err := in.Peek(int(min(size, maxStamp)))
	if err != nil && !errors.Is(err, io.EOF) {
		return content{}, err
	}
	s, n, err := decodeStamp(magicLog, name, line)
	if err != nil {
		return content{}, err
	}
	if _, err := in.Discard(n); err != nil {
		return content{}, err
	}
	c := content{stamp: s, prev: s.at, last: s.at, size: int64(n)}
	records := &reader{in: in, hash: sha256.New()}
	for c.size < size {
		if c.stop = c.record(records, size); c.stop != nil {
			c.stop = fmt.Errorf("record %d at byte %d: %w", c.last.seq+1, c.size, c.stop)
			break
		}
	}
	return c, nil
}

// arena is the size of the blocks that scan allocates for items, in bytes.
const arena = 64 << 10

// reader reads the records of a log. Items share blocks of memory, because a log of a
// thousand pods has thousands of them.
type reader struct {
	in    *bufio.Reader
	hash  hash.Hash
	block []byte // what is left of the latest block
}

// take returns n bytes of memory.
func (r *reader) take(n int) []byte {
	if n > len(r.block) {
		r.block = make([]byte, max(n, arena))
	}
	out := r.block[:n:n]
	r.block = r.block[n:]
	return out
}

// record reads the next record of a log of size bytes.
func (c *content) record(r *reader, size int64) error {
	head, err := r.in.Peek(recordHead)
	if errors.Is(err, io.EOF) && len(head) > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	claimed, n, err := decodeRecordHead(head)
	if err != nil {
		return err
	}
	if left := size - c.size - recordHead; int64(n) > left {
		return fmt.Errorf("the record has %d bytes, but the file has only %d more: %w", n, left, io.ErrUnexpectedEOF)
	}
	if _, err := r.in.Discard(recordHead); err != nil {
		return err
	}
	payload := r.take(n)
	if _, err := io.ReadFull(r.in, payload); err != nil {
		return err
	}
	next := c.last.after(r.hash, payload)
	if next != claimed {
		return errors.New("the record does not match its checksum and the records before it")
	}
	if c.items, err = appendItems(c.items, payload); err != nil {
		return err
	}
	c.prev, c.last = c.last, next
	c.size += recordHead + int64(n)
	return nil
}

// agree checks that a log ends at head, or one record after it: a process may
// have been killed after it wrote the record and before it wrote the head.
func (c *content) agree(head point) error {
	if head == c.last || head == c.prev {
		return nil
	}
	why := fmt.Errorf("the log ends after record %d, want record %d of the head", c.last.seq, head.seq)
	if head.seq == c.last.seq || head.seq == c.prev.seq {
		why = fmt.Errorf("log and head have different checksums for record %d", head.seq)
	}
	return errors.Join(why, c.stop)
}
