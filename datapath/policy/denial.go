// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"net/netip"
	"strings"
)

// logGroup is the group of nflog that denied packets are sent to, see [State.LogLimit]. Each
// carries the name of the chain that has denied it, at most 126 bytes of it.
const logGroup = 30118

// maxPrefix is the longest prefix of a logged packet. The kernel's limit is 127 bytes and a
// closing zero.
const maxPrefix = 126

// Denied is how many packets a class has denied in a direction.
type Denied struct {
	Class     string    `json:"class"`
	Direction Direction `json:"direction"`
	Packets   uint64    `json:"packets"`
}

// Denial is a packet that a class has denied.
type Denial struct {
	// Class is the name of the class, or the beginning of a long name.
	Class string
	// Direction is that of the connection, as seen from the pod that has the class.
	Direction Direction
	// Flow is the connection. Reply means that the packet went in the opposite direction.
	Flow  Flow
	Reply bool
}

// wayOf returns the way and the class of a chain, and false if it is not that of a class.
func wayOf(chain string) (w way, class string, ok bool) {
	word, class, ok := strings.Cut(chain, "-")
	for _, w := range ways {
		if ok && w.word() == word {
			return w, class, true
		}
	}
	return w, "", false
}

// denialOf returns the denial of a packet by a chain, and false if it is not a packet of IP or
// the chain not that of a class.
func denialOf(chain string, packet []byte) (d Denial, ok bool) {
	w, class, ok := wayOf(chain)
	if !ok || len(packet) == 0 {
		return d, false
	}
	d = Denial{Class: class, Direction: w.direction, Reply: w.reply}
	var payload []byte
	switch {
	case packet[0]>>4 == 4 && len(packet) >= 20 && int(packet[0]&15)*4 <= len(packet):
		d.Flow.Src, d.Flow.Dst = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
		d.Flow.Protocol, payload = Protocol(packet[9]), packet[packet[0]&15*4:]
	case packet[0]>>4 == 6 && len(packet) >= 40:
		d.Flow.Src, d.Flow.Dst = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
		d.Flow.Protocol, payload = Protocol(packet[6]), packet[40:]
	default:
		return d, false
	}
	if d.Reply {
		d.Flow.Src, d.Flow.Dst = d.Flow.Dst, d.Flow.Src
	}
	if d.Flow.Protocol.hasPorts() && len(payload) >= 4 {
		port := payload[2:]
		if d.Reply {
			port = payload
		}
		d.Flow.Port = binary.BigEndian.Uint16(port)
	}
	return d, true
}
