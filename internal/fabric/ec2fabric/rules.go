// SPDX-License-Identifier: Apache-2.0

package ec2fabric

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// setRules gives the rules of the cloud to the fabric if they have changed.
func (w *Follower) setRules() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	rules, err := w.rulesOf()
	if err != nil || reflect.DeepEqual(rules, w.rules) {
		return err
	}
	if err := w.fabric.SetRules(rules); err != nil {
		return err
	}
	w.rules = rules
	return nil
}

// rulesOf returns the rules of the cloud. The caller holds the mutex.
func (w *Follower) rulesOf() (rules vpcrules.Rules, err error) {
	for _, v := range w.cloud.VPCs() {
		rules.Blocks = append(rules.Blocks, slices.Concat(v.Prefixes, v.IPv6)...)
	}
	rules.RouteTables = w.routeTables()
	for _, a := range w.cloud.NetworkACLs() {
		acl, err := aclOf(a)
		if err != nil {
			return vpcrules.Rules{}, err
		}
		rules.ACLs = append(rules.ACLs, acl)
	}
	for _, g := range w.cloud.SecurityGroups() {
		group, err := groupOf(g)
		if err != nil {
			return vpcrules.Rules{}, err
		}
		rules.Groups = append(rules.Groups, group)
	}
	return rules, nil
}

// routeTables returns the route tables. A main table lists the subnets of its VPC that no
// other table lists, because the cloud may have several VPCs.
func (w *Follower) routeTables() (all []vpcrules.RouteTable) {
	tables := w.cloud.RouteTables()
	associated := map[string]bool{}
	for _, t := range tables {
		for _, a := range t.Associations {
			associated[a.Subnet] = true
		}
	}
	for _, t := range tables {
		out := vpcrules.RouteTable{ID: t.ID}
		for _, r := range t.Routes {
			out.Routes = append(out.Routes, vpcrules.Route{Destination: r.Destination, Target: vpcrules.ParseTarget(r.Target)})
		}
		for _, a := range t.Associations {
			out.Subnets = append(out.Subnets, a.Subnet)
		}
		if t.Main {
			for _, s := range w.cloud.Subnets() {
				if s.VPC == t.VPC && !associated[s.ID] {
					out.Subnets = append(out.Subnets, s.ID)
				}
			}
			if w.addDefaults(&out); len(t.Routes) == 0 && !w.routed[routed{t.ID, default4}] && !w.routed[routed{t.ID, default6}] {
				continue // the subnets need no table
			}
		}
		if len(out.Subnets) > 0 {
			all = append(all, out)
		}
	}
	return all
}

var (
	default4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	default6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// routed identifies the default route of a main table.
type routed struct {
	table       string
	destination netip.Prefix
}

// addDefaults adds routes to the internet gateway and to the peer network to a main table,
// for each family whose default route no call has set yet.
func (w *Follower) addDefaults(t *vpcrules.RouteTable) {
	explicit := t.Routes
	for _, p := range []netip.Prefix{default4, default6} {
		key := routed{t.ID, p}
		if slices.ContainsFunc(explicit, func(r vpcrules.Route) bool { return r.Destination == p }) {
			w.routed[key] = true
		}
		if w.routed[key] {
			continue
		}
		t.Routes = append(t.Routes, vpcrules.Route{Destination: p, Target: vpcrules.Target{Kind: vpcrules.Internet}})
		for _, a := range w.fabric.PeerAddrs() {
			covered := slices.ContainsFunc(explicit, func(r vpcrules.Route) bool { return r.Destination.Contains(a) })
			if p.Contains(a) && !covered {
				t.Routes = append(t.Routes, vpcrules.Route{
					Destination: netip.PrefixFrom(a, a.BitLen()), Target: vpcrules.Target{Kind: vpcrules.Peer},
				})
			}
		}
	}
}

func aclOf(a enitest.NetworkACL) (vpcrules.ACL, error) {
	out := vpcrules.ACL{ID: a.ID}
	for _, as := range a.Associations {
		out.Subnets = append(out.Subnets, as.Subnet)
	}
	for _, e := range a.Entries {
		protocol, err := protocolOf(e.Protocol)
		if err != nil {
			return out, fmt.Errorf("entry %d of %s: %w", e.Number, a.ID, err)
		}
		t := vpcrules.Traffic{Protocol: protocol, From: vpcrules.All, To: vpcrules.All}
		switch protocol {
		case vpcrules.TCP, vpcrules.UDP:
			t.From, t.To = e.From, e.To
		case vpcrules.ICMP, vpcrules.ICMPv6:
			t.From, t.To = e.ICMPType, e.ICMPCode
		}
		out.Entries = append(out.Entries, vpcrules.Entry{Number: e.Number, Egress: e.Egress, Allow: e.Allow, Traffic: t, Prefix: e.Prefix})
	}
	return out, nil
}

func groupOf(g enitest.SecurityGroup) (vpcrules.Group, error) {
	out := vpcrules.Group{ID: g.ID}
	for _, r := range g.Rules {
		protocol, err := protocolOf(r.Protocol)
		if err != nil {
			return out, fmt.Errorf("rule %s of %s: %w", r.ID, g.ID, err)
		}
		out.Rules = append(out.Rules, vpcrules.Rule{
			Egress: r.Egress, Traffic: vpcrules.Traffic{Protocol: protocol, From: r.From, To: r.To}, Prefix: r.Prefix, Group: r.Group,
		})
	}
	return out, nil
}

// protocolOf returns the number of a protocol as EC2 names it.
func protocolOf(s string) (int, error) {
	switch s {
	case "-1", "all":
		return vpcrules.All, nil
	case "tcp":
		return vpcrules.TCP, nil
	case "udp":
		return vpcrules.UDP, nil
	case "icmp":
		return vpcrules.ICMP, nil
	case "icmpv6":
		return vpcrules.ICMPv6, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("protocol is %q, want -1, tcp, udp, icmp, icmpv6 or a number up to 255", s)
	}
	return int(n), nil
}
