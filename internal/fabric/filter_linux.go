// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	internetLink   = "igw"
	peerLink       = "tgw"
	gatewayCounter = "internet-gateway"
)

// table returns the nft table of the router. It does not use connection tracking,
// as the routing of a VPC has none.
//
//	table inet fabric {
//		counter eni-… {}
//		counter internet-gateway {}
//		set public { type ipv4_addr; elements = { 10.0.1.10 } }
//		chain sources {
//			type filter hook prerouting priority raw;
//			ip6 saddr fe80::/10 accept
//			ip6 saddr :: accept
//			iifname p1 fib saddr . iif oif 0 counter name eni-… drop
//		}
//		chain internet-gateway-in {
//			type filter hook prerouting priority raw;
//			iifname igw fib daddr type local accept
//			iifname igw ip daddr != @public counter name internet-gateway drop
//		}
//		chain internet-gateway-out {
//			type filter hook postrouting priority srcnat + 50;
//			oifname igw fib saddr type local accept
//			oifname igw ip saddr != @public counter name internet-gateway drop
//		}
//	}
//
// The rules that SetRules sets add further chains, see the variable stages, and sets for
// the flows that security groups track.
//
// The internet gateway is outside of everything that translates addresses in the router,
// as a load balancer does. It passes the router's own addresses.
//
// The fib expression of the sources looks up the route back to the source. It finds one over the
// incoming link only if the ENI of that link owns the source.
func table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: "fabric"}
}

// setFilter replaces the rules with those for the ports and the network. The change takes
// effect in one transaction; others prepare it. It preserves the counters of ports that
// remain, and the tracked flows.
func (r *routing) setFilter(w wanted) error {
	t := r.nft.AddTable(table())
	b := &builder{routing: r, t: t, generation: generation{number: r.rules.number + 1}}
	counters, err := r.counters()
	if err != nil {
		return err
	}
	if w.filters() && !r.shared {
		if b.share(); b.err != nil {
			return fmt.Errorf("router's filter: %w", b.err)
		}
		r.shared = true
	}
	var groups, acls map[bool]map[string]string
	var destinations []checked
	if w.filters() {
		groups, acls, destinations = b.groupChains(w), b.aclChains(w), b.destinations(w)
		b.commit()
	}
	names := []string{gatewayCounter}
	for id := range w.ports {
		names = append(names, id)
	}
	for _, c := range destinations {
		names = append(names, c.counter)
	}
	for _, name := range names {
		if _, ok := counters[name]; !ok {
			r.nft.AddObj(&nftables.CounterObj{Table: t, Name: name})
		}
	}
	public, err := r.setPublic(t, w.ports)
	if err != nil {
		return err
	}
	r.sourceChain(t, w.ports)
	r.gatewayChains(t, public)
	if r.shared {
		b.baseChains(groups, acls, destinations, w.log)
	}
	b.removeOld(w, slices.Collect(maps.Keys(counters)))
	if err := r.nft.Flush(); err != nil {
		b.fail(err)
	}
	if b.err != nil {
		// The chains and sets of this generation remain until the next success.
		r.rules.chains, r.rules.sets = append(r.rules.chains, b.chains...), append(r.rules.sets, b.sets...)
		return fmt.Errorf("router's filter: %w", b.err)
	}
	r.rules = b.generation
	return nil
}

// baseChains fills the base chains of the rules.
func (b *builder) baseChains(groups, acls map[bool]map[string]string, destinations []checked, log bool) {
	base := map[string]*nftables.Chain{}
	for _, s := range stages {
		base[s.name] = b.baseChain(s.name, s.priority)
	}
	add := func(c *nftables.Chain, exprs ...[]expr.Any) {
		b.nft.AddRule(&nftables.Rule{Table: b.t, Chain: c, Exprs: slices.Concat(exprs...)})
	}
	for _, out := range directions {
		for name, chains := range map[string]map[string]string{"groups": groups[out], "acl": acls[out]} {
			if len(chains) > 0 {
				add(base[name+suffix(out)], b.dispatch(ends(out), chains))
			}
		}
		if log {
			add(base["flows"+suffix(out)], verdict(expr.VerdictJump, acceptedChain+suffix(out)))
		}
	}
	for _, c := range destinations {
		for i, v := range ipVersions {
			add(base[destinationCheck], link(expr.MetaKeyOIFNAME, c.link), family(v.family), v.address(true).member(c.owned[i], true), dropCounted(c.counter))
		}
	}
}

