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
	// NoPods means that the ENI counts against the limits of the instance, but
	// the agent must not use or change it: a trunk, an EFA-only or an unmanaged
	// ENI.
	NoPods bool
	MAC    net.HardwareAddr
	// MTU is the MTU of the link. Zero means that the MTU is not changed.
	MTU int
	// Addrs are the ENI's own addresses, each with the prefix length of its
	// subnet.
	Addrs []netip.Prefix
	// Gateways are the subnet's routers, at most one of each family.
	Gateways []netip.Addr
	// Blocks are the addresses for pods: secondary private IPs as /32 and /128,
	// delegated prefixes as /28 and /80.
	Blocks []netip.Prefix
}

// Observation is the result of observing one source at one time.
type Observation struct {
	// ENIs are all ENIs of this instance.
	ENIs []ENI
	// Source names the source, such as "ec2" or "metadata".
	Source string
	// At is when the source was asked.
	At time.Time
	// Lag is how far the source may be behind. Changes after At-Lag may be
	// missing from the observation.
	Lag time.Duration
	// FreeAddrs and FreePrefixes count the free addresses and the free /28
	// prefixes of the subnet. Nil means unknown.
	FreeAddrs, FreePrefixes *int
}

// CreateInput describes an ENI to create.
type CreateInput struct {
	Card int
	// Slots is the number of blocks of the first family.
	Slots int
	// Families are the families that the ENI serves.
	Families []ipam.Family
}

// AssignInput describes blocks to assign to an ENI.
type AssignInput struct {
	ENI    string
	Family ipam.Family
	// Slots is the number of blocks. The provider may assign fewer.
	Slots int
}

// Provider creates, changes and observes ENIs. It must be safe for concurrent use:
// several CreateENI, and Assign for several ENIs, may be under way. Every call may
// take long and must end when ctx ends. Errors may have the methods Reason() string,
// which returns the text of an ipam.Reason, and RetryAfter() time.Duration. Repeating
// a call is safe: unassigning or deleting what does not exist succeeds.
type Provider interface {
	// Observe returns the ENIs of the instance.
	Observe(ctx context.Context) (Observation, error)
	// CreateENI creates and attaches an ENI with its first blocks.
	CreateENI(ctx context.Context, in CreateInput) (ENI, error)
	// Assign assigns more blocks to an ENI and returns them. If only some could be
	// assigned, it may return these together with an error.
	Assign(ctx context.Context, in AssignInput) ([]netip.Prefix, error)
	// Unassign unassigns blocks from an ENI.
	Unassign(ctx context.Context, eni string, blocks []netip.Prefix) error
	// DeleteENI detaches and deletes an ENI.
	DeleteENI(ctx context.Context, eni string) error
}

// Links configures the ENIs in the node's kernel.
type Links interface {
	// Ensure configures link, route table, routes and source map of an ENI
	// according to e, and verifies them. It is idempotent. The agent calls it for
	// several ENIs at the same time, and for one ENI not again before it has returned.
	//
	// Requests wait for an ENI after its Ensure has failed, because most causes pass soon. If
	// the error has a method Final() bool that returns true, Ensure has waited for as long
	// as a pod may: requests that need the ENI are refused until an Ensure succeeds.
	Ensure(ctx context.Context, e ENI) error
	// Remove removes everything that Ensure created for an ENI, whether or not its
	// link still exists.
	Remove(ctx context.Context, eni string) error
}
