// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// Batch is a list of route netlink requests that go to the kernel in one system call.
// The kernel carries them out in order; a request that fails does not stop the
// others. The zero value is an empty batch.
type Batch struct {
	buf    []byte // the requests, without their sizes and sequence numbers
	starts []int  // where each request begins in buf
}

// dumpKind is a kind of dump: the type of the request, and the family that begins its body.
type dumpKind struct {
	request uint16
	family  uint8
}

// kind returns the kind of a batch of one request for a dump.
func (b *Batch) kind() dumpKind {
	return dumpKind{binary.NativeEndian.Uint16(b.buf[4:]), b.buf[unix.NLMSG_HDRLEN]}
}

// BatchSize bounds the requests of one batch, so that the answers fit into the buffer
// of the socket.
const BatchSize = 64

// Flags of requests.
const (
	// create adds an object, or fails with EEXIST.
	create = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	// replace adds an object, or replaces the one in its place.
	replace = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
)

// Change appends the request for one change. Index is the number of the item's link; a
// rule has none.
func (b *Batch) Change(ch netstate.Change, index int) {
	switch i := ch.Item.(type) {
	case netstate.Link:
		if ch.Op == netstate.OpDelete {
			b.DeleteLink(index)
		} else {
			b.SetLink(index, i)
		}
	case netstate.Address:
		b.Address(ch.Op, index, i)
	case netstate.Neighbor:
		b.Neighbor(ch.Op, index, i)
	case netstate.Route:
		if ch.Op == netstate.OpDelete {
			b.DeleteRoute(index, i)
		} else {
			b.ReplaceRoute(index, i)
		}
	case netstate.Rule:
		b.Rule(ch.Op, i)
	}
}

// requestOf returns kind and flags of the request that adds or deletes an object.
func requestOf(op netstate.Op, addKind, addFlags, deleteKind int) (kind, flags int) {
	if op == netstate.OpAdd {
		return addKind, addFlags
	}
	return deleteKind, 0
}
