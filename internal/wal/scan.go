// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// content is what a log holds as far as its checksums agree.
type content struct {
	stamp stamp
	// items of all records, and how many of them the last record has.
	items [][]byte
	tail  int
	// last is the point behind the last record and prev the one before it. They
	// are equal in a log without records.
	prev, last point
	// size is the number of bytes up to the end of the last record.
	size int64
	// stop says why the next record cannot be read. Nil if the file ends there.
	stop error
}

// scan reads a log of size bytes as far as its checksums agree. An error means
// that not even the header does.
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
	for c.size < size {
		if c.stop = c.record(in, size); c.stop != nil {
			c.stop = fmt.Errorf("record %d at byte %d: %w", c.last.seq+1, c.size, c.stop)
			break
		}
	}
	return c, nil
}

// record reads the next record.
func (c *content) record(in io.Reader, size int64) error {
	head := make([]byte, recordHead)
	if _, err := io.ReadFull(in, head); err != nil {
		return err
	}
	claimed, n, err := decodeRecordHead(head)
	if err != nil {
		return err
	}
	if left := size - c.size - recordHead; int64(n) > left {
		return fmt.Errorf("%d bytes long, and the file has %d more: %w", n, left, io.ErrUnexpectedEOF)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(in, payload); err != nil {
		return err
	}
	next := c.last.after(payload)
	if next != claimed {
		return errors.New("does not match its checksum and the records before it")
	}
	items, err := splitItems(payload)
	if err != nil {
		return err
	}
	c.prev, c.last = c.last, next
	c.items, c.tail = append(c.items, items...), len(items)
	c.size += recordHead + int64(n)
	return nil
}

// agree checks a log against what the head says. The head may be one record
// behind, where a process was killed before it wrote the head.
func (c *content) agree(head point) error {
	if head == c.last || head == c.prev {
		return nil
	}
	why := fmt.Errorf("the log ends after record %d, want %d as the head says", c.last.seq, head.seq)
	if head.seq == c.last.seq || head.seq == c.prev.seq {
		why = fmt.Errorf("the head has another checksum for record %d", head.seq)
	}
	return errors.Join(why, c.stop)
}
