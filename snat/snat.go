// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrNotSupported is returned on every system but Linux.
var ErrNotSupported = fmt.Errorf("snat: nftables needs Linux: %w", errors.ErrUnsupported)

// ErrNoVPC is returned for a Config that would translate but knows no prefix of
// the VPC: it would translate traffic between pods.
var ErrNoVPC = errors.New("no prefix of the VPC is known")

// DefaultMark is the bit that means "leave by the primary ENI", in packet marks
// and in connection marks alike. It is that of amazon-vpc-cni-k8s.
const DefaultMark = 0x80

// Random says how the translated source port is chosen.
type Random string

const (
	// RandomPRNG chooses the port fully at random; two flows that start at once
	// hardly ever fight for one port. It is the default.
	RandomPRNG Random = "prng"
	// RandomHash derives the port from a keyed hash of the flow.
	RandomHash Random = "hashrandom"
	// RandomNone keeps the pod's port where it is free.
	RandomNone Random = "none"
)

// Config says what to translate. NodeAddrs, PrimaryLink and VPC are needed.
type Config struct {
	// NodeAddrs are the primary private addresses of the primary ENI, at most
	// one a family. IPv6 is never translated: every address is a public one.
	NodeAddrs []netip.Addr
	// PrimaryLink is the name of the primary ENI's link.
	PrimaryLink string
	// VPC is the set of prefixes of the VPC; traffic to them stays as it is.
	VPC []netip.Prefix
	// Excluded are further destinations that stay as they are, peered networks
	// for example.
	Excluded []netip.Prefix
	// HostLinkPrefix is what the names of all pods' host links start with; "" is "eni".
	HostLinkPrefix string
	// External says that something else translates, a NAT gateway for example:
	// pods' traffic leaves by their own ENI with their own address.
	External bool
	// Random is the choice of ports; "" is [RandomPRNG].
	Random Random
	// NodePort sees to it that answers to what came in through the primary ENI
	// for the node, and was handed to a pod, return by the primary ENI.
	NodePort bool
	// Mark is the bit to use; 0 is [DefaultMark]. It must be one bit.
	Mark uint32
}

// Ruleset is what the table shall hold. Its String is the text that `nft -f`
// accepts.
type Ruleset struct {
	chains []chain
}

type chain struct{}

// Ruleset computes the rules for c.
func (c Config) Ruleset() (Ruleset, error) { return Ruleset{}, ErrNotSupported }

// String returns the ruleset in the notation of nft.
func (r Ruleset) String() string { return "" }

// Equal reports whether r and o are the same.
func (r Ruleset) Equal(o Ruleset) bool { return r.String() == o.String() }
