// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Most batches fit into a first buffer of this size, and have no more requests.
const (
	firstBytes    = 512
	firstRequests = 16
)

// add appends a request: the netlink header and the fixed header of its kind,
// with a size that is a multiple of 4. The attributes that are appended next belong to it.
func (b *Batch) add(kind, flags int, header []byte) {
	if b.buf == nil {
		b.buf, b.starts = make([]byte, 0, firstBytes), make([]int, 0, firstRequests)
	}
	b.starts = append(b.starts, len(b.buf))
	b.buf = append(b.buf, 0, 0, 0, 0) // the size
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(kind))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(flags)|unix.NLM_F_REQUEST)
	b.buf = append(b.buf, 0, 0, 0, 0, 0, 0, 0, 0) // sequence number and port
	b.buf = append(b.buf, header...)
}

// serialize returns the requests one after the other, with sequence numbers from first.
// The kernel acknowledges the last one only: it reports each request that fails, and
// answers in the order of the requests.
func (b *Batch) serialize(first uint32) []byte {
	last := b.buf[b.starts[len(b.starts)-1]:]
	binary.NativeEndian.PutUint16(last[6:], binary.NativeEndian.Uint16(last[6:])|unix.NLM_F_ACK)
	end := len(b.buf)
	for i := len(b.starts) - 1; i >= 0; i-- {
		at := b.starts[i]
		binary.NativeEndian.PutUint32(b.buf[at:], uint32(end-at))
		binary.NativeEndian.PutUint32(b.buf[at+8:], first+uint32(i))
		end = at
	}
	return b.buf
}

// attr appends an attribute.
func (b *Batch) attr(kind int, value []byte) {
	b.attrHeader(kind, len(value))
	b.buf = append(b.buf, value...)
	b.pad()
}

func (b *Batch) attrHeader(kind, size int) {
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(unix.SizeofRtAttr+size))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(kind))
}

// pad appends zeros up to the alignment of attributes.
func (b *Batch) pad() {
	for len(b.buf) != align(len(b.buf)) {
		b.buf = append(b.buf, 0)
	}
}

func (b *Batch) attr8(kind int, v uint8) {
	b.attrHeader(kind, 1)
	b.buf = append(b.buf, v)
	b.pad()
}

func (b *Batch) attr16(kind int, v uint16) {
	b.attrHeader(kind, 2)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, v)
	b.pad()
}

func (b *Batch) attr32(kind int, v uint32) {
	b.attrHeader(kind, 4)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, v)
}

// attrText appends an attribute with a string that ends with a zero byte.
func (b *Batch) attrText(kind int, s string) {
	b.attrHeader(kind, len(s)+1)
	b.buf = append(append(b.buf, s...), 0)
	b.pad()
}

func (b *Batch) attrAddr(kind int, a netip.Addr) {
	if a.Is4() {
		v := a.As4()
		b.attr(kind, v[:])
		return
	}
	v := a.As16()
	b.attr(kind, v[:])
}

// open begins an attribute that is made of the attributes appended before the close
// with the returned offset.
func (b *Batch) open(kind int) (at int) {
	at = len(b.buf)
	b.attrHeader(kind, 0)
	return at
}

func (b *Batch) close(at int) {
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(len(b.buf)-at))
}
