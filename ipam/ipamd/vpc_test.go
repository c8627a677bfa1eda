// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// TestNextVPC checks that a new prefix counts at once, and that a prefix is dropped only if
// no update has shown it for vpcGoneAfter, however many updates there are.
func TestNextVPC(t *testing.T) {
	a, b, c := netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("100.64.0.0/16"), netip.MustParsePrefix("172.16.0.0/16")
	list := func(p ...netip.Prefix) []netip.Prefix { return p }
	began := time.Unix(1e9, 0)
	prefixes, missing := list(a, b), map[netip.Prefix]time.Time(nil)
	for _, update := range []struct {
		after       time.Duration
		shown, want []netip.Prefix
	}{
		{0, list(b, a), list(a, b)},
		{1, list(a, c), list(a, b, c)}, // b is missing for the first time
		{2, list(a, c), list(a, b, c)},
		{vpcGoneAfter, list(a, c), list(a, b, c)},
		{vpcGoneAfter + 1, list(c, b, a), list(a, b, c)},
		{vpcGoneAfter + 2, list(a, b), list(a, b, c)},
		{vpcGoneAfter + 3, list(a), list(a, b, c)}, // c is missing for longer than b
		{2*vpcGoneAfter + 2, list(a), list(a, b)},
		{2*vpcGoneAfter + 3, list(a), list(a)},
	} {
		prefixes, missing = nextVPC(began.Add(update.after), prefixes, update.shown, missing)
		if !slices.Equal(prefixes, update.want) {
			t.Fatalf("after %v: %v, want %v", update.after, prefixes, update.want)
		}
	}
}

// TestVPCFault checks that a prefix which the metadata service omits for a moment stays,
// although signals ask for several checks in that moment, and although the agent ends in it.
// A prefix that was removed from the VPC is dropped by the second audit.
func TestVPCFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.node.recorder.dir, n.node.recorder.boot = n.node.cfg.StateDir, "boot"
		inv, err := n.manager.Discover(t.Context())
		n.check(err)
		first := inv.Instance.VPC
		_, err = n.provider.Register(inv, true)
		n.check(err)
		n.run(t.Context(), 0)
		added := netip.MustParsePrefix("100.64.0.0/16")
		check := func(when string, want ...netip.Prefix) {
			t.Helper()
			synctest.Wait()
			n.node.record(n.manager.Inventory())
			known, err := readNodeRecord(n.node.cfg.StateDir, "boot")
			n.check(err)
			for what, got := range map[string][]netip.Prefix{"the translation": n.node.links.VPC(), "the next agent": known.Inventory.Instance.VPC} {
				if !slices.Equal(got, want) {
					t.Errorf("%s: %s has %v, want %v", when, what, got, want)
				}
			}
		}
		looks := func(times int) {
			for range times {
				signal(n.look)
				time.Sleep(time.Second)
			}
		}
		client, vpc := n.otherClient(), inv.Instance.VPCID
		add := func() string {
			cidr := added.String()
			out, err := client.AssociateVpcCidrBlock(t.Context(), &ec2.AssociateVpcCidrBlockInput{VpcId: &vpc, CidrBlock: &cidr})
			n.check(err)
			return *out.CidrBlockAssociation.AssociationId
		}
		remove := func(id string) {
			_, err := client.DisassociateVpcCidrBlock(t.Context(), &ec2.DisassociateVpcCidrBlockInput{AssociationId: &id})
			n.check(err)
		}
		id := add()
		looks(1)
		both := append(slices.Clone(first), added)
		check("a prefix more", both...)
		remove(id)
		looks(3)
		check("three checks that do not show it", both...)
		if got := n.manager.Inventory().Instance.VPC; slices.Contains(got, added) {
			t.Errorf("the metadata service shows %v, want it without %v", got, added)
		}
		id = add()
		looks(1)
		remove(id)
		looks(1)
		check("another first check that does not show it", both...)
		time.Sleep(2 * auditEvery)
		check("two audits", first...)
	})
}
