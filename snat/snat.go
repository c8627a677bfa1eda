// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// ErrNotSupported is returned on every system but Linux.
var ErrNotSupported = fmt.Errorf("snat: nftables needs Linux: %w", errors.ErrUnsupported)

// errNoVPC is the error for a Config that translates but has no IPv4 prefix of the
// VPC: its rules would translate packets between pods.
var errNoVPC = errors.New("VPC has no IPv4 prefix, want at least one")

// The defaults of a [Config]. The marks are those of amazon-vpc-cni-k8s.
const (
	// defaultMark is the bit for "leave by the primary ENI", in packet marks and in
	// connection marks.
	defaultMark = 0x80
	// defaultReturnMask are the bits for the numbers of the other ENIs, in packet
	// marks and in connection marks.
	defaultReturnMask     = 0x7f
	defaultHostLinkPrefix = "eni"
)

// Random is a way to choose the translated source port.
type Random string

const (
	// RandomPRNG chooses the port at random, so that two flows that start at the
	// same time rarely get the same port. It is the default.
	RandomPRNG Random = "prng"
	// RandomHash starts the search for a free port at a keyed hash of the flow.
	RandomHash Random = "hashrandom"
	// RandomNone keeps the pod's port if it is free.
	RandomNone Random = "none"
)

// Config describes the translation. NodeAddrs, PrimaryLink and VPC are needed.
type Config struct {
	// NodeAddrs are the primary private addresses of the primary ENI, at most one
	// of each family. Without an IPv4 address nothing is translated: IPv6
	// addresses are public, and packets from them leave by the ENI that owns them.
	NodeAddrs []netip.Addr
	// PrimaryLink is the name of the primary ENI's link.
	PrimaryLink string
	// VPC are the prefixes of the VPC; packets to them are not translated.
	VPC []netip.Prefix
	// Excluded are further destinations, peered networks for example, for which
	// packets are not translated. With 0.0.0.0/0 nothing is translated; External
	// has the same effect with fewer rules.
	Excluded []netip.Prefix
	// HostLinkPrefix begins the names of all pods' host links; "" is "eni".
	HostLinkPrefix string
	// External means that another device translates, a NAT gateway for example:
	// packets from pods leave by the pods' own ENIs with the pods' addresses.
	External bool
	// Random is the way to choose ports; "" is [RandomPRNG].
	Random Random
	// Ports is the range of translated ports of TCP and UDP; with the zero value the
	// kernel chooses from 1024 to 65535. Set it to the ports that the network ACLs
	// let pass.
	Ports Ports
	// NodePort adds rules for connections to the node that enter by the primary ENI
	// and are forwarded to a pod: their answers return by the primary ENI.
	NodePort bool
	// Returns are the ENIs for which NodePort does the same. It needs NodePort, and a
	// routing rule for each mark.
	Returns []Return
	// Mark is the bit for "leave by the primary ENI", in packet marks and connection
	// marks; 0 is 0x80, as in amazon-vpc-cni-k8s.
	Mark uint32
	// ReturnMask are the bits for the marks of Returns; 0 is 0x7f.
	ReturnMask uint32
}

// Return is the link of an ENI and the mark that makes a packet leave by it.
type Return struct {
	Link string
	// Mark is not 0 and has only bits of [Config.ReturnMask].
	Mark uint32
}

// Ports is a range of port numbers, both ends included. For a connection the kernel tries at
// most 240 of them; if all are in use it drops the packet, and a repeated one tries others.
// With three quarters of a range in use towards one destination, that is one connection in
// thousands.
// https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_nat_core.c
type Ports struct{ First, Last uint16 }

// Ruleset computes the rules for c. The order of prefixes and returns makes no
// difference, nor do prefixes that are listed twice.
func (c Config) Ruleset() (Ruleset, error) {
	c, err := c.complete()
	if err != nil {
		return Ruleset{}, err
	}
	translates := c.translates()
	t := nft.Table{Name: tableName}
	if c.NodePort {
		t.Chains = append(t.Chains, c.nodePort())
	}
	if c.NodePort || translates {
		t.Chains = append(t.Chains, c.podMarks(translates))
	}
	if len(c.Returns) > 0 {
		t.Chains = append(t.Chains, c.returns())
	}
	if translates {
		set := nft.Set{Name: insideSet, Family: nft.IPv4}
		for _, p := range inside4(c.VPC, c.Excluded) {
			set.Elements = append(set.Elements, nft.Element{Prefix: p})
		}
		t.Sets = append(t.Sets, set)
		t.Chains = append(t.Chains, c.source(c.node4()))
	}
	return Ruleset{t}, nil
}

