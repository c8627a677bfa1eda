// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// ENI is an ENI of this instance, as the provider sees it.
type ENI struct {
	ID           string
	Primary      bool
	Card, Device int
	// NoPods means that the ENI takes up room on the instance but is not ours
	// to use or to change: a trunk, an EFA-only or an unmanaged ENI.
	NoPods bool
	MAC    net.HardwareAddr
	// MTU of the link. Zero leaves it alone.
	MTU int
	// Addrs are the ENI's own addresses, each with its subnet's length.
	Addrs []netip.Prefix
	// Gateways are the subnet's routers, at most one of each family.
	Gateways []netip.Addr
	// Blocks are what pods may use: secondary private IPs as /32 and /128,
	// delegated prefixes as /28 and /80.
	Blocks []netip.Prefix
}

// Observation is what one source said at one time.
type Observation struct {
	// ENIs of this instance, all of them.
	ENIs []ENI
	// Source names where it comes from, such as "ec2" or "metadata".
	Source string
	// At is when the source was asked.
	At time.Time
	// Lag is how far the source may trail behind the truth. What happened after
	// At-Lag may be missing from the observation.
	Lag time.Duration
	// FreeAddrs and FreePrefixes say what is left in the subnet. Nil means
	// unknown.
	FreeAddrs, FreePrefixes *int
}

// CreateInput asks for one more ENI.
type CreateInput struct {
	Card int
	// Slots is how many blocks of the first family the ENI shall have.
	Slots int
	// Families the ENI serves.
	Families []ipam.Family
}

// AssignInput asks for more blocks on an ENI.
type AssignInput struct {
	ENI    string
	Family ipam.Family
	// Slots is how many blocks. The provider may assign fewer.
	Slots int
}

// Provider is where ENIs come from. Every call may take long and is bounded
// by ctx. Errors may have the methods Reason() string, spelled as a value of
// ipam.Reason, and RetryAfter() time.Duration. Repeating a call is safe: what
// is gone already counts as unassigned or deleted.
type Provider interface {
	// Observe reports the ENIs that the instance has.
	Observe(ctx context.Context) (Observation, error)
	// CreateENI creates and attaches an ENI with its first blocks.
	CreateENI(ctx context.Context, in CreateInput) (ENI, error)
	// Assign puts more blocks on an ENI and returns them. It may return blocks
	// and an error, when only a part succeeded.
	Assign(ctx context.Context, in AssignInput) ([]netip.Prefix, error)
	// Unassign takes blocks off an ENI.
	Unassign(ctx context.Context, eni string, blocks []netip.Prefix) error
	// DeleteENI detaches and deletes an ENI.
	DeleteENI(ctx context.Context, eni string) error
}

// Links are the ENIs as the node's kernel has them.
type Links interface {
	// Ensure brings link, table, routes and source map of an ENI to the state
	// that follows from e, and verifies it. It is idempotent.
	Ensure(ctx context.Context, e ENI) error
	// Remove takes away everything that Ensure made for an ENI, whether or not
	// its link still exists.
	Remove(ctx context.Context, eni string) error
}
