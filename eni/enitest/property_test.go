// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// checkInvariants checks the invariants of every state: no address is assigned
// twice or reserved by AWS, every block is aligned and in its subnet, the count of
// free addresses is right, and no limit of an instance type is exceeded.
func checkInvariants(t *testing.T, c *enitest.Cloud) {
	t.Helper()
	for _, s := range c.Subnets() {
		if !s.Prefix.IsValid() {
			continue // has only IPv6
		}
		used := map[netip.Addr]string{}
		claim := func(owner string, p netip.Prefix) {
			if p != p.Masked() || !s.Prefix.Contains(p.Addr()) || p.Bits() != 28 && !p.IsSingleIP() {
				t.Errorf("%s has %v in %v", owner, p, s.Prefix)
			}
			for a := p.Addr(); p.Contains(a); a = a.Next() {
				if other, ok := used[a]; ok {
					t.Errorf("%s and %s both have %v", owner, other, a)
				}
				used[a] = owner
			}
		}
		base := s.Prefix.Addr()
		for range 4 {
			claim("AWS", netip.PrefixFrom(base, 32))
			base = base.Next()
		}
		claim("AWS", netip.PrefixFrom(last(s.Prefix), 32))
		for _, a := range s.Occupied {
			claim("occupied", netip.PrefixFrom(a, 32))
		}
		for _, e := range c.ENIs() {
			for _, p := range e.Owned() {
				if e.Subnet == s.ID && p.Addr().Is4() {
					claim(e.ID, p)
				}
			}
		}
		if want := 1<<(32-s.Prefix.Bits()) - len(used); s.Free != want {
			t.Errorf("subnet %v has %d free addresses, want %d", s.Prefix, s.Free, want)
		}
	}
	checkIPv6(t, c)
	checkLimits(t, c)
}

func last(p netip.Prefix) netip.Addr {
	a := p.Addr()
	for p.Contains(a.Next()) {
		a = a.Next()
	}
	return a
}

// checkIPv6 checks that no IPv6 address or block overlaps another.
func checkIPv6(t *testing.T, c *enitest.Cloud) {
	t.Helper()
	var all []netip.Prefix
	for _, e := range c.ENIs() {
		for _, p := range e.Owned() {
			if p.Addr().Is6() {
				all = append(all, p)
			}
		}
	}
	for i, p := range all {
		for _, q := range all[:i] {
			if p.Overlaps(q) {
				t.Errorf("%v overlaps %v", p, q)
			}
		}
	}
}

func checkLimits(t *testing.T, c *enitest.Cloud) {
	t.Helper()
	onCard := map[string]int{}
	positions := map[string]string{}
	for _, e := range c.ENIs() {
		if e.Attachment == nil || e.Attachment.InstanceOwner != "" {
			continue
		}
		i, ok := c.Instance(e.Attachment.Instance)
		if !ok {
			t.Errorf("%s is attached to %s, which does not exist", e.ID, e.Attachment.Instance)
			continue
		}
		it, _ := c.InstanceType(i.Type)
		card := fmt.Sprintf("%s card %d", i.ID, e.Attachment.Card)
		onCard[card]++
		if onCard[card] > it.ENIs[e.Attachment.Card] {
			t.Errorf("%s has %d ENIs, limit %d", card, onCard[card], it.ENIs[e.Attachment.Card])
		}
		position := fmt.Sprintf("%s device %d", card, e.Attachment.Device)
		if other, ok := positions[position]; ok {
			t.Errorf("%s and %s are both at %s", e.ID, other, position)
		}
		positions[position] = e.ID
		if n := 1 + len(e.Addrs) + len(e.Prefixes); n > it.IPv4PerENI {
			t.Errorf("%s has %d IPv4 slots in use, limit %d", e.ID, n, it.IPv4PerENI)
		}
		if n := len(e.IPv6Addrs) + len(e.IPv6Prefixes); n > it.IPv6PerENI {
			t.Errorf("%s has %d IPv6 slots in use, limit %d", e.ID, n, it.IPv6PerENI)
		}
		if len(e.Prefixes) > 0 && it.Hypervisor == "xen" {
			t.Errorf("%s has prefixes on %s", e.ID, it.Name)
		}
	}
}

// TestRandomCalls makes random calls, valid and invalid. It checks the invariants
// after every ten calls, and at the end that the state survives a dump.
func TestRandomCalls(t *testing.T) {
	for _, prefix := range []string{"10.0.1.0/28", "10.0.1.0/26", "10.0.1.0/24"} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("%s seed %d", prefix, seed), func(t *testing.T) {
				w := newWorld(t, setup{kind: "p4d.24xlarge", prefix: prefix, ipv6: true})
				w.subnet, _ = w.Subnet(w.subnet.ID)
				r := &randomizer{world: w, Rand: rand.New(rand.NewPCG(seed, 1))}
				if w.subnet.Free > 20 {
					w.runInstance(t, "t2.medium")
				}
				for n := range 300 {
					r.step(t)
					if n%10 == 0 {
						checkInvariants(t, w.Cloud)
					}
					if t.Failed() {
						t.FailNow()
					}
				}
				roundTrip(t, w.Cloud)
			})
		}
	}
}

