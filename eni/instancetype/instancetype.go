// SPDX-License-Identifier: Apache-2.0

package instancetype

import (
	"cmp"
	"iter"
	"slices"
)

//go:generate go run ../internal/limitsgen

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
	// TrunkKnown says that the source states whether the type supports a trunk
	// ENI. EC2 does not state it, and the table does not have it for every type.
	TrunkKnown bool
	// Trunk says that the type supports a trunk ENI. Branches is the maximum
	// number of branch ENIs on it. They are false and 0 if TrunkKnown is false.
	Trunk    bool
	Branches int
	// EFAKnown says that the source states the number of EFAs. EC2 states it; the
	// table does not have it for every type.
	EFAKnown bool
	// EFAs is the maximum number of ENIs with an Elastic Fabric Adapter. It is 0
	// if the type supports none or if EFAKnown is false.
	EFAs int
	// VCPUs is the default number of vCPUs, the argument of [EKSCap], or 0 if the
	// source does not state it. EC2 states it; the table does not have it for every
	// type.
	VCPUs int
	// MemoryMiB is the memory in MiB, or 0 if the source does not state it.
	MemoryMiB int
	// Flexible holds the number of ENIs that each network card allows in addition to
	// Cards if their ENA queues are assigned flexibly, by card index. It is nil if there
	// are none or if the source does not state it. See
	// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_NetworkCardInfo.html.
	Flexible []int
	// Source is the origin of the limits: "table" after Lookup, "default" after
	// Safe, and "ec2" if the Client of package eni asked EC2.
	Source string
}

// profile is one row of the generated table. cards holds one byte for each card.
type profile struct {
	perENI      int
	nitro       bool
	bareMetal   bool
	defaultCard int
	cards       string
	trunkKnown  bool
	trunk       bool
	branches    int
	efaKnown    bool
	efas        int
	flexible    string
}

// typeRow assigns a profile to an instance type.
type typeRow struct {
	name      string
	profile   uint8
	vcpus     uint16
	memoryMiB uint32
}

// Lookup returns the limits of an instance type from the built-in table. It reports
// false for a type that the table lacks.
func Lookup(instanceType string) (Limits, bool) {
	i, ok := slices.BinarySearchFunc(typeRows[:], instanceType, func(r typeRow, name string) int {
		return cmp.Compare(r.name, name)
	})
	if !ok {
		return Limits{}, false
	}
	return typeRows[i].limits(), true
}

// All returns the limits of all instance types of the built-in table, sorted by type.
func All() iter.Seq[Limits] {
	return func(yield func(Limits) bool) {
		for _, r := range typeRows {
			if !yield(r.limits()) {
				return
			}
		}
	}
}

// Safe returns the limits to assume for an unknown type: 2 ENIs with 4 addresses
// each and prefix delegation, but no trunk ENI. Nearly all types of the table allow as
// much, so that pods get addresses, if fewer than possible. A few do not: the smallest
// sizes allow 2 addresses on an ENI, and one type allows 1 ENI. A program that assumes
// Safe must expect that EC2 refuses a part of it. The Manager of package eni learns
// the real limit from such refusals.
func Safe(instanceType string) Limits {
	return Limits{Type: instanceType, Cards: []int{2}, AddrsPerENI: 4, Nitro: true, Source: "default"}
}

func (r typeRow) limits() Limits {
	p := profiles[r.profile]
	l := Limits{
		Type: r.name, DefaultCard: p.defaultCard, AddrsPerENI: p.perENI, Nitro: p.nitro, BareMetal: p.bareMetal,
		TrunkKnown: p.trunkKnown, Trunk: p.trunk, Branches: p.branches,
		EFAKnown: p.efaKnown, EFAs: p.efas, VCPUs: int(r.vcpus), MemoryMiB: int(r.memoryMiB), Source: "table",
	}
	for _, n := range []byte(p.cards) {
		l.Cards = append(l.Cards, int(n))
	}
	for _, n := range []byte(p.flexible) {
		l.Flexible = append(l.Flexible, int(n))
	}
	return l
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
