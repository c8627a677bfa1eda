// SPDX-License-Identifier: Apache-2.0

package vpctest

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/internal/fabric"
)

// errNoDNS is the error of methods that need the resolver.
var errNoDNS = errors.New("the VPC has no resolver, because Config.NoDNS is set")

// Resolver returns the address of the resolver: the base of the first IPv4 block of the VPC
// plus two, or fd00:ec2::253 if the VPC has no IPv4 block. It also answers at
// 169.254.169.253. It answers over UDP and TCP at port 53:
//
//   - ip-10-0-0-9.us-west-2.compute.internal, for each address of an attached ENI, also of a
//     delegated prefix (ip-10-0-0-9.ec2.internal in us-east-1);
//   - i-….us-west-2.compute.internal, the address and the IPv6 address of a node;
//   - the names of these addresses below in-addr.arpa and ip6.arpa;
//   - what [VPC.SetName] adds.
//
// Other names do not exist: the answer is NXDOMAIN.
func (v *VPC) Resolver() netip.Addr {
	if a := fabric.ResolverAddr(v.cfg.Prefixes); a.IsValid() {
		return a
	}
	return fabric.ResolverAddr6
}

// SetName makes the resolver answer a name with addresses, and each of the addresses with the
// first such name. No addresses delete the name.
func (v *VPC) SetName(t TB, name string, addrs ...netip.Addr) {
	t.Helper()
	if v.resolver == nil {
		t.Fatalf("name %s: %v", name, errNoDNS)
	}
	fatal(t, v.resolver.Set(name, addrs...), "set name")
}

// Lookup asks a resolver for the addresses of a name, in order. It asks over "udp" or "tcp", or
// with "" as programs do: over UDP, and over TCP if the answer was cut off. If the name does
// not exist or has no address it returns none.
func (h *Host) Lookup(t TB, network string, resolver netip.Addr, name string) []netip.Addr {
	t.Helper()
	ctx, cancel := within(t, patience)
	defer cancel()
	addrs, err := h.dns(network, resolver).LookupNetIP(ctx, "ip", name+".")
	fatalDNS(t, err, h, name)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// LookupAddr asks a resolver for the name of an address, over the network that Lookup
// describes. If the address has no name it returns "".
func (h *Host) LookupAddr(t TB, network string, resolver, a netip.Addr) string {
	t.Helper()
	ctx, cancel := within(t, patience)
	defer cancel()
	names, err := h.dns(network, resolver).LookupAddr(ctx, a.String())
	fatalDNS(t, err, h, a.String())
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// fatalDNS ends the test if err is not nil, except for an answer that says that there is no
// record.
func fatalDNS(t TB, err error, h *Host, question string) {
	t.Helper()
	var none *net.DNSError
	if errors.As(err, &none) && none.IsNotFound {
		return
	}
	fatal(t, err, "look up %s from %s", question, h.Name())
}

func (h *Host) dns(network string, server netip.Addr) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, chosen, _ string) (net.Conn, error) {
		network := cmp.Or(network, chosen)
		return h.ns.Dial(ctx, network, netip.AddrPort{}, netip.AddrPortFrom(server, fabric.ResolverPort))
	}}
}