type randomizer struct {
	*world
	*rand.Rand
}

func (r *randomizer) eni() enitest.ENI {
	all := r.ENIs()
	return all[r.IntN(len(all))]
}

// step makes one random call. EC2 refuses many of them.
func (r *randomizer) step(t *testing.T) {
	ctx := t.Context()
	e := r.eni()
	count := aws.Int32(int32(r.IntN(4)))
	switch r.IntN(11) {
	case 0, 1:
		_, _ = r.ec2.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{SubnetId: &r.subnet.ID, Ipv4PrefixCount: count})
	case 2, 3:
		is := r.Instances()
		_, _ = r.ec2.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: &e.ID, InstanceId: &is[r.IntN(len(is))].ID,
			DeviceIndex: aws.Int32(int32(r.IntN(5))), NetworkCardIndex: aws.Int32(int32(r.IntN(3))),
		})
	case 4:
		_, _ = r.ec2.AssignPrivateIpAddresses(ctx, &ec2.AssignPrivateIpAddressesInput{
			NetworkInterfaceId: &e.ID, SecondaryPrivateIpAddressCount: count,
		})
	case 5:
		_, _ = r.ec2.AssignPrivateIpAddresses(ctx, &ec2.AssignPrivateIpAddressesInput{
			NetworkInterfaceId: &e.ID, PrivateIpAddresses: []string{fmt.Sprintf("10.0.1.%d", r.IntN(256))},
			AllowReassignment: aws.Bool(r.IntN(2) == 0),
		})
	case 6:
		_, _ = r.ec2.AssignPrivateIpAddresses(ctx, &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &e.ID, Ipv4PrefixCount: count})
	case 7:
		r.unassign(t, e)
	case 8:
		_, _ = r.ec2.AssignIpv6Addresses(ctx, &ec2.AssignIpv6AddressesInput{NetworkInterfaceId: &e.ID, Ipv6PrefixCount: count})
	case 9:
		_, _ = r.ec2.AssignIpv6Addresses(ctx, &ec2.AssignIpv6AddressesInput{NetworkInterfaceId: &e.ID, Ipv6AddressCount: count})
	case 10:
		if e.Attachment != nil {
			_, _ = r.ec2.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: &e.Attachment.ID})
		} else {
			_, _ = r.ec2.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &e.ID})
		}
	}
}

func (r *randomizer) unassign(t *testing.T, e enitest.ENI) {
	in := ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: &e.ID}
	for _, a := range e.Addrs {
		if r.IntN(2) == 0 {
			in.PrivateIpAddresses = append(in.PrivateIpAddresses, a.String())
		}
	}
	if in.PrivateIpAddresses == nil {
		for _, p := range e.Prefixes {
			in.Ipv4Prefixes = append(in.Ipv4Prefixes, p.String())
		}
	}
	_, _ = r.ec2.UnassignPrivateIpAddresses(t.Context(), &in)
	if len(e.IPv6Prefixes) > 0 {
		_, _ = r.ec2.UnassignIpv6Addresses(t.Context(), &ec2.UnassignIpv6AddressesInput{
			NetworkInterfaceId: &e.ID, Ipv6Prefixes: []string{e.IPv6Prefixes[0].String()},
		})
	}
}

// TestFillWithBlocks assigns all /28 prefixes of subnets of each size: all but the
// two that contain addresses reserved by AWS.
func TestFillWithBlocks(t *testing.T) {
	for bits := 16; bits <= 28; bits++ {
		w := newWorld(t, setup{config: enitest.Config{Types: []enitest.InstanceType{{
			Name: "huge", ENIs: []int{2}, IPv4PerENI: 1 << 16, Hypervisor: "nitro",
		}}}, kind: "huge", prefix: fmt.Sprintf("10.0.0.0/%d", bits)})
		e := w.ENIs()[0]
		blocks := int32(max(1<<(28-bits)-2, 0))
		if blocks > 0 {
			must(w.ec2.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
				NetworkInterfaceId: &e.ID, Ipv4PrefixCount: &blocks,
			}))(t)
		}
		_, err := w.ec2.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
			NetworkInterfaceId: &e.ID, Ipv4PrefixCount: aws.Int32(1),
		})
		if bits == 28 {
			wantCode(t, err, "InvalidParameterValue") // 10 addresses are free
		} else {
			wantCode(t, err, "InsufficientCidrBlocks")
		}
		checkInvariants(t, w.Cloud)
	}
}
