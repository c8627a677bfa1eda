// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
)

// vlanLink is the link of the branch ENI that testBranch makes.
const vlanLink = "vlan.eth.5"

// vlanDamages change a branch ENI.
var vlanDamages = []modeDamage{
	{name: "VLAN link down", do: func(h *netlink.Handle, _ datapath.Pod) error { return withLink(h, vlanLink, h.LinkSetDown) }, repair: vlanLink},
	{name: "MAC of the VLAN link", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return withLink(h, vlanLink, func(l netlink.Link) error { return h.LinkSetHardwareAddr(l, mac("02:00:00:00:00:97")) })
	}, repair: vlanLink + " address"},
	{name: "alias of the VLAN link", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return withLink(h, vlanLink, func(l netlink.Link) error { return h.LinkSetAlias(l, "foreign") })
	}, repair: "alias"},
	{name: "table of the VLAN link", do: func(h *netlink.Handle, p datapath.Pod) error {
		return eachRoute(h, vlanLink, p.Mode.Branch.Table(), h.RouteDel)
	}, repair: "table 105"},
	{name: "setting of the VLAN link", do: func(*netlink.Handle, datapath.Pod) error {
		return sysctl("net/ipv4/conf/"+vlanLink+"/rp_filter", "1")
	}, repair: "rp_filter=0"},
	{name: "no VLAN link", do: func(h *netlink.Handle, _ datapath.Pod) error { return withLink(h, vlanLink, h.LinkDel) }, repair: "type vlan id 5"},
	{name: "another VLAN's link", do: func(h *netlink.Handle, _ datapath.Pod) error {
		if err := withLink(h, vlanLink, h.LinkDel); err != nil {
			return err
		}
		return withLink(h, "ens6", func(trunk netlink.Link) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.ParentIndex = vlanLink, trunk.Attrs().Index
			return ignoreExists(h.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: 6, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}))
		})
	}, repair: "type vlan id 5"},
}

// branchRuleDamages change the rules of the node under Strict.
var branchRuleDamages = []modeDamage{
	{name: "rules by incoming link", do: func(h *netlink.Handle, _ datapath.Pod) error {
		return eachRule(h, func(r netlink.Rule) bool { return r.Priority == claims.PriorityBranch }, h.RuleDel)
	}, repair: "iif"},
}

// testWatchKinds is [TestWatchModes] for pods on a branch ENI and on ipvlan.
func testWatchKinds(t *testing.T, layout datapath.Layout) {
	for _, enforcement := range []datapath.Enforcement{datapath.Standard, datapath.Strict} {
		t.Run("branch "+string(enforcement), func(t *testing.T) {
			l := newLab(t, layout)
			l.n.Enforcement = enforcement
			l.ensure()
			damages := [][]modeDamage{hostDamages, vlanDamages, nodeDamages, eniDamages}
			if enforcement == datapath.Strict {
				damages = append(damages, branchRuleDamages)
			}
			l.watchModes([]datapath.Pod{l.branch(enforcement, "one"), l.pod(0, "two")}, damages...)
		})
	}
	t.Run("ipvlan", func(t *testing.T) {
		l := newLab(t, layout)
		l.ensure()
		p := l.pod(1, "one")
		p.Mode.IPVLAN = &datapath.IPVLAN{ENI: l.n.ENIs[1], Direct: prefixes("10.0.0.0/16", "2001:db8::/56")}
		l.watchModes([]datapath.Pod{p, l.pod(0, "two")}, hostDamages, nodeDamages, eniDamages)
	})
}
