// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// Neighbor is a neighbour entry with its state.
type Neighbor struct {
	netstate.Neighbor
	// Permanent means that the entry has an address and a MAC and does not expire. A
	// State shows no other entries.
	Permanent bool
	// NoARP means that the kernel derived the MAC from the address, as for multicast.
	NoARP bool
}

// neighborHeader returns struct ndmsg, the header of neighbour messages. Package nl has
// no such type.
func neighborHeader(family uint8, index int, state uint16) []byte {
	h := make([]byte, unix.SizeofNdMsg)
	h[0] = family
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	binary.NativeEndian.PutUint16(h[8:], state)
	return h
}

// Neighbor asks to add or delete a permanent neighbour entry.
func (b *Batch) Neighbor(op netstate.Op, index int, n netstate.Neighbor) {
	kind, flags := requestOf(op, unix.RTM_NEWNEIGH, replace, unix.RTM_DELNEIGH)
	b.add(kind, flags, neighborHeader(familyOf(n.Addr), index, unix.NUD_PERMANENT))
	b.attrAddr(unix.NDA_DST, n.Addr)
	if mac, err := net.ParseMAC(n.MAC); err == nil {
		b.attr(unix.NDA_LLADDR, mac)
	}
}

// decodeNeighbor decodes a neighbour entry. Function NeighDeserialize of package
// netlink panics on a short message, and may ask the kernel about a link of the
// namespace that the thread happens to be in.
func decodeNeighbor(body []byte, links LinkNames) (n Neighbor, err error) {
	if len(body) < unix.SizeofNdMsg {
		return n, fmt.Errorf("neighbour message has %d bytes, want at least %d", len(body), unix.SizeofNdMsg)
	}
	n.Link = links.Name(int(binary.NativeEndian.Uint32(body[4:])))
	for kind, v := range attributes(body[unix.SizeofNdMsg:]) {
		switch kind {
		case unix.NDA_DST:
			n.Addr = addr(v)
		case unix.NDA_LLADDR:
			n.MAC = net.HardwareAddr(v).String()
		}
	}
	state := binary.NativeEndian.Uint16(body[8:])
	n.Permanent = state&unix.NUD_PERMANENT != 0 && n.Addr.IsValid() && n.MAC != ""
	n.NoARP = state&unix.NUD_NOARP != 0
	return n, nil
}

// EachNeighbor calls f for each permanent neighbour entry of a link. The entries do
// not have the link's name.
func (c *Conn) EachNeighbor(index int, f func(netstate.Neighbor)) error {
	var b Batch
	b.add(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, neighborHeader(unix.AF_UNSPEC, 0, 0))
	b.attr32(unix.NDA_IFINDEX, uint32(index))
	neighbors, err := list(c, &b, func(body []byte) (Neighbor, bool, error) {
		n, err := decodeNeighbor(body, LinkNames{index: onlyLink})
		return n, n.Permanent && n.Link == onlyLink, err
	})
	if err != nil {
		return err
	}
	for _, n := range neighbors {
		n.Link = ""
		f(n.Neighbor)
	}
	return nil
}

// onlyLink stands for the name of the link in lists of the objects of one link. Kernels
// that do not filter by link list those of other links too.
const onlyLink = "this"

// NeighborOf returns the permanent entry that a link has for an address. The entry
// does not have the link's name.
func (c *Conn) NeighborOf(index int, a netip.Addr) (n netstate.Neighbor, found bool, err error) {
	var b Batch
	b.add(unix.RTM_GETNEIGH, 0, neighborHeader(familyOf(a), index, 0))
	b.attrAddr(unix.NDA_DST, a)
	answers, err := c.Do(&b)
	if err != nil || !answers[0].Found() {
		return n, false, err
	}
	entry, err := decodeNeighbor(answers[0].body, nil)
	entry.Link = ""
	return entry.Neighbor, entry.Permanent, err
}
