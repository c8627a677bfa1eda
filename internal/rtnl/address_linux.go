// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// Address asks to add or delete an address. There is no duplicate address detection:
// the VPC assigns each address once, and detection would take a second.
func (b *Batch) Address(op netstate.Op, index int, a netstate.Address) {
	ip := a.Prefix.Addr()
	kind, flags := requestOf(op, unix.RTM_NEWADDR, replace, unix.RTM_DELADDR)
	header := nl.NewIfAddrmsg(int(familyOf(ip)))
	header.Prefixlen, header.Index = uint8(a.Prefix.Bits()), uint32(index)
	var f uint32
	if a.NoPrefixRoute {
		f |= unix.IFA_F_NOPREFIXROUTE
	}
	if ip.Is6() {
		f |= unix.IFA_F_NODAD
	}
	b.add(kind, flags, header.Serialize())
	b.attrAddr(unix.IFA_LOCAL, ip)
	b.attrAddr(unix.IFA_ADDRESS, ip)
	b.attr32(unix.IFA_FLAGS, f)
}

// decodeAddress decodes an address. Package netlink decodes addresses only within its
// own calls, and gives an address with a peer the length of the address.
func decodeAddress(body []byte, links LinkNames) (netstate.Address, error) {
	if len(body) < unix.SizeofIfAddrmsg {
		return netstate.Address{}, fmt.Errorf("address message has %d bytes, want at least %d", len(body), unix.SizeofIfAddrmsg)
	}
	header := nl.DeserializeIfAddrmsg(body)
	a := netstate.Address{Link: links.Name(int(header.Index))}
	var local, remote netip.Addr
	flags := uint32(header.Flags)
	for kind, v := range attributes(body[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_LOCAL:
			local = addr(v)
		case unix.IFA_ADDRESS:
			remote = addr(v)
		case unix.IFA_FLAGS:
			flags = uint32(number(v))
		}
	}
	if !local.IsValid() {
		local = remote
	}
	a.Prefix = netip.PrefixFrom(local, int(header.Prefixlen))
	a.NoPrefixRoute = flags&unix.IFA_F_NOPREFIXROUTE != 0
	return a, nil
}

// familyOf returns the kernel's number of the family of an address.
func familyOf(a netip.Addr) uint8 { return familyNumber(netstate.FamilyOf(a)) }

// familyNumber returns the kernel's number of a family.
func familyNumber(f netstate.Family) uint8 {
	if f == netstate.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}
