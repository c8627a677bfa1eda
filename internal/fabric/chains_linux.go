// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// The base chains of the rules of the VPC, in the order of the priorities. Each passes a
// packet to the next one with the verdict accept.
var stages = []struct {
	name     string
	priority nftables.ChainPriority
}{
	{groupsOut, -30}, {aclOut, -20}, {flowsOut, -10}, {destinationCheck, 5}, {aclIn, 10}, {groupsIn, 20}, {flowsIn, 30},
}

const (
	groupsOut        = "groups-out"
	aclOut           = "acl-out"
	flowsOut         = "flows-out"
	destinationCheck = "destinations"
	aclIn            = "acl-in"
	groupsIn         = "groups-in"
	flowsIn          = "flows-in"

	groupsCounter = "security-groups"
	aclCounter    = "network-acls"
)

// The chains that the chains of the groups and ACLs share have the suffix of their
// direction.
const (
	trackedChain   = "tracked"       // accepts the packets of tracked flows
	trackChain     = "track"         // tracks the flow and accepts the packet
	refuseGroups   = "refuse-groups" // drops the packet
	refuseACL      = "refuse-acl"    // drops the packet
	acceptedChain  = "flow-accepted" // counts the packet for the flow log
	rejectedChain  = "flow-rejected" // counts the packet for the flow log
	markRejected   = 1
	markInbound    = 2
	maxBatch       = 60  // rules in one transaction, so that its answers fit into the socket's buffer
	maxSetElements = 500 // in one message
)

func suffix(out bool) string {
	if out {
		return "-out"
	}
	return "-in"
}

var directions = []bool{true, false}

// ends returns the key of the link that the packets of a direction pass, whose ENI the
// rules belong to.
func ends(out bool) expr.MetaKey {
	if out {
		return expr.MetaKeyIIFNAME
	}
	return expr.MetaKeyOIFNAME
}

// peer is the place of the address that the rules of a direction compare.
func (v ipVersion) peer(out bool) place { return v.address(out) }

// builder collects the changes of the next transactions. Chains and sets of a new
// generation are not in use before the last transaction, so their rules may come in
// several transactions.
type builder struct {
	*routing
	t       *nftables.Table
	pending int // rules in the current transaction
	generation
	err error
}

// generation holds the names of the chains and sets that a change of the rules replaces.
type generation struct {
	number       int
	chains, sets []string
}

