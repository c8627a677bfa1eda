// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"context"
	"slices"
	"time"
)

//go:generate go run ./internal/limitsgen

// PrefixSize is the number of addresses in a delegated IPv4 prefix (a /28).
const PrefixSize = 16

// Limits are the limits of one instance type.
type Limits struct {
	// Type is the instance type, for example "m5.large".
	Type string
	// Cards holds the maximum number of ENIs on each network card, by card index.
	Cards []int
	// DefaultCard is the index of the card that holds the primary ENI.
	DefaultCard int
	// AddrsPerENI is the maximum number of addresses of each family on one ENI,
	// including its own primary address. A delegated prefix takes the place of
	// one address.
	AddrsPerENI int
	// Nitro says that the type supports delegated prefixes.
	Nitro bool
	// BareMetal says that the type has no hypervisor.
	BareMetal bool
	// Trunk says that the type supports a trunk ENI. Branches is the maximum
	// number of branch ENIs on it.
	Trunk    bool
	Branches int
	// Source is the origin of the limits: "table", "ec2" or "default".
	Source string
}

// profile is one row of the generated table. cards holds one byte for each card.
type profile struct {
	perENI      int
	nitro       bool
	bareMetal   bool
	defaultCard int
	cards       string
	trunk       bool
	branches    int
}

// typeRow assigns a profile to an instance type.
type typeRow struct {
	name    string
	profile uint8
}

// LimitsOf returns the limits of an instance type from the built-in table. It
// reports false for a type that the table lacks; [Manager.Limits] asks EC2 for
// such a type.
func LimitsOf(instanceType string) (Limits, bool) {
	i, ok := slices.BinarySearchFunc(typeRows[:], instanceType, func(r typeRow, name string) int {
		return cmp.Compare(r.name, name)
	})
	if !ok {
		return Limits{}, false
	}
	return profiles[typeRows[i].profile].limits(instanceType), true
}

func (p profile) limits(name string) Limits {
	l := Limits{
		Type: name, DefaultCard: p.defaultCard, AddrsPerENI: p.perENI, Nitro: p.nitro, BareMetal: p.bareMetal,
		Trunk: p.trunk, Branches: p.branches, Source: "table",
	}
	for _, n := range []byte(p.cards) {
		l.Cards = append(l.Cards, int(n))
	}
	return l
}

// InstanceTypes returns the instance types of the built-in table, sorted.
func InstanceTypes() []string {
	names := make([]string, len(typeRows))
	for i, t := range typeRows {
		names[i] = t.name
	}
	return names
}

// safeLimits returns the limits to assume for an unknown type: those that every
// current type fulfills, so that pods get addresses, if fewer than possible. If the
// type takes fewer, the Manager learns that from EC2's refusals.
func safeLimits(instanceType string) Limits {
	return Limits{Type: instanceType, Cards: []int{2}, AddrsPerENI: 4, Nitro: true, Source: "default"}
}

// MaxENIs returns the maximum number of ENIs on one network card. It returns 0 for
// a card that the type does not have.
func (l Limits) MaxENIs(card int) int {
	if card < 0 || card >= len(l.Cards) {
		return 0
	}
	return l.Cards[card]
}

// SlotsPerENI returns the number of slots of each family on one ENI, which hold
// secondary addresses or delegated prefixes.
func (l Limits) SlotsPerENI() int {
	return max(l.AddrsPerENI-1, 0)
}

// PodMode describes how a node gives addresses to its pods. The zero value means
// secondary addresses on the default card.
type PodMode struct {
	// Prefixes means that slots hold /28 prefixes. It has no effect on types
	// without prefix delegation.
	Prefixes bool
	// CustomNetworking means that pods use other subnets than the node, so that
	// the primary ENI has no addresses for them.
	CustomNetworking bool
	// Trunk means that one ENI of the default card is a trunk ENI, on types that
	// support it. The result does not count pods with a branch ENI, see
	// Limits.Branches.
	Trunk bool
	// AllCards means that pods get addresses from ENIs on every network card.
	AllCards bool
	// MaxENIs caps the number of ENIs on each card. 0 means the limit of the type.
	MaxENIs int
	// Cap caps the result. 0 means no cap. Kubernetes recommends at most 110
	// pods a node, and AWS 250 on nodes of more than 30 vCPUs.
	Cap int
}

// hostNetworkPods is the number of pods without an address of their own in the
// published numbers: kube-proxy and the network agent use the host's address.
const hostNetworkPods = 2

// MaxPods returns the kubelet's max-pods for a node with these limits. For the zero
// mode it is the number that AWS publishes for EKS, which is
// ENIs of the default card x (addresses - 1) + 2. See
// https://docs.aws.amazon.com/eks/latest/userguide/choosing-instance-type.html.
func MaxPods(l Limits, m PodMode) int {
	n := MaxAddresses(l, m) + hostNetworkPods
	if m.Cap > 0 {
		n = min(n, m.Cap)
	}
	return n
}

// MaxAddresses returns how many pods of a node can have their own address.
func MaxAddresses(l Limits, m PodMode) int {
	perSlot := 1
	if m.Prefixes && l.Nitro {
		perSlot = PrefixSize
	}
	enis := 0
	for card := range l.Cards {
		if card == l.DefaultCard || m.AllCards {
			enis += podENIs(l, m, card)
		}
	}
	return enis * l.SlotsPerENI() * perSlot
}

// podENIs returns how many ENIs of one card can have addresses for pods.
func podENIs(l Limits, m PodMode, card int) int {
	n := l.MaxENIs(card)
	if m.MaxENIs > 0 {
		n = min(n, m.MaxENIs)
	}
	if card != l.DefaultCard {
		return n
	}
	if m.CustomNetworking {
		n--
	}
	if m.Trunk && l.Trunk {
		n--
	}
	return max(n, 0)
}

// unknownFor is how long safe defaults are used before EC2 is asked again.
const unknownFor = 10 * time.Minute

// Limits returns the limits of the instance: from the built-in table, from EC2 for
// types that the table lacks, or safe defaults if EC2 does not answer within
// ClientConfig.Timeout. It fails only if the instance cannot be identified. For a
// type of the table it makes no call once an inventory is known, also if that is
// Config.Known.
func (m *Manager) Limits(ctx context.Context) (Limits, error) {
	m.mu.Lock()
	known := m.inv.Instance.Type != ""
	m.mu.Unlock()
	if !known {
		if err := m.ensureDiscovered(ctx); err != nil {
			return Limits{}, err
		}
	}
	m.mu.Lock()
	l, at, name := m.limits, m.limitsAt, m.inv.Instance.Type
	m.mu.Unlock()
	guessed := l.Source == "default" && time.Since(at) > unknownFor
	if l.Source != "" && !guessed {
		return l, nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.ec2.cfg.Timeout)
	defer cancel()
	l = m.ec2.LimitsOf(ctx, name)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limits, m.limitsAt = l, time.Now()
	return l, nil
}

// LimitsOf returns the limits of an instance type: from the built-in table, from
// EC2, or safe defaults. The Source of the result says which.
func (c *Client) LimitsOf(ctx context.Context, instanceType string) Limits {
	if l, ok := LimitsOf(instanceType); ok {
		return l
	}
	l, err := c.describeType(ctx, instanceType)
	if err != nil {
		return safeLimits(instanceType)
	}
	return l
}
