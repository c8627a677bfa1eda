// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"time"
)

// FirstHead returns the head file that the creation of a log writes first.
func FirstHead(name, boot string) []byte {
	return stamp{magic: magicHead, name: name, boot: boot}.encode()
}

// Checked returns the words as a line that ends with its checksum, as the first
// lines of all versions do.
func Checked(words string) []byte {
	return fmt.Appendf(nil, "%s %x\n", words, sha256.Sum256([]byte(words+" ")))
}

// Judge returns the items of a log, and whether Open would accept it.
func Judge(name, boot string, logData, headData []byte) ([][]byte, bool) {
	l := &Log{name: name, boot: boot}
	var log, head file
	if log.content, log.bad = scan(bytes.NewReader(logData), int64(len(logData)), name); log.bad == nil {
		log.stamp = log.content.stamp
	}
	head.stamp, _, head.bad = decodeStamp(magicHead, name, headData)
	v, _ := l.judge(log, head, time.Time{})
	return log.content.items, v == intact
}

// More returns both files after one more append to a log that Judge accepts.
func More(name, boot string, data []byte, item string) (log, head []byte) {
	c, _ := scan(bytes.NewReader(data), int64(len(data)), name)
	log, next, _ := encodeRecord(bytes.Clone(data[:c.size]), c.last, [][]byte{[]byte(item)})
	return log, stamp{magic: magicHead, name: name, boot: boot, at: next}.encode()
}

// BreakHead makes writes of the head fail.
func (l *Log) BreakHead() error {
	_ = l.head.Close()
	f, err := os.Open(l.headPath())
	l.head = f
	return err
}