// complete returns c with the defaults in the place of zero values, and the returns in
// order, or the reason why there are no rules for it.
func (c Config) complete() (Config, error) {
	c.HostLinkPrefix = cmp.Or(c.HostLinkPrefix, defaultHostLinkPrefix)
	c.Random = cmp.Or(c.Random, RandomPRNG)
	c.Mark = cmp.Or(c.Mark, defaultMark)
	c.ReturnMask = cmp.Or(c.ReturnMask, defaultReturnMask)
	c.Returns = slices.SortedFunc(slices.Values(c.Returns), func(a, b Return) int { return cmp.Compare(a.Link, b.Link) })
	err := c.check()
	if err == nil && c.translates() && len(inside4(c.VPC)) == 0 {
		err = errNoVPC
	}
	if err != nil {
		return Config{}, fmt.Errorf("snat: %w", err)
	}
	return c, nil
}

// translates reports whether the rules change sources.
func (c Config) translates() bool { return !c.External && c.node4().IsValid() }

func (c Config) check() error {
	switch {
	case c.PrimaryLink == "" || len(c.PrimaryLink) >= maxLinkName:
		return fmt.Errorf("primary link %q: want a name of 1 to %d bytes", c.PrimaryLink, maxLinkName-1)
	case !plainName(c.PrimaryLink):
		return fmt.Errorf("primary link %q: want no quote, backslash, slash, asterisk, white space or control character", c.PrimaryLink)
	case !plainName(c.HostLinkPrefix):
		return fmt.Errorf("host link prefix %q: want no quote, backslash, slash, asterisk, white space or control character", c.HostLinkPrefix)
	case len(c.HostLinkPrefix) >= maxLinkName:
		return fmt.Errorf("host link prefix %q: has %d bytes, want at most %d", c.HostLinkPrefix, len(c.HostLinkPrefix), maxLinkName-1)
	case bits.OnesCount32(c.Mark) != 1:
		return fmt.Errorf("mark %#x: has %d bits, want one", c.Mark, bits.OnesCount32(c.Mark))
	case c.Ports != Ports{} && (c.Ports.First == 0 || c.Ports.First > c.Ports.Last):
		return fmt.Errorf("ports %d to %d: want a range that begins at 1 or higher", c.Ports.First, c.Ports.Last)
	case !slices.Contains([]Random{RandomPRNG, RandomHash, RandomNone}, c.Random):
		return fmt.Errorf("random mode %q: want %s, %s or %s", c.Random, RandomPRNG, RandomHash, RandomNone)
	}
	if err := c.checkReturns(); err != nil {
		return err
	}
	seen := map[bool]bool{}
	for _, a := range c.NodeAddrs {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || seen[a.Is4()] {
			return fmt.Errorf("node addresses %v: want at most one of each family, without zone and not IPv4-mapped", c.NodeAddrs)
		}
		seen[a.Is4()] = true
	}
	for _, p := range slices.Concat(c.VPC, c.Excluded) {
		if !p.IsValid() {
			return errors.New("a prefix of VPC or Excluded is the zero Prefix")
		}
	}
	return nil
}

func (c Config) checkReturns() error {
	switch {
	case len(c.Returns) > 0 && !c.NodePort:
		return errors.New("returns without NodePort, want both")
	case c.ReturnMask&c.Mark != 0:
		return fmt.Errorf("return mask %#x: has the bit %#x of the primary ENI, want other bits", c.ReturnMask, c.Mark)
	}
	links := map[string]bool{c.PrimaryLink: true}
	for _, r := range c.Returns {
		switch {
		case r.Link == "" || len(r.Link) >= maxLinkName:
			return fmt.Errorf("return link %q: want a name of 1 to %d bytes", r.Link, maxLinkName-1)
		case links[r.Link]:
			return fmt.Errorf("return link %s: has two marks, want one", r.Link)
		case r.Mark == 0 || r.Mark&^c.ReturnMask != 0:
			return fmt.Errorf("return link %s: mark %#x, want bits of %#x", r.Link, r.Mark, c.ReturnMask)
		}
		links[r.Link] = true
	}
	return nil
}

