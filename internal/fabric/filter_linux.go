// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	internetLink   = "igw"
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
//		chain internet-gateway {
//			type filter hook forward priority filter;
//			oifname igw ip saddr != @public counter name internet-gateway drop
//			iifname igw ip daddr != @public counter name internet-gateway drop
//		}
//	}
//
// The fib expression looks up the route back to the source. It finds one over the
// incoming link only if the ENI of that link owns the source.
func table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: "fabric"}
}

// setFilter replaces the rules with those for the ports, in one transaction. It
// preserves the counters of ports that remain.
func (r *routing) setFilter(ports map[string]*port) error {
	t := r.nft.AddTable(table())
	counters, err := r.counters()
	if err != nil {
		return err
	}
	names := []string{gatewayCounter}
	for id := range ports {
		names = append(names, id)
	}
	for _, name := range names {
		if _, ok := counters[name]; !ok {
			r.nft.AddObj(&nftables.CounterObj{Table: t, Name: name})
		}
	}
	public, err := r.setPublic(t, ports)
	if err != nil {
		return err
	}
	r.sourceChain(t, ports)
	r.gatewayChain(t, public)
	for name := range counters {
		if !slices.Contains(names, name) {
			r.nft.DeleteObject(&nftables.CounterObj{Table: t, Name: name})
		}
	}
	if err := r.nft.Flush(); err != nil {
		return fmt.Errorf("router's filter: %w", err)
	}
	return nil
}

func (r *routing) setPublic(t *nftables.Table, ports map[string]*port) (*nftables.Set, error) {
	set := &nftables.Set{Table: t, Name: "public", KeyType: nftables.TypeIPAddr}
	if err := r.nft.AddSet(set, nil); err != nil {
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

func (r *routing) gatewayChain(t *nftables.Table, public *nftables.Set) {
	c := r.nft.AddChain(&nftables.Chain{
		Table: t, Name: "internet-gateway", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	r.nft.FlushChain(c)
	const sourceOffset, destinationOffset = 12, 16
	for _, d := range []struct {
		key    expr.MetaKey
		offset uint32
	}{{expr.MetaKeyOIFNAME, sourceOffset}, {expr.MetaKeyIIFNAME, destinationOffset}} {
		r.nft.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: slices.Concat(
			link(d.key, internetLink),
			family(unix.NFPROTO_IPV4),
			[]expr.Any{
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: d.offset, Len: 4},
				&expr.Lookup{SourceRegister: 1, SetName: public.Name, SetID: public.ID, Invert: true},
			},
			dropCounted(gatewayCounter),
		)})
	}
}

func family(f byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f}},
	}
}

func link(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded},
	}
}

func source6(p netip.Prefix) []expr.Any {
	const sourceOffset = 8
	return append(family(unix.NFPROTO_IPV6),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: 16},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 16, Mask: ipNet(p).Mask, Xor: make([]byte, 16)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()},
	)
}

func dropCounted(name string) []expr.Any {
	return []expr.Any{
		&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: name},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
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
	d := Drops{Spoofed: map[string]uint64{}, InternetGateway: all[gatewayCounter]}
	for id := range ports {
		d.Spoofed[id] = all[id]
	}
	return d, nil
}
