// SPDX-License-Identifier: Apache-2.0

package netstate

import "fmt"

// ICMPv6 is the protocol number of ICMP for IPv6.
const ICMPv6 = 58

// ipProtos are the transport protocols that have names, as iproute2 prints them.
var ipProtos = []struct {
	name   string
	number int
}{{"icmp", 1}, {"tcp", 6}, {"udp", 17}, {"ipv6-icmp", ICMPv6}, {"sctp", 132}}

// ipProtoName returns the name of a transport protocol, or its number if it has none.
func ipProtoName(number int) string {
	for _, p := range ipProtos {
		if p.number == number {
			return p.name
		}
	}
	return fmt.Sprint(number)
}

// ParseIPProto returns the number of the transport protocol of that name: icmp, tcp,
// udp, ipv6-icmp or sctp.
func ParseIPProto(name string) (number int, ok bool) {
	for _, p := range ipProtos {
		if p.name == name {
			return p.number, true
		}
	}
	return 0, false
}
