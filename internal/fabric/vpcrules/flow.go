// SPDX-License-Identifier: Apache-2.0

package vpcrules

import (
	"net/netip"
	"slices"
	"time"
)

// flow is the key of a tracked flow.
type flow struct {
	eni           string
	protocol      int
	local, remote netip.Addr
	// localPort and remotePort are the ports of TCP and UDP. The identifier of an ICMP
	// echo is the port of the end that sends the requests; the port of the other end is
	// 0. Other protocols have no ports.
	localPort, remotePort uint16
}

// EchoTypes returns the types of the ICMP requests that have an identifier, and those of
// the replies to them, for the protocol ICMP or ICMPv6. Other protocols have none.
func EchoTypes(protocol int) (requests, replies []uint8) {
	switch protocol {
	case ICMP:
		return []uint8{8, 13}, []uint8{0, 14}
	case ICMPv6:
		return []uint8{128}, []uint8{129}
	}
	return nil, nil
}

// request reports whether the packet is an ICMP request.
func (p Packet) request() bool {
	requests, _ := EchoTypes(p.Protocol)
	return slices.Contains(requests, p.Type)
}

// reply reports whether the packet is a reply to an ICMP request.
func (p Packet) reply() bool {
	_, replies := EchoTypes(p.Protocol)
	return slices.Contains(replies, p.Type)
}

// begins reports whether the packet may be the first of a flow. A TCP segment in the
// middle of a connection does not begin one, so that the end of a connection that was not
// tracked is not undone by its next segment.
func (p Packet) begins() bool {
	if p.Protocol == TCP {
		return p.Opens
	}
	return !p.reply()
}

// flowOf returns the flow of a packet that the ENI sends or receives. It returns false
// for ICMP messages that are neither requests nor replies.
func flowOf(eni string, p Packet, out bool) (flow, bool) {
	f := flow{eni: eni, protocol: p.Protocol, local: p.Src, remote: p.Dst}
	switch p.Protocol {
	case TCP, UDP:
		f.localPort, f.remotePort = p.SrcPort, p.DstPort
	case ICMP, ICMPv6:
		switch {
		case p.request():
			f.localPort = p.ID
		case p.reply():
			f.remotePort = p.ID
		default:
			return flow{}, false
		}
	}
	if !out {
		f.local, f.remote, f.localPort, f.remotePort = f.remote, f.local, f.remotePort, f.localPort
	}
	return f, true
}

// Timeout returns how long a flow of the protocol is tracked after its last packet. For
// TCP it is the default of instance types with Nitro version 6, and for UDP the default
// of a stream; the other times are those of AWS's connection tracking.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/security-group-connection-tracking.html
func Timeout(protocol int) time.Duration {
	switch protocol {
	case TCP:
		return 350 * time.Second
	case UDP:
		return 180 * time.Second
	case ICMP, ICMPv6:
		return 60 * time.Second
	}
	return 600 * time.Second
}