func (c Config) node4() netip.Addr {
	for _, a := range c.NodeAddrs {
		if a.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// inside4 returns the IPv4 prefixes in order, without those inside another prefix.
func inside4(lists ...[]netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range slices.Concat(lists...) {
		if p.Addr().Is4() {
			all = append(all, p.Masked())
		}
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var outer []netip.Prefix
	for _, p := range all {
		if len(outer) == 0 || !outer[len(outer)-1].Overlaps(p) {
			outer = append(outer, p)
		}
	}
	return outer
}

// nodePort returns the chain that notes in the connection mark by which ENI a
// connection to the node enters, before its destination is rewritten.
func (c Config) nodePort() nft.Chain {
	enters := func(link string) []nft.Statement {
		return []nft.Statement{nft.Link{Name: link}, nft.NewFlow{}, nft.LocalAddr{}}
	}
	k := nft.Chain{
		Name: nodePortChain, Type: nft.TypeFilter, Hook: nft.HookPrerouting, Priority: nft.PriorityMangle,
		Rules: []nft.Rule{{
			Statements: append(enters(c.PrimaryLink), nft.SetCtMark{Mask: c.Mark, Value: c.Mark}),
			Comment:    "answers return by the primary ENI",
		}},
	}
	for _, r := range c.Returns {
		k.Rules = append(k.Rules, nft.Rule{
			Statements: append(enters(r.Link), nft.SetCtMark{Mask: c.ReturnMask, Value: r.Mark}),
			Comment:    "answers return by " + r.Link,
		})
	}
	return k
}

// podMarks returns the chain that decides about new flows from pods, after the
// destination is rewritten, and that marks the packets of flows by the decision.
func (c Config) podMarks(translates bool) nft.Chain {
	fromPod := nft.Link{Name: c.HostLinkPrefix + "*"}
	k := nft.Chain{Name: podsChain, Type: nft.TypeFilter, Hook: nft.HookPrerouting, Priority: priorityAfterDNAT}
	if translates {
		k.Rules = append(k.Rules, nft.Rule{
			Statements: []nft.Statement{
				fromPod, nft.NewFlow{}, nft.DestinationNotIn{Family: nft.IPv4, Set: insideSet}, nft.LocalAddr{Not: true},
				nft.SetCtMark{Mask: c.Mark, Value: c.Mark},
			},
			Comment: "flows that will be translated",
		})
	}
	k.Rules = append(k.Rules, nft.Rule{
		Statements: []nft.Statement{fromPod, nft.CtMark{Mask: c.Mark, Value: c.Mark}, nft.SetMark{Mask: c.Mark, Value: c.Mark}},
		Comment:    "leave by the primary ENI",
	})
	if len(c.Returns) > 0 {
		k.Rules = append(k.Rules, nft.Rule{
			Statements: []nft.Statement{nft.CtMark{Mask: c.ReturnMask, Not: true}, nft.Reply{}, nft.Jump{Chain: returnsChain}},
			Comment:    "leave by the ENI of the question",
		})
	}
	return k
}

// returns returns the chain that marks answers of connections that entered by another
// ENI than the primary one. The link that an answer comes from makes no difference:
// the endpoint may be a pod here, or on another node that answers to this one.
func (c Config) returns() nft.Chain {
	k := nft.Chain{Name: returnsChain}
	for _, r := range c.Returns {
		k.Rules = append(k.Rules, nft.Rule{
			Statements: []nft.Statement{nft.CtMark{Mask: c.ReturnMask, Value: r.Mark}, nft.SetMark{Mask: c.ReturnMask, Value: r.Mark}},
			Comment:    "leave by " + r.Link,
		})
	}
	return k
}

// source returns the chain that translates packets that leave the VPC and do not have
// an address of the node as their source.
func (c Config) source(node netip.Addr) nft.Chain {
	k := nft.Chain{Name: sourceChain, Type: nft.TypeNAT, Hook: nft.HookPostrouting, Priority: priorityAfterSNAT}
	translate := func(ports Ports, protocol ...nft.Statement) {
		leaves := []nft.Statement{
			nft.Link{Out: true, Name: c.PrimaryLink}, nft.DestinationNotIn{Family: nft.IPv4, Set: insideSet}, nft.LocalAddr{Source: true, Not: true},
		}
		to := nft.SourceNAT{To: node, First: ports.First, Last: ports.Last, Choice: portChoices[c.Random]}
		k.Rules = append(k.Rules, nft.Rule{
			Statements: slices.Concat(leaves, protocol, []nft.Statement{nft.Counter{}, to}),
			Comment:    "pods appear as the node",
		})
	}
	if c.Ports != (Ports{}) {
		translate(c.Ports, nft.TCP)
		translate(c.Ports, nft.UDP)
	}
	translate(Ports{})
	return k
}

// portChoices are nft's words for the ways to choose a port.
var portChoices = map[Random]nft.PortChoice{
	RandomPRNG: nft.PortRandom, RandomHash: nft.PortHash, RandomNone: nft.PortKept,
}

// plainName reports whether the name of a link, or its beginning, can stand in the text
// of a ruleset, in which an asterisk at the end of a name matches all further characters.
func plainName(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("\"'\\/*", r) })
}
