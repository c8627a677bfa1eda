// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/netip"
	"slices"
)

type assignIPv4In struct {
	ID                string         `ec2:"NetworkInterfaceId"`
	Addrs             []netip.Addr   `ec2:"PrivateIpAddress"`
	AddrCount         int            `ec2:"SecondaryPrivateIpAddressCount"`
	Prefixes          []netip.Prefix `ec2:"Ipv4Prefix"`
	PrefixCount       int            `ec2:"Ipv4PrefixCount"`
	AllowReassignment bool           `ec2:"AllowReassignment"`
}

type wirePrivateAddr struct {
	Addr string `xml:"privateIpAddress"`
}

type assignIPv4Out struct {
	ID       string                `xml:"networkInterfaceId"`
	Addrs    list[wirePrivateAddr] `xml:"assignedPrivateIpAddressesSet"`
	Prefixes list[wireIPv4Prefix]  `xml:"assignedIpv4PrefixSet"`
	Return   bool                  `xml:"return"`
}

func (t *tx) assignPrivateIPAddresses(in assignIPv4In) (assignIPv4Out, error) {
	var none assignIPv4Out
	e, err := t.mutableENI(in.ID)
	if err != nil {
		return none, err
	}
	addrs, blocks := selectAddrs(in.AddrCount, in.Addrs), selection{in.PrefixCount, in.Prefixes}
	if err := checkOneSelection(addrs, blocks); err != nil {
		return none, err
	}
	if !e.Addr.IsValid() {
		return none, errorf("UnsupportedOperation", "The network interface %s does not support IPv4 addresses", e.ID)
	}
	l := e.slotUse()
	l.v4 += addrs.size() + blocks.size()
	l.prefixes += blocks.size()
	if err := l.check(t.limitsFor(e)); err != nil {
		return none, err
	}
	if in.AllowReassignment {
		for _, a := range in.Addrs {
			t.removeAddr(a, e)
		}
	}
	e = e.clone()
	g := t.assigner(e.Subnet)
	newAddrs, newBlocks := g.addrs(addrs), g.blocks(blocks)
	if err := g.close(); err != nil {
		return none, err
	}
	e.Addrs = append(e.Addrs, addrsOf(newAddrs)...)
	e.Prefixes = append(e.Prefixes, newBlocks...)
	t.changed(Assigned, e, slices.Concat(newAddrs, newBlocks))
	return assignIPv4Out{
		ID:       e.ID,
		Addrs:    listOf(newAddrs, func(p netip.Prefix) wirePrivateAddr { return wirePrivateAddr{wireText(p)} }),
		Prefixes: listOf(newBlocks, func(p netip.Prefix) wireIPv4Prefix { return wireIPv4Prefix{p.String()} }),
		Return:   true,
	}, nil
}

// removeAddr removes a secondary private IP from the ENI that has it, so that it
// can be assigned to the ENI to.
func (t *tx) removeAddr(a netip.Addr, to *ENI) {
	for _, e := range t.allENIs(t.now) {
		rest, found := without(e.Addrs, []netip.Addr{a})
		if !found || e.ID == to.ID || e.Subnet != to.Subnet {
			continue
		}
		e = e.clone()
		e.Addrs = rest
		t.c.state.spaces[e.Subnet].release(single(a))
		t.changed(Unassigned, e, []netip.Prefix{single(a)})
	}
}

// changed stores e and tells the hooks which addresses were added or removed.
func (t *tx) changed(op Op, e *ENI, what []netip.Prefix) {
	t.put(e)
	instance := ""
	if e.Attachment != nil && e.Attachment.Status(t.now) != "detaching" {
		instance = e.Attachment.Instance
	}
	t.emit(op, e, instance, what)
}

func selectAddrs(n int, addrs []netip.Addr) selection {
	w := selection{n: n}
	for _, a := range addrs {
		w.exact = append(w.exact, single(a))
	}
	return w
}

// checkOneSelection checks that a call asks for addresses or for prefixes, and
// either for a number of them or for given ones.
func checkOneSelection(addrs, blocks selection) error {
	given := 0
	for _, set := range []bool{addrs.n != 0, len(addrs.exact) > 0, blocks.n != 0, len(blocks.exact) > 0} {
		if set {
			given++
		}
	}
	switch {
	case addrs.n < 0 || blocks.n < 0:
		return invalidValue("Value (%d) for the number of addresses is invalid.", min(addrs.n, blocks.n))
	case given == 0:
		return errorf("MissingParameter", "The request must contain either addresses or prefixes, or a number of them")
	case given > 1:
		return errorf("InvalidParameterCombination", "Only one of addresses, prefixes and a number of either may be specified")
	}
	return nil
}

type unassignIPv4In struct {
	ID       string         `ec2:"NetworkInterfaceId"`
	Addrs    []netip.Addr   `ec2:"PrivateIpAddress"`
	Prefixes []netip.Prefix `ec2:"Ipv4Prefix"`
}

