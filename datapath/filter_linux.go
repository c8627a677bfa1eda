// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/nft"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

func filterTable() *nftables.Table {
	return &nftables.Table{Name: netstate.FilterTable, Family: nftables.TableFamilyINet}
}

// sourceSet numbers the set itself: the library would take the number from a
// variable that handles at work at the same time race for.
func sourceSet(ipv6 bool) *nftables.Set {
	s := &nftables.Set{
		Table: filterTable(), ID: uint32(1 + btoi(ipv6)), Name: sourceMap(ipv6),
		IsMap: true, Interval: true,
		KeyType: nftables.TypeIPAddr, DataType: nftables.TypeVerdict,
	}
	if ipv6 {
		s.KeyType = nftables.TypeIP6Addr
	}
	return s
}

// observeFilter reads our table; a kernel without family inet has none.
func (h *Handle) observeFilter(ctx context.Context) (netstate.Filter, error) {
	same := func(a, b netstate.Filter) bool { return a.String() == b.String() }
	return nft.Read(ctx, h.nft, same, readFilter)
}

func readFilter(c *nftables.Conn) (f netstate.Filter, err error) {
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return f, fmt.Errorf("list nft chains: %w", err)
	}
	for _, chain := range chains {
		if chain.Table.Name != netstate.FilterTable {
			continue
		}
		observed, err := observeChain(c, chain)
		if err != nil {
			return f, err
		}
		f.Chains = append(f.Chains, observed)
	}
	if len(f.Chains) == 0 {
		return f, nil
	}
	sets, err := c.GetSets(filterTable())
	if err != nil {
		return f, nft.Torn("list nft maps", err)
	}
	for _, ipv6 := range []bool{false, true} {
		m := sourceSet(ipv6)
		if !slices.ContainsFunc(sets, func(s *nftables.Set) bool { return s.Name == m.Name }) {
			// Somebody took the map away: chains without it are none of ours.
			f.Chains = append(f.Chains, netstate.Chain{Name: "no " + m.Name})
			continue
		}
		elements, err := c.GetSetElements(m)
		if err != nil {
			return f, nft.Torn("list elements of nft map "+m.Name, err)
		}
		f.Sources = append(f.Sources, decodeElements(elements)...)
	}
	return f, nil
}

func observeChain(c *nftables.Conn, chain *nftables.Chain) (netstate.Chain, error) {
	observed := netstate.Chain{Name: chain.Name}
	if chain.Hooknum != nil && chain.Priority != nil {
		observed.Hook, observed.Priority = "unknown", int(*chain.Priority)
		if chain.Type == nftables.ChainTypeFilter && *chain.Hooknum == *nftables.ChainHookPrerouting &&
			(chain.Policy == nil || *chain.Policy == nftables.ChainPolicyAccept) {
			observed.Hook = "prerouting"
		}
	}
	rules, err := c.GetRules(filterTable(), chain)
	if err != nil {
		return observed, nft.Torn("list rules of nft chain "+chain.Name, err)
	}
	for _, r := range rules {
		observed.Rules = append(observed.Rules, decompileRule(r.Exprs))
	}
	return observed, nil
}

// encodeSource returns the two ends of an interval: the first address, and the
// one after the last.
func encodeSource(s netstate.Source) []nftables.SetElement {
	first := s.Prefix.Masked().Addr()
	elements := []nftables.SetElement{{
		Key:         first.AsSlice(),
		VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: s.Chain},
	}}
	if after := lastAddr(s.Prefix).Next(); after.IsValid() {
		elements = append(elements, nftables.SetElement{Key: after.AsSlice(), IntervalEnd: true})
	}
	return elements
}

// lastAddr returns the last address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return rtnl.ParseAddr(b)
}

// decodeElements pairs the ends of intervals. The kernel lists them in order of
// address, in either direction.
func decodeElements(elements []nftables.SetElement) []netstate.Source {
	slices.SortFunc(elements, func(a, b nftables.SetElement) int {
		if c := rtnl.ParseAddr(a.Key).Compare(rtnl.ParseAddr(b.Key)); c != 0 {
			return c
		}
		return btoi(b.IntervalEnd) - btoi(a.IntervalEnd)
	})
	var sources []netstate.Source
	for i, e := range elements {
		if e.IntervalEnd {
			continue
		}
		first := rtnl.ParseAddr(e.Key)
		s := netstate.Source{Prefix: netip.PrefixFrom(first, first.BitLen())}
		if i+1 < len(elements) {
			s.Prefix = spanning(first, rtnl.ParseAddr(elements[i+1].Key))
		}
		for kind, v := range rtnl.Attributes(e.Val) {
			if kind == unix.NFTA_VERDICT_CHAIN {
				s.Chain = rtnl.Text(v)
			}
		}
		sources = append(sources, s)
	}
	return sources
}

