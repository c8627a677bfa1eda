// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
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

// ndMsg is struct ndmsg, the header of neighbour messages. Package nl has no such type.
type ndMsg struct{ unix.NdMsg }

func (m ndMsg) Len() int { return unix.SizeofNdMsg }

func (m ndMsg) Serialize() []byte {
	b := binary.NativeEndian.AppendUint32([]byte{m.Family, 0, 0, 0}, uint32(m.Ifindex))
	return append(binary.NativeEndian.AppendUint16(b, m.State), m.Flags, m.Type)
}

// Neighbor asks to add or delete a permanent neighbour entry.
func (b *Batch) Neighbor(op netstate.Op, index int, n netstate.Neighbor) {
	kind, flags := requestOf(op, unix.RTM_NEWNEIGH, replace, unix.RTM_DELNEIGH)
	header := ndMsg{unix.NdMsg{Family: familyOf(n.Addr), Ifindex: int32(index), State: unix.NUD_PERMANENT}}
	attrs := []nl.NetlinkRequestData{addrAttr(unix.NDA_DST, n.Addr)}
	if mac, err := net.ParseMAC(n.MAC); err == nil {
		attrs = append(attrs, nl.NewRtAttr(unix.NDA_LLADDR, mac))
	}
	b.add(kind, flags, header, attrs...)
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
	return c.dump(unix.RTM_GETNEIGH, ndMsg{}, func(body []byte) error {
		n, err := decodeNeighbor(body, LinkNames{index: onlyLink})
		if n.Permanent && n.Link == onlyLink {
			n.Link = ""
			f(n.Neighbor)
		}
		return err
	}, uint32Attr(unix.NDA_IFINDEX, uint32(index)))
}

// onlyLink stands for the name of the link in lists of the objects of one link. Kernels
// that do not filter by link list those of other links too.
const onlyLink = "this"

// NeighborOf returns the permanent entry that a link has for an address. The entry
// does not have the link's name.
func (c *Conn) NeighborOf(index int, a netip.Addr) (n netstate.Neighbor, found bool, err error) {
	var b Batch
	header := ndMsg{unix.NdMsg{Family: familyOf(a), Ifindex: int32(index)}}
	b.add(unix.RTM_GETNEIGH, ack, header, addrAttr(unix.NDA_DST, a))
	answers, err := c.Do(&b)
	if err != nil || !answers[0].Found() {
		return n, false, err
	}
	entry, err := decodeNeighbor(answers[0].body, nil)
	entry.Link = ""
	return entry.Neighbor, entry.Permanent, err
}
