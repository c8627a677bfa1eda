// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"time"
)

// ENI is what the pool knows of an ENI.
type ENI struct {
	ID           string
	Card, Device int
}

// Block is a run of addresses that EC2 assigned to an ENI as one unit, that is
// one slot: a single address (/32, /128) or a delegated prefix (/28, /80).
type Block struct {
	Prefix netip.Prefix
	ENI    string
}

// View is the pool at one moment, as values that the caller owns.
type View struct {
	At time.Time
	// ENIs in the order of card and device.
	ENIs []ENIView
	// Waiting lists the requests in the queue, oldest first.
	Waiting []Waiting
	// Attachments is how many attachments hold addresses.
	Attachments int
	// NextFree is when the next cooling address has rested enough. Zero if none
	// is cooling.
	NextFree time.Time
	// Removed says which blocks and ENIs went lately, and when: an observation
	// that is older than that is wrong about them.
	Removed map[string]time.Time
}

// ENIView is an ENI with its blocks.
type ENIView struct {
	ENI
	// Ready means that link, table and routes are verified.
	Ready bool
	// Draining means that the ENI is on its way out.
	Draining bool
	// Since is when the pool learned of the ENI.
	Since time.Time
	// Blocks in the order of their addresses, IPv4 first.
	Blocks []BlockView
}

// BlockView is a block with its counts, in addresses.
type BlockView struct {
	Block
	// Used, Cooling and Free add up to the size of the block (or to a very
	// large number, for an IPv6 prefix).
	Used, Cooling, Free int
	// Draining means that the block is on its way out.
	Draining bool
	// Doubted means that an observation contradicts the pool about the block.
	Doubted bool
	// Since is when the pool learned of the block.
	Since time.Time
}

// Waiting is a request in the queue.
type Waiting struct {
	Request Request
	Since   time.Time
}
