// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// version is the version of the format. Version 1 was a bbolt file.
const version = 2

// The first words of the two files.
const (
	magicLog  = "vpcnet-journal"
	magicHead = "vpcnet-head"
)

// maxStamp is the maximum length of the first line of both files, and maxRecord
// that of the payload of one record, in bytes. Replace writes a whole list as one
// record: a thousand pods take half a megabyte.
const (
	maxStamp  = 1 << 10
	maxRecord = 256 << 20
)

// sum is a checksum.
type sum [sha256.Size]byte

// point is a position between two records: the number of records before it,
// counted from the creation of the first log, and their chained checksum.
type point struct {
	seq uint64
	sum sum
}

// stamp is the first line of a file. In a log it has the point before the first
// record, in a head the point after the last record.
type stamp struct {
	magic, name, boot string
	at                point
}

// errNewer: the line matches its checksum and has a newer version.
var errNewer = errors.New("newer version")

// encode returns the line. Its length depends on name and boot alone.
//
//	magic version name boot sequence checksum checksum-of-the-line
func (s stamp) encode() []byte {
	body := fmt.Sprintf("%s %d %s %s %016x %x ", s.magic, version, s.name, s.boot, s.at.seq, s.at.sum)
	return fmt.Appendf([]byte(body), "%x\n", sha256.Sum256([]byte(body)))
}

// decodeStamp decodes the first line of data and returns its length. In all
// versions the first word is magic, the second one is the version, and the last
// one is the checksum of the line.
func decodeStamp(magic, name string, data []byte) (s stamp, n int, err error) {
	end := bytes.IndexByte(data[:min(len(data), maxStamp)], '\n')
	if end < 0 {
		return stamp{}, 0, fmt.Errorf("the first %d bytes have no end of a header line", min(len(data), maxStamp))
	}
	line := string(data[:end])
	cut := strings.LastIndexByte(line, ' ') + 1
	want := sha256.Sum256([]byte(line[:cut]))
	if line[cut:] != hex.EncodeToString(want[:]) {
		return stamp{}, 0, errors.New("the header does not match its checksum")
	}
	words := strings.Split(line[:cut], " ")
	if len(words) < 3 || words[0] != magic {
		return stamp{}, 0, fmt.Errorf("the header begins with %.20q, want %q", words[0], magic)
	}
	if v, err := strconv.Atoi(words[1]); err != nil || v > version {
		return stamp{}, 0, fmt.Errorf("format %.20q: %w", words[1], errNewer)
	}
	if len(words) != 7 {
		return stamp{}, 0, fmt.Errorf("the header has %d words, want 7", len(words))
	}
	s = stamp{magic: magic, name: words[2], boot: words[3]}
	if s.at, err = decodePoint(words[4], words[5]); err != nil {
		return stamp{}, 0, err
	}
	if s.name != name || !bytes.Equal(s.encode(), data[:end+1]) {
		return stamp{}, 0, fmt.Errorf("the header has journal %q, want %q", s.name, name)
	}
	return s, end + 1, nil
}

func decodePoint(seq, checksum string) (p point, err error) {
	if p.seq, err = strconv.ParseUint(seq, 16, 64); err != nil {
		return point{}, fmt.Errorf("sequence number: %w", err)
	}
	b, err := hex.DecodeString(checksum)
	if err != nil || len(b) != len(p.sum) {
		return point{}, fmt.Errorf("%q is not a checksum", checksum)
	}
	copy(p.sum[:], b)
	return p, nil
}

// recordHead is the length of the line before each payload, in bytes:
//
//	sequence length checksum
const recordHead = numbers + 1 + 2*sha256.Size + 1

// encodeRecord appends to buf one record with items that follows p. It returns
// the buffer and the point after the record.
func encodeRecord(buf []byte, p point, items [][]byte) ([]byte, point, error) {
	size := 0
	for _, item := range items {
		if bytes.IndexByte(item, '\n') >= 0 {
			return nil, point{}, fmt.Errorf("item %.40q contains a newline, want one line", item)
		}
		size += len(item) + 1
	}
	if size > maxRecord {
		return nil, point{}, fmt.Errorf("record has %d bytes, want at most %d", size, maxRecord)
	}
	start := len(buf)
	buf = append(buf, make([]byte, recordHead)...)
	for _, item := range items {
		buf = append(append(buf, item...), '\n')
	}
	next := p.after(sha256.New(), buf[start+recordHead:])
	line := append(appendNumbers(buf[start:start], next.seq, size), ' ')
	_ = append(hex.AppendEncode(line, next.sum[:]), '\n') // into the room before the payload
	return buf, next, nil
}

// after returns the point after a record that follows p. It computes the checksum with h,
// which is a SHA-256.
func (p point) after(h hash.Hash, payload []byte) point {
	h.Reset()
	h.Write(p.sum[:])
	h.Write(appendNumbers(make([]byte, 0, numbers), p.seq+1, len(payload)))
	h.Write(payload)
	next := point{seq: p.seq + 1}
	h.Sum(next.sum[:0])
	return next
}

// numbers is the length of the two numbers before a record, in bytes.
const numbers = 16 + 1 + 8

// appendNumbers appends the number of a record and the length of its payload.
func appendNumbers(buf []byte, seq uint64, size int) []byte {
	var n [12]byte
	binary.BigEndian.PutUint64(n[:8], seq)
	binary.BigEndian.PutUint32(n[8:], uint32(size))
	buf = hex.AppendEncode(buf, n[:8])
	return hex.AppendEncode(append(buf, ' '), n[8:])
}

// decodeRecordHead decodes the line before a payload: the point after the record
// according to the line, and the length of the payload.
func decodeRecordHead(line []byte) (p point, size int, err error) {
	if len(line) != recordHead || line[16] != ' ' || line[numbers] != ' ' || line[recordHead-1] != '\n' ||
		bytes.ContainsFunc(line, func(r rune) bool { return 'A' <= r && r <= 'F' }) {
		return point{}, 0, errors.New("the line before the record has another format")
	}
	var n [12]byte
	for _, field := range []struct{ to, from []byte }{{n[:8], line[:16]}, {n[8:], line[17:numbers]}, {p.sum[:], line[numbers+1 : recordHead-1]}} {
		if _, err := hex.Decode(field.to, field.from); err != nil {
			return point{}, 0, fmt.Errorf("the line before the record: %w", err)
		}
	}
	length := binary.BigEndian.Uint32(n[8:])
	if length > maxRecord {
		return point{}, 0, fmt.Errorf("the record has %d bytes, want at most %d", length, maxRecord)
	}
	p.seq = binary.BigEndian.Uint64(n[:8])
	return p, int(length), nil
}

// appendItems appends the items of a payload that encodeRecord has written.
func appendItems(items [][]byte, payload []byte) ([][]byte, error) {
	if len(payload) > 0 && payload[len(payload)-1] != '\n' {
		return nil, errors.New("the record does not end with a newline")
	}
	for len(payload) > 0 {
		end := bytes.IndexByte(payload, '\n')
		items = append(items, payload[:end:end])
		payload = payload[end+1:]
	}
	return items, nil
}
