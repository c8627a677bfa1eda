// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/netip"
	"slices"
)

// want is a number of addresses or prefixes for EC2 to choose, or those that
// the caller has chosen.
type want struct {
	n     int
	exact []netip.Prefix
}

func (w want) size() int { return w.n + len(w.exact) }

// grabber takes addresses out of a subnet. After the first error it does
// nothing; close gives everything back then.
type grabber struct {
	t      *tx
	subnet *Subnet
	space  *space
	taken  []netip.Prefix
	err    error
}

func (t *tx) grabber(subnet string) *grabber {
	return &grabber{t: t, subnet: t.subnet(subnet), space: t.c.state.spaces[subnet]}
}

// close ends the grabbing: it undoes it after an error.
func (g *grabber) close() error {
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
func (g *grabber) addrs(w want) []netip.Prefix {
	return g.take(w, 32, g.space.pickAddr, errorf("InsufficientFreeAddressesInSubnet",
		"The specified subnet does not have enough free addresses to satisfy the request."))
}

// blocks takes /28 prefixes.
func (g *grabber) blocks(w want) []netip.Prefix {
	return g.take(w, 28, g.space.pickBlock, errorf("InsufficientCidrBlocks",
		"The specified subnet does not have enough free cidr blocks to satisfy the request."))
}

// addrs6 takes IPv6 addresses.
func (g *grabber) addrs6(w want) []netip.Prefix {
	return g.take(w, 128, func() (netip.Prefix, bool) { return g.space.pick6(false) },
		errorf("InsufficientFreeAddressesInSubnet",
			"The specified subnet does not have enough free IPv6 addresses to satisfy the request."))
}

// blocks6 takes /80 prefixes.
func (g *grabber) blocks6(w want) []netip.Prefix {
	return g.take(w, 80, func() (netip.Prefix, bool) { return g.space.pick6(true) },
		errorf("InsufficientCidrBlocks",
			"The specified subnet does not have enough free cidr blocks to satisfy the request."))
}

func (g *grabber) take(w want, bits int, pick func() (netip.Prefix, bool), full error) []netip.Prefix {
	if g.err != nil || w.size() == 0 {
		return nil
	}
	if bits > 32 && g.space.v6 == nil {
		g.err = invalidValue("The specified subnet %s does not have an associated IPv6 CIDR block.", g.subnet.ID)
		return nil
	}
	var got []netip.Prefix
	for _, p := range w.exact {
		if g.err = g.exact(p, bits); g.err != nil {
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

// exact takes one address or prefix that the caller has chosen.
func (g *grabber) exact(p netip.Prefix, bits int) error {
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

// awsOwned reports whether p holds an address that AWS keeps in each subnet.
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

// load is how many slots an ENI uses: addresses and prefixes.
type load struct{ v4, v6, prefixes int }

// load is what the ENI uses now.
func (e *ENI) load() load {
	return load{
		v4: len(e.v4()) + len(e.Prefixes), v6: len(e.IPv6Addrs) + len(e.IPv6Prefixes),
		prefixes: len(e.Prefixes) + len(e.IPv6Prefixes),
	}
}

// check says whether an instance type's limits permit the load.
func (l load) check(it InstanceType) error {
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

// without returns all but those in gone, and whether all of gone were there.
func without[T comparable](all, gone []T) (rest []T, found bool) {
	rest = slices.DeleteFunc(slices.Clone(all), func(one T) bool { return slices.Contains(gone, one) })
	for _, one := range gone {
		if !slices.Contains(all, one) {
			return rest, false
		}
	}
	return rest, true
}
