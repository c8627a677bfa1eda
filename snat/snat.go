// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
)

// ErrNotSupported is returned on every system but Linux.
var ErrNotSupported = fmt.Errorf("snat: nftables needs Linux: %w", errors.ErrUnsupported)

// ErrNoVPC is returned for a Config that would translate but knows no IPv4
// prefix of the VPC: it would translate what pods say to each other.
var ErrNoVPC = errors.New("no IPv4 prefix of the VPC is known")

// DefaultMark is the bit that means "leave by the primary ENI", in packet marks
// and in connection marks alike. It is that of amazon-vpc-cni-k8s.
const DefaultMark = 0x80

// DefaultReturnMask are the bits that number the other ENIs, in packet marks and
// in connection marks alike.
const DefaultReturnMask = 0x7f

// DefaultHostLinkPrefix is what the names of pods' host links start with.
const DefaultHostLinkPrefix = "eni"

// Random says how the translated source port is chosen.
type Random string

const (
	// RandomPRNG chooses the port at random; two flows that start at once
	// hardly ever fight for one port. It is the default.
	RandomPRNG Random = "prng"
	// RandomHash starts the search for a free port at a keyed hash of the flow.
	RandomHash Random = "hashrandom"
	// RandomNone keeps the pod's port where it is free.
	RandomNone Random = "none"
)

// Config says what to translate. NodeAddrs, PrimaryLink and VPC are needed.
type Config struct {
	// NodeAddrs are the primary private addresses of the primary ENI, at most
	// one a family. Without an IPv4 address nothing is translated: IPv6
	// addresses are public, and packets from them leave by the ENI that owns them.
	NodeAddrs []netip.Addr
	// PrimaryLink is the name of the primary ENI's link.
	PrimaryLink string
	// VPC is the set of prefixes of the VPC; traffic to them stays as it is.
	VPC []netip.Prefix
	// Excluded are further destinations that stay as they are, peered networks
	// for example. 0.0.0.0/0 switches translation off, but not as well as
	// External does.
	Excluded []netip.Prefix
	// HostLinkPrefix is what the names of all pods' host links start with; ""
	// is [DefaultHostLinkPrefix].
	HostLinkPrefix string
	// External says that something else translates, a NAT gateway for example:
	// pods' traffic leaves by their own ENI with their own address.
	External bool
	// Random is the choice of ports; "" is [RandomPRNG].
	Random Random
	// Ports is the range of the translated ports of TCP and UDP; the zero value
	// leaves it to the kernel, which takes 1024 to 65535. Give what the
	// network's access lists let pass.
	Ports Ports
	// NodePort sees to it that answers to what came in through the primary ENI
	// for the node, and was handed to a pod, return by the primary ENI.
	NodePort bool
	// Returns does the same for what came in through other ENIs. They need
	// NodePort, and a routing rule for each mark.
	Returns []Return
	// Mark is the bit to use; 0 is [DefaultMark].
	Mark uint32
	// ReturnMask are the bits for the marks of Returns; 0 is [DefaultReturnMask].
	ReturnMask uint32
}

// Return is a link of an ENI, and the mark that makes a packet leave by it.
type Return struct {
	Link string
	// Mark is not 0 and has no bits but those of [Config.ReturnMask].
	Mark uint32
}

// Ports is a range of port numbers, both ends included.
type Ports struct{ First, Last uint16 }

// Ruleset computes the rules for c. It is the same for equal sets of prefixes
// and returns, in whatever order they are given, and prefixes how often.
func (c Config) Ruleset() (Ruleset, error) {
	c.HostLinkPrefix = cmp.Or(c.HostLinkPrefix, DefaultHostLinkPrefix)
	c.Random = cmp.Or(c.Random, RandomPRNG)
	c.Mark = cmp.Or(c.Mark, DefaultMark)
	c.ReturnMask = cmp.Or(c.ReturnMask, DefaultReturnMask)
	c.Returns = slices.SortedFunc(slices.Values(c.Returns), func(a, b Return) int { return cmp.Compare(a.Link, b.Link) })
	if err := c.check(); err != nil {
		return Ruleset{}, fmt.Errorf("snat: %w", err)
	}
	node4 := c.node4()
	translates := !c.External && node4.IsValid()
	inside := inside4(c.VPC, c.Excluded)
	if translates && len(inside4(c.VPC)) == 0 {
		return Ruleset{}, fmt.Errorf("snat: %w", ErrNoVPC)
	}
	var r Ruleset
	if c.NodePort {
		r.chains = append(r.chains, c.nodePort())
	}
	if c.NodePort || translates {
		r.chains = append(r.chains, c.podMarks(translates))
	}
	if len(c.Returns) > 0 {
		r.chains = append(r.chains, c.returns())
	}
	if translates {
		r.sets = append(r.sets, set{name: insideSet, prefixes: inside})
		r.chains = append(r.chains, c.source(node4))
	}
	return r, nil
}