// spanning returns the prefix from first to just before end.
func spanning(first, end netip.Addr) netip.Prefix {
	for bits := range first.BitLen() {
		p := netip.PrefixFrom(first, bits)
		if p.Masked().Addr() == first && lastAddr(p).Next() == end {
			return p
		}
	}
	return netip.PrefixFrom(first, first.BitLen())
}

// applyFilter carries out changes of our table in one transaction.
func (h *Handle) applyFilter(changes []netstate.Change) error {
	err := h.nft.Do(func(c *nftables.Conn) error {
		if err := queueFilter(c, changes); err != nil {
			return err
		}
		return c.Flush()
	})
	if err != nil && !onlyGone(changes, err) {
		return fmt.Errorf("%s: %w", changes[0], err)
	}
	return nil
}

func queueFilter(c *nftables.Conn, changes []netstate.Change) error {
	for i := 0; i < len(changes); {
		f, ok := changes[i].Item.(netstate.Filter)
		if ok {
			if changes[i].Op == netstate.OpDelete {
				f = netstate.Filter{}
			}
			if err := replaceFilter(c, f); err != nil {
				return err
			}
			i++
			continue
		}
		row := sourceRow(changes[i:])
		if err := changeSources(c, changes[i].Op, row); err != nil {
			return err
		}
		i += len(row)
	}
	return nil
}

// elementsAtOnce bounds the elements of one message: the kernel counts the bytes
// of a list in 16 bits.
const elementsAtOnce = 250

// sourceRow returns the elements at the head of changes that are for one map and
// have one operation.
func sourceRow(changes []netstate.Change) []netstate.Source {
	var row []netstate.Source
	for _, ch := range changes {
		s, ok := ch.Item.(netstate.Source)
		if !ok || ch.Op != changes[0].Op || len(row) > 0 && s.Prefix.Addr().Is6() != row[0].Prefix.Addr().Is6() {
			break
		}
		row = append(row, s)
	}
	return row
}

// addSources queues elements of both maps.
func addSources(c *nftables.Conn, sources []netstate.Source) error {
	for _, ipv6 := range []bool{false, true} {
		var row []netstate.Source
		for _, s := range sources {
			if s.Prefix.Addr().Is6() == ipv6 {
				row = append(row, s)
			}
		}
		if len(row) == 0 {
			continue
		}
		if err := changeSources(c, netstate.OpAdd, row); err != nil {
			return err
		}
	}
	return nil
}

// changeSources queues elements of one map.
func changeSources(c *nftables.Conn, op netstate.Op, row []netstate.Source) error {
	for some := range slices.Chunk(row, elementsAtOnce) {
		var elements []nftables.SetElement
		for _, s := range some {
			elements = append(elements, encodeSource(s)...)
		}
		do := c.SetAddElements
		if op == netstate.OpDelete {
			do = c.SetDeleteElements
		}
		if err := do(sourceSet(row[0].Prefix.Addr().Is6()), elements); err != nil {
			return err
		}
	}
	return nil
}

// onlyGone reports whether nothing but deletions failed because there was
// nothing to delete.
func onlyGone(changes []netstate.Change, err error) bool {
	for _, ch := range changes {
		if ch.Op != netstate.OpDelete {
			return false
		}
	}
	return errors.Is(err, unix.ENOENT)
}

// replaceFilter queues the exchange of the whole table: packets meet the old
// one or the new one.
func replaceFilter(c *nftables.Conn, f netstate.Filter) error {
	table := filterTable()
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	if f.Empty() {
		return nil
	}
	c.AddTable(table)
	chains := make([]*nftables.Chain, len(f.Chains))
	for i, ch := range f.Chains {
		chains[i] = c.AddChain(newChain(table, ch))
	}
	for _, ipv6 := range []bool{false, true} {
		if err := c.AddSet(sourceSet(ipv6), nil); err != nil {
			return err
		}
	}
	if err := addSources(c, f.Sources); err != nil {
		return err
	}
	for i, ch := range f.Chains {
		for _, rule := range ch.Rules {
			exprs, err := compileRule(rule)
			if err != nil {
				return err
			}
			c.AddRule(&nftables.Rule{Table: table, Chain: chains[i], Exprs: exprs})
		}
	}
	return nil
}

func newChain(table *nftables.Table, ch netstate.Chain) *nftables.Chain {
	chain := &nftables.Chain{Table: table, Name: ch.Name}
	if ch.Hook == "" {
		return chain
	}
	policy := nftables.ChainPolicyAccept
	chain.Type, chain.Policy = nftables.ChainTypeFilter, &policy
	chain.Hooknum, chain.Priority = nftables.ChainHookPrerouting, nftables.ChainPriorityRef(nftables.ChainPriority(ch.Priority))
	return chain
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
