// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/netip"
	"slices"
)

// selection is the number of addresses or prefixes that EC2 chooses, or the exact
// ones that the caller has chosen.
type selection struct {
	n     int
	exact []netip.Prefix
}

func (w selection) size() int { return w.n + len(w.exact) }

// assigner takes addresses out of a subnet for an ENI. After the first error its
// methods do nothing, and close releases everything taken before.
type assigner struct {
	t      *tx
	subnet *Subnet
	space  *space
	taken  []netip.Prefix
	err    error
	// launching means that the ENI is for a new instance.
	launching bool
}

func (t *tx) assigner(subnet string) *assigner {
	return &assigner{t: t, subnet: t.subnet(subnet), space: t.c.state.spaces[subnet]}
}

// close updates the subnet's count of free addresses. After an error it releases
// everything that was taken, and returns the error.
func (g *assigner) close() error {
	if g.err != nil {
		for _, p := range g.taken {
			g.space.release(p)
		}
		return g.err
	}
	g.t.recount(g.t.now, g.subnet.ID)
	return nil
}

// addrs takes IPv4 addresses.
func (g *assigner) addrs(w selection) []netip.Prefix {
	return g.take(w, 32, g.space.pickAddr, g.full())
}

// blocks takes /28 prefixes. A subnet with enough free addresses and too few free
// blocks is fragmented, which has an error of its own.
func (g *assigner) blocks(w selection) []netip.Prefix {
	full := g.full()
	if g.space.v4.free >= w.size()*blockSize {
		full = errorf("InsufficientCidrBlocks",
			"The specified subnet does not have enough free cidr blocks to satisfy the request.")
	}
	return g.take(w, 28, g.space.pickBlock, full)
}

// full returns EC2's error for a subnet with fewer free addresses than the call
// needs. The calls on ENIs and RunInstances have different ones:
// https://github.com/aws/amazon-vpc-cni-k8s/issues/3105
func (g *assigner) full() error {
	if g.launching {
		return errorf("InsufficientFreeAddressesInSubnet", "There are not enough free addresses in subnet '%s' "+
			"to satisfy the requested number of instances.", g.subnet.ID)
	}
	return invalidValue("There aren't sufficient free Ipv4 addresses or prefixes")
}

// addrs6 takes IPv6 addresses.
func (g *assigner) addrs6(w selection) []netip.Prefix {
	return g.take(w, 128, func() (netip.Prefix, bool) { return g.space.pick6(false) },
		errorf("InsufficientFreeAddressesInSubnet",
			"The specified subnet does not have enough free IPv6 addresses to satisfy the request."))
}

// blocks6 takes /80 prefixes.
func (g *assigner) blocks6(w selection) []netip.Prefix {
	return g.take(w, 80, func() (netip.Prefix, bool) { return g.space.pick6(true) },
		errorf("InsufficientCidrBlocks",
			"The specified subnet does not have enough free cidr blocks to satisfy the request."))
}

func (g *assigner) take(w selection, bits int, pick func() (netip.Prefix, bool), full error) []netip.Prefix {
	if g.err != nil || w.size() == 0 {
		return nil
	}
	if bits > 32 && g.space.v6 == nil {
		g.err = invalidValue("The specified subnet %s does not have an associated IPv6 CIDR block.", g.subnet.ID)
		return nil
	}
	var got []netip.Prefix
	for _, p := range w.exact {
		if g.err = g.takeExact(p, bits); g.err != nil {
			return nil
		}
		got = append(got, p)
	}
	for range w.n {
		p, ok := pick()
		if !ok {
			g.err = full
			return nil
		}
		g.taken = append(g.taken, p)
		got = append(got, p)
	}
	return got
}

// takeExact takes one address or prefix that the caller has chosen.
func (g *assigner) takeExact(p netip.Prefix, bits int) error {
	switch {
	case !p.IsValid() || p.Bits() != bits || p != p.Masked():
		return invalidValue("invalid value for parameter address: %s", wireText(p))
	case !g.space.contains(p):
		return invalidValue("Address %s does not fall within the subnet's address range", wireText(p))
	case g.space.awsOwned(p):
		return invalidValue("Address %s is in subnet's reserved address range", wireText(p))
	case g.space.busy(p):
		return errorf("InvalidIPAddress.InUse", "Address %s is in use.", wireText(p))
	}
	g.space.take(p)
	g.taken = append(g.taken, p)
	return nil
}

// awsOwned reports whether p contains an address that AWS reserves in each subnet.
func (s *space) awsOwned(p netip.Prefix) bool {
	if p.Addr().Is6() {
		return s.v6.awsOwned(p)
	}
	first, n := s.v4.index(p)
	return first < 4 || first+n == s.v4.size
}

// pick6 takes a free IPv6 address or /80 that no reservation covers, or a /80
// out of a reservation for prefixes.
func (s *space) pick6(block bool) (netip.Prefix, bool) {
	if block {
		for _, r := range s.reserved["prefix"] {
			if p, ok := s.v6.blockWithin(r); ok {
				return p, true
			}
		}
	}
	return s.v6.pick(block, func(p netip.Prefix) bool { return !s.reservedAny(p) })
}

func wireText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// slotUse is the number of slots that an ENI uses, by family. The delegated
// prefixes, of either family, are also counted on their own.
type slotUse struct{ v4, v6, prefixes int }

// slotUse returns the number of slots that the ENI uses now.
func (e *ENI) slotUse() slotUse {
	return slotUse{
		v4: len(e.v4()) + len(e.Prefixes), v6: len(e.IPv6Addrs) + len(e.IPv6Prefixes),
		prefixes: len(e.Prefixes) + len(e.IPv6Prefixes),
	}
}

// check returns EC2's error if l exceeds the limits of the instance type.
func (l slotUse) check(it InstanceType) error {
	switch {
	case l.v4 > it.IPv4PerENI:
		return errorf("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.")
	case l.v6 > it.IPv6PerENI:
		return errorf("Ipv6AddressLimitExceeded", "Number of IPv6 addresses will exceed limit.")
	case l.prefixes > 0 && !it.prefixes():
		return errorf("UnsupportedOperation", "Prefixes are not supported on instance type '%s'", it.Name)
	}
	return nil
}

// without returns the elements of all that are not in removed, and whether all
// contains every element of removed.
func without[T comparable](all, removed []T) (rest []T, found bool) {
	rest = slices.DeleteFunc(slices.Clone(all), func(one T) bool { return slices.Contains(removed, one) })
	for _, one := range removed {
		if !slices.Contains(all, one) {
			return rest, false
		}
	}
	return rest, true
}
