// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Numbers and names that other programs on the node may need. The package comment lists
// all that this package uses.
const (
	// MarkPrimary is the bit of a packet or connection mark that selects the primary
	// ENI.
	MarkPrimary = claims.MarkPrimary
	// MarkENI is the mask of the ENI number in a packet's mark; number 0 selects no ENI.
	MarkENI = claims.MarkENI
	// TablePods is the route table with the routes to the node's pods in the layout
	// Flat.
	TablePods = claims.TablePods
	// DefaultHostLinkPrefix begins the names of host links. Network policy engines of
	// amazon-vpc-cni-k8s expect it.
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

// isENITable reports whether t can be the route table of an ENI: 0, for the primary ENI,
// or a result of Table.
func isENITable(t int) bool {
	return t >= 0 && t < netstate.TableDefault || t == netstate.TableMain || t >= Table(1, 0) && t <= Table(99, 99)
}

// Number returns the default number, 1 to 127, of the ENI at a network card index and
// device index; it is 0 for the primary ENI. The number stands in the mark of packets from
// pods on that ENI. Two ENIs can have the same number, since there are more indexes than
// numbers, but on no instance type that EC2 offers: these have 16 interfaces on each of up
// to 7 cards, 8 on 8, 7 on 16, or 3 on 32. [Node.Validate] reports a conflict, and
// ENI.Number resolves it.
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
