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
// primary ENI, IPv4 first, and stores them in Instance.VPC of the inventory. It
// makes no call to EC2, so a caller can use it often to notice blocks that are
// added to the VPC while the instance runs.
//
// The result is never empty. If the answer has no IPv4 block, which every VPC has,
// or contains anything that is not a block, VPCPrefixes returns an error with
// ReasonNoMetadata and changes nothing. An answer may lack a block by mistake. If
// the removal of a block would harm flows, the caller should keep it until further
// answers agree.
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
	l, err := m.ec2.macData(ctx, mac, vpcKeys)
	if err != nil {
		return nil, err
	}
	out, err := l.vpc()
	if err != nil {
		return nil, &OpError{Op: "metadata " + macsPath + mac, reason: ReasonNoMetadata, Err: err}
	}
	m.changeInventory(func(inv *Inventory) {
		if inv.Instance.PrimaryMAC == mac {
			inv.Instance.VPC = out
		}
	})
	return out, nil
}

// vpc returns the CIDR blocks of the VPC. It fails if the lists contain anything
// else, or no IPv4 block.
func (l macData) vpc() ([]netip.Prefix, error) {
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