func (b *builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// chain adds a chain of the new generation.
func (b *builder) chain(name string) *nftables.Chain {
	c := b.nft.AddChain(&nftables.Chain{Table: b.t, Name: fmt.Sprintf("%s-%d", name, b.number)})
	b.chains = append(b.chains, c.Name)
	return c
}

func (b *builder) rule(c *nftables.Chain, exprs ...[]expr.Any) {
	b.nft.AddRule(&nftables.Rule{Table: b.t, Chain: c, Exprs: slices.Concat(exprs...)})
	if b.pending++; b.pending >= maxBatch {
		b.commit()
	}
}

func (b *builder) commit() {
	b.pending = 0
	if err := b.nft.Flush(); err != nil {
		b.fail(err)
	}
}

// prefixes adds a set of the new generation with the prefixes of one family, which are
// disjoint and sorted.
func (b *builder) prefixes(name string, v ipVersion, all []netip.Prefix) *nftables.Set {
	set := &nftables.Set{Table: b.t, Name: fmt.Sprintf("%s-%d", name, b.number), Interval: true, KeyType: nftables.TypeIPAddr}
	if v.length == 16 {
		set.KeyType = nftables.TypeIP6Addr
	}
	b.sets = append(b.sets, set.Name)
	if err := addSet(b.nft, set, nil); err != nil {
		b.fail(err)
	}
	var elements []nftables.SetElement
	for _, p := range all {
		if p.Addr().BitLen() != int(v.length)*8 {
			continue
		}
		elements = append(elements, nftables.SetElement{Key: p.Masked().Addr().AsSlice()})
		if end := last(p).Next(); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	for chunk := range slices.Chunk(elements, maxSetElements) {
		if err := b.nft.SetAddElements(set, chunk); err != nil {
			b.fail(err)
		}
	}
	return set
}

// last returns the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// dispatch returns the expressions that send the packets of each link to its chain.
func (b *builder) dispatch(key expr.MetaKey, chains map[string]string) []expr.Any {
	set := &nftables.Set{
		Table: b.t, Anonymous: true, Constant: true, IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict,
	}
	var elements []nftables.SetElement
	for _, name := range slices.Sorted(maps.Keys(chains)) {
		elements = append(elements, nftables.SetElement{
			Key: linkName(name), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chains[name]},
		})
	}
	if err := addSet(b.nft, set, elements); err != nil {
		b.fail(err)
	}
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Lookup{SourceRegister: 1, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
	}
}

// groupChains adds the chains of the security groups: one for each combination of
// groups and each direction. It returns the chains of the links, by direction.
func (b *builder) groupChains(w wanted) map[bool]map[string]string {
	chains := map[bool]map[string]string{true: {}, false: {}}
	links := map[string][]string{} // by the combination of groups
	groups := map[string][]string{}
	for _, p := range w.sorted() {
		known := slices.DeleteFunc(slices.Sorted(slices.Values(p.Groups)), func(id string) bool {
			return !slices.ContainsFunc(w.network.Groups, func(g vpcrules.Group) bool { return g.ID == id })
		})
		if len(known) > 0 {
			key := strings.Join(known, " ")
			links[key], groups[key] = append(links[key], p.link), known
		}
	}
	members := map[string][]*nftables.Set{}
	for i, key := range slices.Sorted(maps.Keys(links)) {
		f, _ := w.network.GroupFilter(groups[key])
		for _, out := range directions {
			c := b.groupChain(fmt.Sprintf("groups-%d%s", i, suffix(out)), f, out, func(group string) []*nftables.Set {
				if members[group] == nil {
					all := w.network.Members(group)
					for _, v := range ipVersions {
						members[group] = append(members[group], b.prefixes(fmt.Sprintf("members-%d-%d", len(members), v.length), v, all))
					}
				}
				return members[group]
			})
			for _, l := range links[key] {
				chains[out][l] = c
			}
		}
	}
	return chains
}

// groupChain adds a chain that accepts the packets that the filter allows, and refuses
// all others.
func (b *builder) groupChain(name string, f vpcrules.Filter, out bool, members func(group string) []*nftables.Set) string {
	c := b.chain(name)
	b.rule(c, verdict(expr.VerdictJump, trackedChain+suffix(out)))
	for _, m := range f.Direction(out) {
		decision := accept()
		if m.Tracked {
			decision = verdict(expr.VerdictGoto, trackChain+suffix(out))
		}
		var sets []*nftables.Set
		if m.Group != "" {
			sets = members(m.Group)
		}
		b.matching(c, m, out, sets, decision)
	}
	b.rule(c, verdict(expr.VerdictGoto, refuseGroups+suffix(out)))
	return c.Name
}

// matching adds the rules for the packets that a match selects, one for each family of
// its peers.
func (b *builder) matching(c *nftables.Chain, m vpcrules.Match, out bool, members []*nftables.Set, decision []expr.Any) {
	for i, v := range ipVersions {
		peer := []expr.Any(nil)
		if m.Group != "" {
			peer = v.peer(out).member(members[i], false)
		} else if versionOf(m.Prefix.Addr()).family != v.family {
			continue
		} else {
			peer = v.peer(out).in(m.Prefix)
		}
		b.rule(c, family(v.family), selects(m), peer, decision)
	}
}

// selects returns the expressions that compare protocol and ports as vpcrules does.
func selects(m vpcrules.Match) []expr.Any {
	t := m.Traffic
	if t.Protocol == vpcrules.All {
		return nil
	}
	all := protocolIs(expr.CmpOpEq, t.Protocol)
	if t.From == vpcrules.All {
		return all
	}
	place := layer4(2, 2) // the destination port
	if m.Answer {
		place.offset = 0
	}
	switch t.Protocol {
	case vpcrules.TCP, vpcrules.UDP:
		all = append(all, place.between(t.From, min(t.To, 1<<16-1))...)
	case vpcrules.ICMP, vpcrules.ICMPv6:
		all = append(all, layer4(0, 1).is([]byte{byte(t.From)})...)
		if t.To != vpcrules.All {
			all = append(all, layer4(1, 1).is([]byte{byte(t.To)})...)
		}
	}
	return all
}

// aclChains adds the chains of the network ACLs, one for each subnet and direction. It
// returns the chains of the links, by direction.
func (b *builder) aclChains(w wanted) map[bool]map[string]string {
	chains := map[bool]map[string]string{true: {}, false: {}}
	links := map[string][]string{} // by subnet
	for _, p := range w.sorted() {
		links[p.Subnet] = append(links[p.Subnet], p.link)
	}
	for i, subnet := range slices.Sorted(maps.Keys(links)) {
		f, ok := w.network.SubnetFilter(subnet)
		if !ok {
			continue
		}
		for _, out := range directions {
			c := b.chain(fmt.Sprintf("acl-%d%s", i, suffix(out)))
			// The ACL does not see packets between two ENIs of the subnet.
			for _, l := range links[subnet] {
				b.rule(c, link(ends(!out), l), accept())
			}
			for _, v := range ipVersions {
				b.rule(c, v.fragment(), accept())
			}
			for _, m := range f.Direction(out) {
				decision := accept()
				if !m.Allow {
					decision = verdict(expr.VerdictGoto, refuseACL+suffix(out))
				}
				b.matching(c, m, out, nil, decision)
			}
			b.rule(c, verdict(expr.VerdictGoto, refuseACL+suffix(out)))
			for _, l := range links[subnet] {
				chains[out][l] = c.Name
			}
		}
	}
	return chains
}

// checked is a link to an ENI that is the target of a route and accepts only packets for
// its own addresses.
type checked struct {
	link, counter string
	owned         []*nftables.Set
}

// destinations adds the sets for the destination checks. Packets reach an ENI that does
// not own their destination only by a route to the ENI.
func (b *builder) destinations(w wanted) (all []checked) {
	for _, p := range w.sorted() {
		target := vpcrules.Target{Kind: vpcrules.ToENI, ENI: p.ID}
		routed := slices.ContainsFunc(w.network.RouteTables, func(t vpcrules.RouteTable) bool {
			return slices.ContainsFunc(t.Routes, func(r vpcrules.Route) bool { return r.Target == target })
		})
		if p.Unchecked || !routed {
			continue
		}
		c := checked{link: p.link, counter: destinationCounter(p.ID)}
		for _, v := range ipVersions {
			c.owned = append(c.owned, b.prefixes(fmt.Sprintf("owned-%s-%d", p.link, v.length), v, vpcrules.Disjoint(p.owned())))
		}
		all = append(all, c)
	}
	return all
}

func destinationCounter(id string) string { return "destination-" + id }

// baseChain adds or empties a base chain of the forward hook.
func (b *builder) baseChain(name string, priority nftables.ChainPriority) *nftables.Chain {
	c := b.nft.AddChain(&nftables.Chain{
		Table: b.t, Name: name, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: &priority,
	})
	b.nft.FlushChain(c)
	return c
}

// share adds the sets of flows and the chains that the chains of groups and ACLs share.
func (b *builder) share() {
	for _, v := range ipVersions {
		for _, set := range []*nftables.Set{v.flows(trackedSet, maxTracked), v.flows(flowSet, maxFlows)} {
			if err := addSet(b.nft, set, nil); err != nil {
				b.fail(err)
			}
		}
	}
	for _, name := range []string{groupsCounter, aclCounter} {
		b.nft.AddObj(&nftables.CounterObj{Table: b.t, Name: name})
	}
	for _, out := range directions {
		chain := func(name string) *nftables.Chain {
			return b.nft.AddChain(&nftables.Chain{Table: b.t, Name: name + suffix(out)})
		}
		chain(acceptedChain)
		chain(rejectedChain)
		b.shareTracked(chain(trackedChain), out)
		b.shareTrack(chain(trackChain), out)
		for name, counter := range map[string]string{refuseGroups: groupsCounter, refuseACL: aclCounter} {
			c := chain(name)
			b.rule(c, verdict(expr.VerdictJump, rejectedChain+suffix(out)))
			b.rule(c, dropCounted(counter))
		}
	}
	b.commit()
}

// shareTracked fills the chain that accepts packets of tracked flows, and fragments.
func (b *builder) shareTracked(c *nftables.Chain, out bool) {
	for _, v := range ipVersions {
		b.rule(c, v.fragment(), accept())
	}
	b.rule(c, opens(), verdict(expr.VerdictReturn, ""))
	for _, v := range ipVersions {
		set := v.flows(trackedSet, maxTracked)
		for _, k := range v.outer().classes() {
			b.rule(c, family(v.family), k.match, k.tracked(out), contains(set), update(set, k.timeout()), accept())
		}
		for _, t := range v.errors {
			isError := slices.Concat(family(v.family), protocolIs(expr.CmpOpEq, v.icmp), layer4(0, 1).is([]byte{t}))
			plain := layer4(8, 1).masked([]byte{v.mask}, []byte{v.firstByte})
			for _, k := range v.quoted().classes() {
				b.rule(c, isError, plain, k.match, k.quotedKey(out), contains(set), accept())
			}
		}
	}
}

// shareTrack fills the chain that tracks the flow of a packet and accepts the packet.
func (b *builder) shareTrack(c *nftables.Chain, out bool) {
	for _, v := range ipVersions {
		set := v.flows(trackedSet, maxTracked)
		for _, k := range v.outer().classes() {
			if k.protocol == vpcrules.TCP {
				k.match = opens()
			}
			if k.request {
				b.rule(c, family(v.family), k.match, k.tracked(out), update(set, k.timeout()), accept())
			}
		}
	}
	b.rule(c, accept())
}

// logFlows fills or empties the chains that count flows for the flow log.
func (b *builder) logFlows(on bool) {
	for _, out := range directions {
		for name, mark := range map[string]uint32{acceptedChain: 0, rejectedChain: markRejected} {
			c := &nftables.Chain{Table: b.t, Name: name + suffix(out)}
			b.nft.FlushChain(c)
			if !on {
				continue
			}
			if !out {
				mark |= markInbound
			}
			for _, v := range ipVersions {
				b.logFlow(c, v, out, mark)
			}
		}
	}
	b.commit()
}

func (b *builder) logFlow(c *nftables.Chain, v ipVersion, out bool, mark uint32) {
	set := v.flows(flowSet, maxFlows)
	count := update(set, flowTimeout, &expr.Counter{})
	h := v.outer()
	none := flowClass{src: endpoint{addr: h.src}, dst: endpoint{addr: h.dst}}
	// A fragment other than the first has no ports.
	b.rule(c, v.fragment(), none.logged(out, mark), count, verdict(expr.VerdictReturn, ""))
	none.match = protocolIs(expr.CmpOpNeq, vpcrules.TCP, vpcrules.UDP)
	classes := append(slices.DeleteFunc(h.classes(), func(k flowClass) bool {
		return k.protocol != vpcrules.TCP && k.protocol != vpcrules.UDP
	}), none)
	for _, k := range classes {
		b.rule(c, family(v.family), k.match, k.logged(out, mark), count)
	}
}

// wanted is the wanted state of the filter.
type wanted struct {
	ports   map[string]*port
	network vpcrules.Network
	log     bool
}

// filters reports whether the base chains of the rules are needed.
func (w wanted) filters() bool {
	return w.log || len(w.network.Groups) > 0 || len(w.network.ACLs) > 0 || len(w.network.RouteTables) > 0
}

// sorted returns the ports by ENI ID.
func (w wanted) sorted() []*port {
	return slices.SortedFunc(maps.Values(w.ports), func(a, b *port) int { return cmp.Compare(a.ID, b.ID) })
}