func (c Config) check() error {
	switch {
	case c.PrimaryLink == "" || len(c.PrimaryLink) >= maxLinkName:
		return fmt.Errorf("primary link %q: not a name of 1 to %d bytes", c.PrimaryLink, maxLinkName-1)
	case len(c.HostLinkPrefix) >= maxLinkName:
		return fmt.Errorf("host link prefix %q: longer than a link's name", c.HostLinkPrefix)
	case bits.OnesCount32(c.Mark) != 1:
		return fmt.Errorf("mark %#x: not one bit", c.Mark)
	case c.Ports != Ports{} && (c.Ports.First == 0 || c.Ports.First > c.Ports.Last):
		return fmt.Errorf("ports %d to %d: not a range", c.Ports.First, c.Ports.Last)
	case !slices.Contains([]Random{RandomPRNG, RandomHash, RandomNone}, c.Random):
		return fmt.Errorf("random mode %q: not one of %s, %s, %s", c.Random, RandomPRNG, RandomHash, RandomNone)
	}
	if err := c.checkReturns(); err != nil {
		return err
	}
	seen := map[bool]bool{}
	for _, a := range c.NodeAddrs {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || seen[a.Is4()] {
			return fmt.Errorf("node addresses %v: not at most one plain address a family", c.NodeAddrs)
		}
		seen[a.Is4()] = true
	}
	for _, p := range slices.Concat(c.VPC, c.Excluded) {
		if !p.IsValid() {
			return errors.New("the prefixes hold an invalid one")
		}
	}
	return nil
}

func (c Config) checkReturns() error {
	switch {
	case len(c.Returns) > 0 && !c.NodePort:
		return errors.New("returns without node ports")
	case c.ReturnMask&c.Mark != 0:
		return fmt.Errorf("return mask %#x: has the bit %#x of the primary ENI", c.ReturnMask, c.Mark)
	}
	links := map[string]bool{c.PrimaryLink: true}
	for _, r := range c.Returns {
		switch {
		case r.Link == "" || len(r.Link) >= maxLinkName:
			return fmt.Errorf("return link %q: not a name of 1 to %d bytes", r.Link, maxLinkName-1)
		case links[r.Link]:
			return fmt.Errorf("return link %s: has two marks", r.Link)
		case r.Mark == 0 || r.Mark&^c.ReturnMask != 0:
			return fmt.Errorf("return link %s: mark %#x is 0 or not in %#x", r.Link, r.Mark, c.ReturnMask)
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

// inside4 returns the IPv4 prefixes in order, without those that lie in another.
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

// nodePort remembers by which ENI a flow comes in for the node itself, before
// anybody rewrites its destination.
func (c Config) nodePort() chain {
	k := chain{
		name: "node-port", kind: kindFilter, hook: hookPrerouting, priority: priorityMangle,
		rules: []rule{{
			comment: "answers return by the primary ENI",
			stmts:   []stmt{linkName{name: c.PrimaryLink}, ctNew{}, addrType{}, setCtMark{c.Mark}},
		}},
	}
	for _, r := range c.Returns {
		k.rules = append(k.rules, rule{
			comment: "answers return by " + r.Link,
			stmts:   []stmt{linkName{name: r.Link}, ctNew{}, addrType{}, setCtNumber{c.ReturnMask, r.Mark}},
		})
	}
	return k
}

// podMarks decides for new flows from pods, as they are after the destination
// is rewritten, and marks the packets of flows for which it was decided.
func (c Config) podMarks(translates bool) chain {
	pods := linkName{name: c.HostLinkPrefix + "*"}
	k := chain{name: "pods", kind: kindFilter, hook: hookPrerouting, priority: priorityAfterDNAT}
	if translates {
		k.rules = append(k.rules, rule{
			comment: "flows that will be translated",
			stmts:   []stmt{pods, ctNew{}, outside{insideSet}, addrType{not: true}, setCtMark{c.Mark}},
		})
	}
	k.rules = append(k.rules, rule{
		comment: "leave by the primary ENI",
		stmts:   []stmt{pods, ctMarked{c.Mark, c.Mark}, setMark{c.Mark}},
	})
	if len(c.Returns) > 0 {
		k.rules = append(k.rules, rule{
			comment: "leave by the ENI of the question",
			stmts:   []stmt{ctNumbered{c.ReturnMask}, ctReply{}, jump{returnsChain}},
		})
	}
	return k
}

// returns marks answers of flows that came in through other ENIs than the
// primary. It makes no difference where they come from: an endpoint may be a pod
// here, or on another node that answers to this one.
func (c Config) returns() chain {
	k := chain{name: returnsChain}
	for _, r := range c.Returns {
		k.rules = append(k.rules, rule{
			comment: "leave by " + r.Link,
			stmts:   []stmt{ctMarked{c.ReturnMask, r.Mark}, setNumber{c.ReturnMask, r.Mark}},
		})
	}
	return k
}

// source translates what leaves the VPC and is not the node's own.
func (c Config) source(node netip.Addr) chain {
	k := chain{name: "source", kind: kindNAT, hook: hookPostrouting, priority: priorityAfterSNAT}
	pods := []stmt{linkName{out: true, name: c.PrimaryLink}, outside{insideSet}, addrType{source: true, not: true}}
	if c.Ports != (Ports{}) {
		for _, p := range []protocol{protocolTCP, protocolUDP} {
			k.rules = append(k.rules, rule{
				comment: "pods appear as the node",
				stmts:   slices.Concat(pods, []stmt{p, counter{}, translate{node, c.Ports, c.Random}}),
			})
		}
	}
	k.rules = append(k.rules, rule{
		comment: "pods appear as the node",
		stmts:   slices.Concat(pods, []stmt{counter{}, translate{node, Ports{}, c.Random}}),
	})
	return k
}
