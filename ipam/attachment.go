// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"time"
)

// Attachment is the key of an allocation: CNI's unit of one interface of one
// sandbox in one network. All three fields are needed; see
// https://www.cni.dev/docs/spec/#section-2-execution-protocol.
type Attachment struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// String returns network/containerID/ifName.
func (a Attachment) String() string {
	return a.Network + "/" + a.ContainerID + "/" + a.IfName
}

// PodRef says for whom an attachment was made. The pool only carries it: it
// is written down for the reader of a listing and plays no part in a decision.
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

// FamilyOf returns the family of addr, which must be valid and not an IPv4
// address in IPv6's clothes.
func FamilyOf(addr netip.Addr) Family {
	if addr.Is4() {
		return IPv4
	}
	return IPv6
}

// Request asks for addresses for one attachment.
type Request struct {
	Attachment

	// Families lists the wanted families, each at most once. All of them are
	// served, or none. Empty means IPv4.
	Families []Family
	// Card is the network card whose ENIs may serve the request.
	Card int
	// Pod is whom the attachment is for. Optional.
	Pod PodRef
	// Netns is the path of the sandbox, kept with the allocation so that the
	// keeper of the pool can see whether the sandbox still exists. Optional.
	Netns string
	// Sandbox identifies the namespace at Netns, because another one can take
	// the same path; its cookie on Linux. Zero means unknown.
	Sandbox uint64
}

// Allocation is one address that an attachment holds.
type Allocation struct {
	Attachment

	Addr netip.Addr
	// Block is the block that Addr belongs to.
	Block netip.Prefix
	// ENI, Card and Device say where the block is.
	ENI          string
	Card, Device int
	Pod          PodRef
	Netns        string
	Sandbox      uint64
	// At is when the address was allocated. Asked is when the attachment last asked
	// for it in this process; zero if it did not.
	At, Asked time.Time
}

// Last is when the attachment was last told of its address, as far as is known.
func (a Allocation) Last() time.Time {
	if a.Asked.After(a.At) {
		return a.Asked
	}
	return a.At
}
