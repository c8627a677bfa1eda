// SPDX-License-Identifier: Apache-2.0

package agentdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// The format of a bbolt file:
// https://github.com/etcd-io/bbolt/blob/v1.5.0/internal/common/page.go and meta.go.
const (
	pageHeader  = 16
	elementSize = 16
	metaSize    = 64 // with its checksum
	metaMagic   = 0xED0CDAED
	metaVersion = 2

	flagBranch = 0x01
	flagLeaf   = 0x02
	flagMeta   = 0x04
	flagBucket = 0x01 // of a leaf element

	minPage, maxPage = 512, 1 << 20
)

var (
	order    = binary.NativeEndian
	errShort = fmt.Errorf("an element extends beyond its page: %w", io.ErrUnexpectedEOF)
)

// tree is a bbolt file in memory.
type tree struct {
	data []byte
	page int    // size of a page, in bytes
	end  uint64 // number of pages
	root uint64
	seen map[uint64]bool
}

// pair is a key with its value, or the bucket of that name.
type pair struct {
	key, value []byte
	bucket     bool
}

// openTree reads the two meta pages. A writer updates them alternately, so both
// must be intact, and one transaction apart.
func openTree(data []byte) (*tree, error) {
	first, err := readMeta(data, 0)
	if err != nil {
		return nil, err
	}
	if first.page < minPage || first.page > maxPage || first.page&(first.page-1) != 0 || len(data) < 2*first.page {
		return nil, fmt.Errorf("page size is %d, want a power of two from %d to %d and two pages in the file of %d bytes", first.page, minPage, maxPage, len(data))
	}
	second, err := readMeta(data[first.page:], 1)
	if err != nil {
		return nil, err
	}
	latest := second
	if first.txid > second.txid {
		latest = first
	}
	if first.page != second.page || first.txid+second.txid+1 != 2*latest.txid {
		return nil, errors.New("the meta pages contradict each other")
	}
	if latest.end > uint64(len(data)/first.page) {
		return nil, fmt.Errorf("the file has %d pages, want %d", len(data)/first.page, latest.end)
	}
	return &tree{data: data, page: first.page, end: latest.end, root: latest.root, seen: map[uint64]bool{}}, nil
}

type meta struct {
	page            int
	root, end, txid uint64
}

func readMeta(data []byte, id uint64) (meta, error) {
	if len(data) < pageHeader+metaSize {
		return meta{}, fmt.Errorf("meta page %d: %w", id, io.ErrUnexpectedEOF)
	}
	m := data[pageHeader : pageHeader+metaSize]
	checksum := fnv.New64a()
	checksum.Write(m[:metaSize-8])
	out := meta{page: int(order.Uint32(m[8:])), root: order.Uint64(m[16:]), end: order.Uint64(m[40:]), txid: order.Uint64(m[48:])}
	if order.Uint64(data) != id || order.Uint16(data[8:]) != flagMeta || order.Uint32(m) != metaMagic ||
		order.Uint32(m[4:]) != metaVersion || out.txid%2 != id || order.Uint64(m[metaSize-8:]) != checksum.Sum64() {
		return meta{}, fmt.Errorf("meta page %d does not match its checksum", id)
	}
	return out, nil
}

// pairs returns the pairs below page id in the order of their keys.
func (t *tree) pairs(id uint64) ([]pair, error) {
	var out []pair
	if err := t.walk(id, &out); err != nil {
		return nil, err
	}
	for i := 1; i < len(out); i++ {
		if bytes.Compare(out[i-1].key, out[i].key) >= 0 {
			return nil, fmt.Errorf("key %q follows key %q, want ascending keys", out[i].key, out[i-1].key)
		}
	}
	return out, nil
}

func (t *tree) walk(id uint64, out *[]pair) error {
	if id < 2 || id >= t.end {
		return fmt.Errorf("page number is %d, want 2 to %d", id, t.end-1)
	}
	p := t.data[id*uint64(t.page) : t.end*uint64(t.page)]
	pages := 1 + uint64(order.Uint32(p[12:]))
	if order.Uint64(p) != id || pages > t.end-id {
		return fmt.Errorf("page %d has number %d and %d pages, want its own number and at most %d pages", id, order.Uint64(p), pages, t.end-id)
	}
	for i := range pages {
		if t.seen[id+i] {
			return fmt.Errorf("page %d is used twice", id+i)
		}
		t.seen[id+i] = true
	}
	p = p[:pages*uint64(t.page)]
	switch order.Uint16(p[8:]) {
	case flagLeaf:
		return readLeaf(p, out)
	case flagBranch:
		for i := range int(order.Uint16(p[10:])) {
			at := pageHeader + i*elementSize
			if at+elementSize > len(p) {
				return errShort
			}
			if err := t.walk(order.Uint64(p[at+8:]), out); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("page %d has flags %#x, want %#x or %#x", id, order.Uint16(p[8:]), flagBranch, flagLeaf)
}

// readLeaf reads the elements of a leaf page, or of a bucket that is small enough
// to be stored in a value.
func readLeaf(p []byte, out *[]pair) error {
	if len(p) < pageHeader || order.Uint16(p[8:]) != flagLeaf {
		return errShort
	}
	for i := range int(order.Uint16(p[10:])) {
		at := pageHeader + i*elementSize
		if at+elementSize > len(p) {
			return errShort
		}
		flags, pos := order.Uint32(p[at:]), uint64(at)+uint64(order.Uint32(p[at+4:]))
		key, value := uint64(order.Uint32(p[at+8:])), uint64(order.Uint32(p[at+12:]))
		if flags&^flagBucket != 0 || pos+key+value > uint64(len(p)) {
			return errShort
		}
		*out = append(*out, pair{key: p[pos : pos+key], value: p[pos+key : pos+key+value], bucket: flags == flagBucket})
	}
	return nil
}

// bucket reads the pairs of a bucket, and its sequence number.
func (t *tree) bucket(b pair) (pairs []pair, sequence uint64, err error) {
	if !b.bucket || len(b.value) < 16 {
		return nil, 0, fmt.Errorf("%q is not a bucket", b.key)
	}
	sequence = order.Uint64(b.value[8:])
	if root := order.Uint64(b.value); root != 0 {
		pairs, err = t.pairs(root)
		return pairs, sequence, err
	}
	err = readLeaf(b.value[16:], &pairs)
	return pairs, sequence, err
}