// removeOld removes the chains and sets of the last generation, and the counters of ENIs
// that are not attached.
func (b *builder) removeOld(w wanted, counters []string) {
	for _, name := range b.routing.rules.chains {
		b.nft.FlushChain(&nftables.Chain{Table: b.t, Name: name})
	}
	for _, name := range b.routing.rules.chains {
		b.nft.DelChain(&nftables.Chain{Table: b.t, Name: name})
	}
	for _, name := range b.routing.rules.sets {
		b.nft.DelSet(&nftables.Set{Table: b.t, Name: name})
	}
	for _, name := range counters {
		id := strings.TrimPrefix(name, destinationCounter(""))
		if w.ports[id] == nil && !slices.Contains([]string{gatewayCounter, groupsCounter, aclCounter}, name) {
			b.nft.DeleteObject(&nftables.CounterObj{Table: b.t, Name: name})
		}
	}
}

func (r *routing) setPublic(t *nftables.Table, ports map[string]*port) (*nftables.Set, error) {
	set := &nftables.Set{Table: t, Name: "public", KeyType: nftables.TypeIPAddr}
	if err := addSet(r.nft, set, nil); err != nil {
		return nil, err
	}
	r.nft.FlushSet(set)
	var elements []nftables.SetElement
	for _, p := range ports {
		if p.Public && p.Addr.Is4() {
			elements = append(elements, nftables.SetElement{Key: p.Addr.AsSlice()})
		}
	}
	return set, r.nft.SetAddElements(set, elements)
}

func (r *routing) sourceChain(t *nftables.Table, ports map[string]*port) {
	c := r.nft.AddChain(&nftables.Chain{
		Table: t, Name: "sources", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	r.nft.FlushChain(c)
	// Neighbour discovery uses these sources, and its packets do not leave the link.
	for _, p := range []netip.Prefix{netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("::/128")} {
		r.nft.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: slices.Concat(source6(p), []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}})})
	}
	for _, id := range slices.Sorted(maps.Keys(ports)) {
		if ports[id].Unchecked {
			continue
		}
		r.nft.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: slices.Concat(
			link(expr.MetaKeyIIFNAME, ports[id].link),
			[]expr.Any{
				&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
			},
			dropCounted(id),
		)})
	}
}

func (r *routing) gatewayChains(t *nftables.Table, public *nftables.Set) {
	v := ipVersions[0]
	outside := *nftables.ChainPriorityNATSource + 50
	for _, d := range []struct {
		name        string
		hook        *nftables.ChainHook
		priority    *nftables.ChainPriority
		link        expr.MetaKey
		destination bool
	}{
		{"internet-gateway-in", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, expr.MetaKeyIIFNAME, true},
		{"internet-gateway-out", nftables.ChainHookPostrouting, &outside, expr.MetaKeyOIFNAME, false},
	} {
		c := r.nft.AddChain(&nftables.Chain{Table: t, Name: d.name, Type: nftables.ChainTypeFilter, Hooknum: d.hook, Priority: d.priority})
		r.nft.FlushChain(c)
		r.nft.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: slices.Concat(
			link(d.link, internetLink), family(v.family),
			[]expr.Any{
				&expr.Fib{Register: 1, FlagDADDR: d.destination, FlagSADDR: !d.destination, ResultADDRTYPE: true},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
			},
			accept(),
		)})
		r.nft.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: slices.Concat(
			link(d.link, internetLink), family(v.family), v.address(d.destination).member(public, true), dropCounted(gatewayCounter),
		)})
	}
}

func source6(p netip.Prefix) []expr.Any {
	return append(family(unix.NFPROTO_IPV6), versionOf(p.Addr()).address(false).in(p)...)
}

// counters reads the counters of the table. It returns none before the table
// exists.
func (r *routing) counters() (map[string]uint64, error) {
	objs, err := r.nft.GetObjects(table())
	if err != nil {
		return nil, fmt.Errorf("router's counters: %w", err)
	}
	all := map[string]uint64{}
	for _, o := range objs {
		if c, ok := o.(*nftables.CounterObj); ok {
			all[c.Name] = c.Packets
		}
	}
	return all, nil
}

func (r *routing) drops(ports map[string]*port) (Drops, error) {
	all, err := r.counters()
	if err != nil {
		return Drops{}, err
	}
	d := Drops{
		Spoofed: map[string]uint64{}, Foreign: map[string]uint64{}, InternetGateway: all[gatewayCounter],
		SecurityGroups: all[groupsCounter], NetworkACLs: all[aclCounter],
	}
	for id := range ports {
		d.Spoofed[id], d.Foreign[id] = all[id], all[destinationCounter(id)]
	}
	return d, nil
}
