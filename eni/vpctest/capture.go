// SPDX-License-Identifier: Apache-2.0

package vpctest

import (
	"net/netip"
	"time"

	"github.com/vpcnet/vpcnet/internal/fabric"
)

// Packet is a frame that a [Capture] has recorded.
type Packet struct {
	Time time.Time
	Link string
	// VLAN is the VLAN ID, 0 if the frame has no tag.
	VLAN int
	// Data is the frame without the tag, beginning with the Ethernet header.
	Data []byte
	// Protocol is the number of the IP protocol. Src and Dst are the source and the
	// destination; their ports are 0 if the protocol has none. All three are zero if the frame
	// is not IP.
	Protocol uint8
	Src, Dst netip.AddrPort
}

// String describes the packet in one line, as tcpdump does.
func (p Packet) String() string {
	return fabric.Packet{Time: p.Time, Link: p.Link, VLAN: p.VLAN, Data: p.Data}.String()
}

// Capture records the packets on a link until the test ends. It is safe for concurrent use.
type Capture struct {
	name string
	c    *fabric.Capture
}

// Capture starts to record the packets on a link of the host, such as ens5 of a node or eth0
// of a pod.
func (h *Host) Capture(t TB, link string) *Capture {
	t.Helper()
	c, err := h.ns.Capture(link)
	fatal(t, err, "capture")
	return newCapture(t, h.Name()+" "+link, c)
}

// CaptureENI starts to record the packets between an attached ENI and the VPC, wherever the
// agent under test has moved the link of the ENI.
func (v *VPC) CaptureENI(t TB, id string) *Capture {
	t.Helper()
	c, err := v.fabric.Capture(id)
	fatal(t, err, "capture")
	return newCapture(t, id, c)
}

func newCapture(t TB, name string, c *fabric.Capture) *Capture {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	return &Capture{name: name, c: c}
}

// Packets returns the packets recorded so far, in order.
func (c *Capture) Packets(t TB) []Packet {
	t.Helper()
	packets, err := c.c.Packets()
	fatal(t, err, "capture %s", c.name)
	all := make([]Packet, len(packets))
	for i, p := range packets {
		all[i] = Packet{Time: p.Time, Link: p.Link, VLAN: p.VLAN, Data: p.Data}
		if f, ok := p.Flow(); ok {
			all[i].Protocol, all[i].Src, all[i].Dst = f.Protocol, f.Src, f.Dst
		}
	}
	return all
}
