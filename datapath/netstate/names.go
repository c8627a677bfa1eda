// SPDX-License-Identifier: Apache-2.0

package netstate

import "fmt"

// ipProtos are the transport protocols that have a name here.
var ipProtos = []struct {
	name   string
	number int
}{{"icmp", 1}, {"tcp", 6}, {"udp", 17}, {"ipv6-icmp", ICMPv6}, {"sctp", 132}}

const ICMPv6 = 58

func ipProtoName(number int) string {
	for _, p := range ipProtos {
		if p.number == number {
			return p.name
		}
	}
	return fmt.Sprint(number)
}

// IpProtoNumber returns the number of a transport protocol that has a name here.
func IpProtoNumber(name string) (int, bool) {
	for _, p := range ipProtos {
		if p.name == name {
			return p.number, true
		}
	}
	return 0, false
}
