// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"context"
	"slices"
	"time"
)

//go:generate go run ./internal/limitsgen

// PrefixSize is how many addresses one delegated IPv4 prefix (a /28) holds.
const PrefixSize = 16

// Limits is what one instance type can carry.
type Limits struct {
	// Type is the instance type, for example "m5.large".
	Type string
	// Cards holds the most ENIs each network card takes, by card index.
	Cards []int
	// DefaultCard is the index of the card that holds the primary ENI.
	DefaultCard int
	// AddrsPerENI is how many IPv4 addresses, or IPv6 addresses, one ENI holds,
	// its own primary address included. A delegated prefix takes the place of
	// one address.
	AddrsPerENI int
	// Nitro says that the type can have prefixes delegated to its ENIs.
	Nitro bool
	// BareMetal says that the type has no hypervisor.
	BareMetal bool
	// Trunk says that the type can have a trunk ENI, with up to Branches branch
	// ENIs on it.
	Trunk    bool
	Branches int
	// Source tells where the limits come from: "table", "ec2" or "default".
	Source string
}

// profile is one row of the generated table; cards holds a byte a card.
type profile struct {
	perENI      int
	nitro       bool
	bareMetal   bool
	defaultCard int
	cards       string
	trunk       bool
	branches    int
}

// typeRow joins an instance type with its profile.
type typeRow struct {
	name    string
	profile uint8
}

// LimitsOf looks an instance type up in the built-in table. It reports false
// for a type that the table does not hold; [Manager.Limits] asks EC2 then.
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

// InstanceTypes lists the instance types of the built-in table, sorted.
func InstanceTypes() []string {
	names := make([]string, len(typeRows))
	for i, t := range typeRows {
		names[i] = t.name
	}
	return names
}

// SafeLimits are the limits assumed for a type about which nothing can be
// learnt: what every current type can do, so that pods get addresses, if fewer
// than possible. EC2's refusals teach the rest.
func SafeLimits(instanceType string) Limits {
	return Limits{Type: instanceType, Cards: []int{2}, AddrsPerENI: 4, Nitro: true, Source: "default"}
}

// MaxENIs is the most ENIs of one network card, 0 for a card that the type does
// not have.
func (l Limits) MaxENIs(card int) int {
	if card < 0 || card >= len(l.Cards) {
		return 0
	}
	return l.Cards[card]
}

// SlotsPerENI is how many secondary addresses or prefixes one ENI holds.
func (l Limits) SlotsPerENI() int {
	return max(l.AddrsPerENI-1, 0)
}

// PodMode says how a node gives addresses to its pods. The zero value is
// secondary addresses on the default card.
type PodMode struct {
	// Prefixes: slots hold /28 prefixes. Types that cannot do it fall back to
	// single addresses.
	Prefixes bool
	// CustomNetworking: pods use other subnets than the node, so the primary
	// ENI carries none of them.
	CustomNetworking bool
	// Trunk: one ENI slot of the default card is kept for a trunk ENI, on types
	// that can have one. Pods with a branch ENI of their own come on top of the
	// result, see Limits.Branches.
	Trunk bool
	// AllCards: pods get addresses from ENIs on every network card.
	AllCards bool
	// MaxENIs caps the ENIs of each card; 0 means as many as the type takes.
	MaxENIs int
	// Cap caps the result; 0 means no cap. Kubernetes recommends at most 110
	// pods a node, and AWS 250 on nodes of more than 30 vCPUs.
	Cap int
}

// hostNetworkPods are the pods that the published numbers count on top of those
// with an address: kube-proxy and the network agent use the host's.
const hostNetworkPods = 2

// MaxPods is the number to give to the kubelet as max-pods for a node with
// these limits: for the zero mode, the number that AWS publishes for EKS,
// ENIs of the default card x (addresses - 1) + 2. See
// https://docs.aws.amazon.com/eks/latest/userguide/choosing-instance-type.html.
func MaxPods(l Limits, m PodMode) int {
	n := MaxAddresses(l, m) + hostNetworkPods
	if m.Cap > 0 {
		n = min(n, m.Cap)
	}
	return n
}

// MaxAddresses is how many pods of a node can have an address of their own.
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

// podENIs is how many ENIs of one card can carry pods.
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

// unknownFor is how long safe defaults hold before EC2 is asked again.
const unknownFor = 10 * time.Minute

// Limits is what the instance can carry: from the built-in table, from EC2 for
// types it does not know, or safe defaults if EC2 does not tell either within
// ClientConfig.Timeout. It fails only if the instance cannot be identified. Once
// an inventory is known, be it from Config.Known, a type of the table needs no
// call.
func (m *Manager) Limits(ctx context.Context) (Limits, error) {
	m.mu.Lock()
	known := m.inv.Instance.Type != ""
	m.mu.Unlock()
	if !known {
		if err := m.discovered(ctx); err != nil {
			return Limits{}, err
		}
	}
	m.mu.Lock()
	l, learnt, name := m.limits, m.limited, m.inv.Instance.Type
	m.mu.Unlock()
	guessed := l.Source == "default" && time.Since(learnt) > unknownFor
	if l.Source != "" && !guessed {
		return l, nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.ec2.cfg.Timeout)
	defer cancel()
	l = m.ec2.LimitsOf(ctx, name)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limits, m.limited = l, time.Now()
	return l, nil
}

// LimitsOf is what an instance type can carry: from the built-in table, or from
// EC2, or SafeLimits. The Source of the result says which.
func (c *Client) LimitsOf(ctx context.Context, instanceType string) Limits {
	if l, ok := LimitsOf(instanceType); ok {
		return l
	}
	l, err := c.describeType(ctx, instanceType)
	if err != nil {
		return SafeLimits(instanceType)
	}
	return l
}
