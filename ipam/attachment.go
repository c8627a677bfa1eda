// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"time"
)

// Attachment is the key of an allocation: CNI's unit of one interface of one
// sandbox in one network. All three fields are needed; see
// https://www.cni.dev/docs/spec/#section-2-execution-protocol. Package cniplugin has the
// same fields, so that ipam.Attachment(a) converts one of its attachments.
type Attachment struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// String returns network/containerID/ifName.
func (a Attachment) String() string {
	return a.Network + "/" + a.ContainerID + "/" + a.IfName
}

// PodRef names the pod of an attachment. The pool stores it for listings and
// does not use it in any decision.
type PodRef struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// Family is an address family.
type Family uint8

// The two address families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns "IPv4" or "IPv6".
func (f Family) String() string {
	switch f {
	case IPv4, IPv6:
		return fmt.Sprintf("IPv%d", uint8(f))
	default:
		return fmt.Sprintf("Family(%d)", uint8(f))
	}
}

// FamilyOf returns the family of addr, which must be valid and must not be an
// IPv4-mapped IPv6 address.
func FamilyOf(addr netip.Addr) Family {
	if addr.Is4() {
		return IPv4
	}
	return IPv6
}

// Request is a request for the addresses of one attachment.
type Request struct {
	Attachment

	// Families lists the wanted families, each at most once. The pool allocates
	// an address of each, or none at all. Empty means IPv4.
	Families []Family
	// Card is the network card on which addresses are allocated.
	Card int
	// Addrs are addresses that the attachment must get, at most one of each family.
	// If one of them cannot be allocated, the request is refused at once, unless the
	// address only waits for its ENI's link. The pool chooses the addresses of the
	// other families. Optional.
	Addrs []netip.Addr
	// MAC is the MAC that the attachment's interface has instead of the usual one. It
	// is stored with the allocation. Optional.
	MAC string
	// Pod names the pod of the attachment. Optional.
	Pod PodRef
	// Netns is the path of the sandbox. It is stored with the allocation so that
	// the agent can check whether the sandbox still exists. Optional.
	Netns string
	// Sandbox identifies the namespace at Netns, because another namespace can
	// take the same path. On Linux it is the cookie of the namespace. Zero means
	// unknown.
	Sandbox uint64
}

// String returns all fields.
func (r Request) String() string {
	return fmt.Sprintf("%v: %v %v on card %d for %+v in %s (%#x) with MAC %q", r.Attachment, r.Families, r.Addrs, r.Card, r.Pod, r.Netns, r.Sandbox, r.MAC)
}

// Allocation is one address that an attachment holds.
type Allocation struct {
	Attachment

	Addr netip.Addr
	// Block is the block that Addr belongs to.
	Block netip.Prefix
	// ENI, Card and Device are the ENI of the block and its position.
	ENI          string
	Card, Device int
	Pod          PodRef
	Netns        string
	Sandbox      uint64
	// MAC is that of the Request, empty if it had none.
	MAC string
	// At is when the address was allocated. RequestedAt is when the attachment
	// last requested it in this process; zero means never.
	At, RequestedAt time.Time
}

// String returns all fields.
func (a Allocation) String() string {
	return fmt.Sprintf("%v: %v of %v on %s (card %d, device %d) for %+v in %s (%#x) with MAC %q, allocated %s, requested %s", a.Attachment, a.Addr, a.Block,
		a.ENI, a.Card, a.Device, a.Pod, a.Netns, a.Sandbox, a.MAC, a.At.Format(time.RFC3339Nano), a.RequestedAt.Format(time.RFC3339Nano))
}

// LastRequest returns when the address was last handed to the attachment, as
// far as is known: the later one of At and RequestedAt.
func (a Allocation) LastRequest() time.Time {
	if a.RequestedAt.After(a.At) {
		return a.RequestedAt
	}
	return a.At
}
