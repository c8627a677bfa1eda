// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// vpcKeys are the metadata keys of an ENI that list the CIDR blocks of its VPC.
var vpcKeys = []string{"vpc-ipv4-cidr-blocks", "vpc-ipv6-cidr-blocks"}

// VPCPrefixes asks the metadata service for the CIDR blocks of the VPC of the
// primary ENI, IPv4 first, and keeps them in Instance.VPC of the inventory. It
// makes no call to EC2, so that it can be asked often: a block that is added to a
// VPC while its instances run shows there.
//
// The result is what the service shows now. It is never empty: an answer without
// an IPv4 block, which every VPC has, or with anything that is not a block is an
// error with ReasonNoMetadata, and changes nothing. A block that one answer does
// not show may be missing by mistake: a caller that would harm flows by its
// removal should keep it until further answers agree.
func (m *Manager) VPCPrefixes(ctx context.Context) ([]netip.Prefix, error) {
	m.mu.Lock()
	mac := m.inv.Instance.PrimaryMAC
	m.mu.Unlock()
	if mac == "" {
		inst, err := m.ec2.identity(ctx)
		if err != nil {
			return nil, err
		}
		mac = inst.PrimaryMAC
	}
	l, err := m.ec2.leaf(ctx, mac, vpcKeys)
	if err != nil {
		return nil, err
	}
	out, err := l.vpc()
	if err != nil {
		return nil, &OpError{Op: "metadata " + macsPath + mac, Why: ReasonNoMetadata, Err: err}
	}
	m.change(func(inv *Inventory) {
		if inv.Instance.PrimaryMAC == mac {
			inv.Instance.VPC = out
		}
	})
	return out, nil
}

// vpc lists the CIDR blocks of the VPC. It fails on anything else in the lists,
// and without an IPv4 block.
func (l leaf) vpc() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for i, key := range vpcKeys {
		for _, s := range strings.Fields(l[key]) {
			p, err := netip.ParsePrefix(s)
			if err != nil || p.Addr().Is4() != (i == 0) || p.Bits() == 0 || p != p.Masked() {
				return nil, fmt.Errorf("%s: %q is not a CIDR block", key, s)
			}
			out = append(out, p)
		}
		if len(out) == 0 {
			return nil, fmt.Errorf("%s is empty", key)
		}
	}
	return out, nil
}