func (t *tx) unassignPrivateIPAddresses(in unassignIPv4In) (wireReturn, error) {
	e, err := t.mutableENI(in.ID)
	if err != nil {
		return wireReturn{}, err
	}
	if err := checkOneSelection(selectAddrs(0, in.Addrs), selection{exact: in.Prefixes}); err != nil {
		return wireReturn{}, err
	}
	if slices.Contains(in.Addrs, e.Addr) {
		return wireReturn{}, invalidValue("[%s] is the primary private IP address and cannot be unassigned", e.Addr)
	}
	e = e.clone()
	var found bool
	if e.Addrs, found = without(e.Addrs, in.Addrs); !found {
		return wireReturn{}, notAssigned(e)
	}
	if e.Prefixes, found = without(e.Prefixes, in.Prefixes); !found {
		return wireReturn{}, notAssigned(e)
	}
	t.returnAddrs(e, slices.Concat(selectAddrs(0, in.Addrs).exact, in.Prefixes))
	return wireReturn{true}, nil
}

// returnAddrs returns the removed addresses and prefixes of e to its subnet.
func (t *tx) returnAddrs(e *ENI, removed []netip.Prefix) {
	slices.SortFunc(removed, netip.Prefix.Compare)
	for _, p := range slices.Compact(removed) {
		t.c.state.spaces[e.Subnet].release(p)
	}
	t.recount(t.now, e.Subnet)
	t.changed(Unassigned, e, removed)
}

func notAssigned(e *ENI) error {
	return invalidValue("Some of the specified addresses are not assigned to interface %s", e.ID)
}

type assignIPv6In struct {
	ID          string         `ec2:"NetworkInterfaceId"`
	Addrs       []netip.Addr   `ec2:"Ipv6Addresses"`
	AddrCount   int            `ec2:"Ipv6AddressCount"`
	Prefixes    []netip.Prefix `ec2:"Ipv6Prefix"`
	PrefixCount int            `ec2:"Ipv6PrefixCount"`
}

type assignIPv6Out struct {
	ID       string       `xml:"networkInterfaceId"`
	Addrs    list[string] `xml:"assignedIpv6Addresses"`
	Prefixes list[string] `xml:"assignedIpv6PrefixSet"`
}

func (t *tx) assignIpv6Addresses(in assignIPv6In) (assignIPv6Out, error) {
	var none assignIPv6Out
	e, err := t.mutableENI(in.ID)
	if err != nil {
		return none, err
	}
	addrs, blocks := selectAddrs(in.AddrCount, in.Addrs), selection{in.PrefixCount, in.Prefixes}
	if err := checkOneSelection(addrs, blocks); err != nil {
		return none, err
	}
	l := e.slotUse()
	l.v6 += addrs.size() + blocks.size()
	l.prefixes += blocks.size()
	if err := l.check(t.limitsFor(e)); err != nil {
		return none, err
	}
	e = e.clone()
	g := t.assigner(e.Subnet)
	newAddrs, newBlocks := g.addrs6(addrs), g.blocks6(blocks)
	if err := g.close(); err != nil {
		return none, err
	}
	e.IPv6Addrs = append(e.IPv6Addrs, addrsOf(newAddrs)...)
	e.IPv6Prefixes = append(e.IPv6Prefixes, newBlocks...)
	t.changed(Assigned, e, slices.Concat(newAddrs, newBlocks))
	return assignIPv6Out{e.ID, listOf(newAddrs, wireText), listOf(newBlocks, wireText)}, nil
}

type unassignIPv6In struct {
	ID       string         `ec2:"NetworkInterfaceId"`
	Addrs    []netip.Addr   `ec2:"Ipv6Addresses"`
	Prefixes []netip.Prefix `ec2:"Ipv6Prefix"`
}

type unassignIPv6Out struct {
	ID       string       `xml:"networkInterfaceId"`
	Addrs    list[string] `xml:"unassignedIpv6Addresses"`
	Prefixes list[string] `xml:"unassignedIpv6PrefixSet"`
}

func (t *tx) unassignIpv6Addresses(in unassignIPv6In) (unassignIPv6Out, error) {
	var none unassignIPv6Out
	e, err := t.mutableENI(in.ID)
	if err != nil {
		return none, err
	}
	if err := checkOneSelection(selectAddrs(0, in.Addrs), selection{exact: in.Prefixes}); err != nil {
		return none, err
	}
	e = e.clone()
	var found bool
	if e.IPv6Addrs, found = without(e.IPv6Addrs, in.Addrs); !found {
		return none, notAssigned(e)
	}
	if e.IPv6Prefixes, found = without(e.IPv6Prefixes, in.Prefixes); !found {
		return none, notAssigned(e)
	}
	t.returnAddrs(e, slices.Concat(selectAddrs(0, in.Addrs).exact, in.Prefixes))
	return unassignIPv6Out{e.ID, listOf(in.Addrs, netip.Addr.String), listOf(in.Prefixes, netip.Prefix.String)}, nil
}
