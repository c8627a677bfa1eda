// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// What other programs on a node may need to know of the numbers and names that this
// package uses there. doc.go lists them all.
const (
	// MarkPrimary on a packet or a connection sends it out by the primary ENI.
	MarkPrimary = claims.MarkPrimary
	// MarkENI is the mask of the ENI number in a packet's mark; 0 is no choice.
	MarkENI = claims.MarkENI
	// TablePods is the route table that holds the routes to the node's pods in the
	// flat layout.
	TablePods = claims.TablePods
	// DefaultHostLinkPrefix begins the names of host links. Network policy engines
	// expect it.
	DefaultHostLinkPrefix = claims.DefaultHostLinkPrefix
)

// Table returns the route table of the ENI at a network card index and device
// index: 254 (main) for the primary ENI, device+1 on card 0, and
// 10000 + 100*card + device on other cards. The numbers are those of
// amazon-vpc-cni-k8s.
func Table(card, device int) int {
	switch {
	case card == 0 && device == 0:
		return netstate.TableMain
	case card == 0:
		return device + 1
	default:
		return 10000 + 100*card + device
	}
}

// isENITable reports whether t may be the table of an address: 0 or any of Table.
func isENITable(t int) bool {
	return t >= 0 && t < netstate.TableDefault || t == netstate.TableMain || t >= Table(1, 0) && t <= Table(99, 99)
}

// Number returns the default ENI number, 1 to 127, that stands in the mark of
// packets from pods on the ENI at a network card index and device index, and 0
// for the primary ENI. There are more places than numbers, so that far places
// share one, but no two on any shape of instance that EC2 offers: 16 interfaces
// on up to 7 cards, 8 on 8, 7 on 16, 3 on 32. [Node.Validate] finds a clash, and
// ENI.Number solves it.
func Number(card, device int) int {
	n := 0
	switch {
	case card == 0:
		return device % 128
	case device < 3:
		n = 16 + (card-1)*3 + device
	case device < 7:
		n = 127 - (card-1)*4 - (device - 3)
	default:
		n = 99 - (card-1)*9 - (device - 7)
	}
	return max(1, min(n, claims.MarkENI))
}

// Gateway returns the address that a pod sends its packets to on its n-th
// interface, from 0 to 254: 169.254.1.(n+1) or fe80::(n+1). No interface has
// that address; the pod knows the host link's MAC by a permanent neighbour.
func Gateway(addr netip.Addr, n int) netip.Addr {
	if addr.Is4() {
		return netip.AddrFrom4([4]byte{169, 254, 1, byte(n + 1)})
	}
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(n + 1)})
}
