// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink/nl"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// Link is a link with what the kernel reports about it beyond package netstate.
type Link struct {
	netstate.Link
	// Index is the number of the link, PeerIndex that of the other end of a veth pair.
	Index, PeerIndex int
	// ParentIndex is the number of the link that a VLAN is on, MasterIndex that of the
	// bridge that the link is a port of.
	ParentIndex, MasterIndex int
	// AliasText is the alias of the link, whatever its kind.
	AliasText string
	// Running means that the link can send.
	Running bool
	// Sysctls are the settings of the link that a State shows.
	Sysctls []netstate.Sysctl
}

// LinkNames finds the names of links by number.
type LinkNames map[int]string

// Name returns the name of a link, or UnnamedLink and the number if it is not known.
func (n LinkNames) Name(index int) string {
	if name, ok := n[index]; ok {
		return name
	}
	return fmt.Sprintf("%s%d", UnnamedLink, index)
}

// UnnamedLink begins the text that stands for the name of an unknown link.
const UnnamedLink = "if"

// decodeLink decodes a link with its settings.
func decodeLink(body []byte) (Link, error) {
	l, spec, err := decodeLinkOnly(body)
	if err != nil {
		return l, err
	}
	l.Sysctls = decodeLinkSettings(l.Name, spec)
	return l, nil
}

// decodeLinkOnly decodes a link without its settings, and returns IFLA_AF_SPEC, which
// has them. Function LinkDeserialize of package netlink does not read that attribute,
// drops a MAC of zeros, panics on short messages, and may read about tun links in /sys,
// which shows the namespace of the thread.
func decodeLinkOnly(body []byte) (l Link, spec []byte, err error) {
	if len(body) < unix.SizeofIfInfomsg {
		return l, nil, fmt.Errorf("link message has %d bytes, want at least %d", len(body), unix.SizeofIfInfomsg)
	}
	header := nl.DeserializeIfInfomsg(body)
	l.Index = int(header.Index)
	l.Up = header.Flags&unix.IFF_UP != 0
	l.NoARP = header.Flags&unix.IFF_NOARP != 0
	l.Running = header.Flags&unix.IFF_RUNNING != 0
	for kind, v := range attributes(body[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = unix.ByteSliceToString(v)
		case unix.IFLA_ADDRESS:
			l.MAC = net.HardwareAddr(v).String()
		case unix.IFLA_MTU:
			l.MTU = number(v)
		case unix.IFLA_GROUP:
			l.Group = number(v)
		case unix.IFLA_LINK:
			l.PeerIndex = number(v)
		case unix.IFLA_LINKINFO:
			l.Kind, l.VLAN = decodeLinkInfo(v)
		case unix.IFLA_MASTER:
			l.MasterIndex = number(v)
		case unix.IFLA_IFALIAS:
			l.AliasText = unix.ByteSliceToString(v)
		case unix.IFLA_AF_SPEC:
			spec = v
		}
	}
	switch l.Kind {
	case "vlan":
		l.ParentIndex, l.PeerIndex = l.PeerIndex, 0
		l.Alias = l.AliasText
	case "veth":
		l.Alias = l.AliasText
	}
	return l, spec, nil
}

// decodeLinkInfo decodes IFLA_LINKINFO: the kind of a link, and the ID of a VLAN.
func decodeLinkInfo(b []byte) (kind string, vlan int) {
	for t, v := range attributes(b) {
		switch {
		case t == nl.IFLA_INFO_KIND:
			kind = linkKind(v)
		case t == nl.IFLA_INFO_DATA && kind == "vlan":
			vlan = decodeVLAN(v)
		}
	}
	return kind, vlan
}

// linkKind returns the text of IFLA_INFO_KIND. It allocates nothing for the kind that most
// links of a node have.
func linkKind(b []byte) string {
	const usual = "veth"
	if string(bytes.TrimRight(b, "\x00")) == usual {
		return usual
	}
	return unix.ByteSliceToString(b)
}

func decodeVLAN(b []byte) (id int) {
	for kind, v := range attributes(b) {
		if kind == nl.IFLA_VLAN_ID && len(v) == 2 {
			id = int(binary.NativeEndian.Uint16(v))
		}
	}
	return id
}

// addLink begins a request for the link of a number; 0 leaves the choice to the
// attributes.
func (b *Batch) addLink(kind, flags, index int) {
	header := nl.IfInfomsg{IfInfomsg: unix.IfInfomsg{Index: int32(index)}}
	b.add(kind, flags, header.Serialize())
}

// extSkipStats is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h.
const extSkipStats = 1 << 3

// skipStats keeps the counters of a link out of the answer.
func (b *Batch) skipStats() { b.attr32(unix.IFLA_EXT_MASK, extSkipStats) }

// FindLink asks for the link of a name.
func (b *Batch) FindLink(name string) {
	b.addLink(unix.RTM_GETLINK, 0, 0)
	b.attrText(unix.IFLA_IFNAME, name)
	b.skipStats()
}

// FindIndex asks for the link of a number.
func (b *Batch) FindIndex(index int) {
	b.addLink(unix.RTM_GETLINK, 0, index)
	b.skipStats()
}

// FindAltName asks for the link that has an alternative name.
func (b *Batch) FindAltName(name string) {
	b.addLink(unix.RTM_GETLINK, 0, 0)
	b.attrText(unix.IFLA_ALT_IFNAME, name)
	b.skipStats()
}

// LinkByName returns the link of a name. If there is none, its index is 0.
func (c *Conn) LinkByName(name string) (Link, error) {
	var b Batch
	b.FindLink(name)
	answers, err := c.Do(&b)
	if err != nil {
		return Link{}, err
	}
	l, err := answers[0].Link()
	switch {
	case errors.Is(answers[0].Err, unix.ENODEV):
		return Link{}, nil
	case err != nil:
		return l, fmt.Errorf("find link %s: %w", name, err)
	}
	return l, nil
}

// EachLink calls f for each link, without its settings.
func (c *Conn) EachLink(f func(Link)) error {
	links, err := c.listLinks()
	if err != nil {
		return err
	}
	for _, l := range links {
		f(l)
	}
	return nil
}

// listLinks returns the links without their settings.
func (c *Conn) listLinks() ([]Link, error) {
	var b Batch
	b.addLink(unix.RTM_GETLINK, unix.NLM_F_DUMP, 0)
	b.skipStats()
	return list(c, &b, func(body []byte) (Link, bool, error) {
		l, _, err := decodeLinkOnly(body)
		return l, true, err
	})
}
