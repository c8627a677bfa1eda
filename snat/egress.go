// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// Egress is the translation of one pod's packets of the family that the cluster does not
// have: IPv6 in an IPv4 cluster, or IPv4 in an IPv6 cluster. The pod has an address of that
// family which only its node knows, and appears everywhere else as the node.
//
// The translations are in a table for each family, "inet vpcnet-egress-ip" and "inet
// vpcnet-egress-ip6". A packet costs one lookup in a map, whatever the number of pods.
// Packets to multicast addresses are not translated. The tables also refuse new connections
// to the pods' addresses from outside of the node and from other pods, and drop packets that
// come in by a link of [EgressLinkPrefix] with a source that the link does not lead to, and
// router advertisements.
type Egress struct {
	// Pod is the pod's address.
	Pod netip.Addr
	// Node is the address that the packets get, of the same family. The node must have it.
	Node netip.Addr
	// Random is the way to choose ports; "" is [RandomPRNG].
	Random Random
}

// EgressLinkPrefix begins the names of the node's links to pods with an [Egress] of the
// family of addr: "eg4" or "eg6".
func EgressLinkPrefix(addr netip.Addr) string {
	if addr.Is4() {
		return "eg4"
	}
	return "eg6"
}

// EgressTable returns the name of the table for pods with an [Egress] of the family of
// addr.
func EgressTable(addr netip.Addr) string { return egressTable(nft.FamilyOf(addr)) }

func egressTable(f nft.Family) string { return "vpcnet-egress-" + f.String() }

// The names of the sets and chains of the tables. The chain that translates to an address
// is named after the address and the way to choose ports.
const (
	egressPods      = "pods"      // pod to the chain that translates
	egressInward    = "inward"    // pod to the chain that refuses
	egressMulticast = "multicast" // destinations that are not translated
	egressLinks     = "links"     // the base chain for packets from pods and to pods
	egressFromPod   = "from-pod"
	egressRefuse    = "refuse"
)

// priorityEgress is between kube-proxy's translation and [Config]'s.
const priorityEgress = 105

var multicast = map[nft.Family]netip.Prefix{
	nft.IPv4: netip.MustParsePrefix("224.0.0.0/4"),
	nft.IPv6: netip.MustParsePrefix("ff00::/8"),
}

func (e Egress) validate() error {
	for _, a := range []netip.Addr{e.Pod, e.Node} {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			return fmt.Errorf("egress of pod %s by node %s: want addresses without zone and not IPv4-mapped", e.Pod, e.Node)
		}
	}
	if e.Pod.Is4() != e.Node.Is4() {
		return fmt.Errorf("egress of pod %s by node %s: want addresses of one family", e.Pod, e.Node)
	}
	if _, ok := portChoices[e.Random]; !ok {
		return fmt.Errorf("random mode %q: want %s, %s or %s", e.Random, RandomPRNG, RandomHash, RandomNone)
	}
	return nil
}

// chain returns the name of the chain that translates. A colon cannot be in a name.
func (e Egress) chain() string {
	return "to-" + strings.ReplaceAll(e.Node.String(), ":", "-") + "-" + string(e.Random)
}

// egressRuleset returns the table of a family for the pods, in the order of their
// addresses. It is empty without pods.
func egressRuleset(f nft.Family, pods []Egress) Ruleset {
	t := nft.Table{Name: egressTable(f)}
	if len(pods) == 0 {
		return Ruleset{t}
	}
	translate := nft.Set{Name: egressPods, Family: f, IsMap: true}
	inward := nft.Set{Name: egressInward, Family: f, IsMap: true}
	var to []nft.Chain
	for _, p := range pods {
		host := netip.PrefixFrom(p.Pod, p.Pod.BitLen())
		translate.Elements = append(translate.Elements, nft.Element{Prefix: host, Chain: p.chain()})
		inward.Elements = append(inward.Elements, nft.Element{Prefix: host, Chain: egressRefuse})
		if !slices.ContainsFunc(to, func(c nft.Chain) bool { return c.Name == p.chain() }) {
			to = append(to, nft.Chain{Name: p.chain(), Rules: []nft.Rule{nft.NewRule(
				nft.DestinationNotIn{Family: f, Set: egressMulticast}, nft.Counter{}, nft.SourceNAT{To: p.Node, Choice: portChoices[p.Random]},
			)}})
		}
	}
	slices.SortFunc(to, func(a, b nft.Chain) int { return strings.Compare(a.Name, b.Name) })
	t.Sets = []nft.Set{translate, inward, {Name: egressMulticast, Family: f, Elements: []nft.Element{{Prefix: multicast[f]}}}}
	t.Chains = append([]nft.Chain{
		{
			Name: egressLinks, Type: nft.TypeFilter, Hook: nft.HookPrerouting, Priority: priorityAfterDNAT,
			Rules: []nft.Rule{
				nft.NewRule(nft.Link{Name: EgressLinkPrefix(pods[0].Pod) + "*"}, nft.Jump{Chain: egressFromPod}),
				nft.NewRule(nft.DestinationMap{Family: f, Map: egressInward}),
			},
		},
		{
			Name: egressFromPod, Rules: []nft.Rule{
				nft.NewRule(nft.RouterAdvert{}, nft.Drop{}),
				nft.NewRule(nft.NoReverseRoute{}, nft.Drop{}),
			},
		},
		{Name: egressRefuse, Rules: []nft.Rule{nft.NewRule(nft.NewFlow{}, nft.Reject{})}},
		{
			Name: sourceChain, Type: nft.TypeNAT, Hook: nft.HookPostrouting, Priority: priorityEgress,
			Rules: []nft.Rule{nft.NewRule(nft.SourceMap{Family: f, Map: egressPods})},
		},
	}, to...)
	return Ruleset{t}
}

// egress returns the translations of r. Those with a chain that does not translate have
// no Node.
func (r Ruleset) egress() []Egress {
	to := map[string]Egress{}
	for _, c := range r.table.Chains {
		for _, rule := range c.Rules {
			if x, ok := find[nft.SourceNAT](rule); ok {
				to[c.Name] = Egress{Node: x.To, Random: randomOf(x.Choice)}
			}
		}
	}
	var pods []Egress
	for _, s := range r.table.Sets {
		if s.Name != egressPods {
			continue
		}
		for _, e := range s.Elements {
			p := to[e.Chain]
			p.Pod = e.Prefix.Addr()
			pods = append(pods, p)
		}
	}
	return pods
}

func randomOf(c nft.PortChoice) Random {
	for random, choice := range portChoices {
		if choice == c {
			return random
		}
	}
	return RandomNone
}

// EgressState is the content of the tables of [Egress].
type EgressState struct {
	// Pods are the translations, in the order of the families and of Pod. A pod
	// with rules that do not translate has no Node.
	Pods []Egress
	// Odd lists what distinguishes the tables from those that Pods stands for: changes by
	// other programs.
	Odd []string
}

// Egress adds translations to the tables, or replaces those of the same pods, and reports
// whether it changed a table. Translations of other pods stay. It repairs changes by other
// programs, except that a pod with a lost translation must be among pods. It changes
// each table in one transaction by the difference, so that flows of other pods do not
// notice. Existing flows keep their translation.
//
// Egress and [Handle.PruneEgress] read a table and change it. Processes that call them in
// one namespace must exclude each other.
func (h *Handle) Egress(ctx context.Context, pods ...Egress) (changed bool, err error) {
	byFamily := map[nft.Family][]Egress{}
	for _, p := range pods {
		p.Random = cmp.Or(p.Random, RandomPRNG)
		if err := p.validate(); err != nil {
			return false, fmt.Errorf("snat: %w", err)
		}
		f := nft.FamilyOf(p.Pod)
		byFamily[f] = append(byFamily[f], p)
	}
	for f, wanted := range byFamily {
		c, err := h.sys.Edit(ctx, egressTable(f), func(have Ruleset) Ruleset {
			return egressRuleset(f, merge(have.egress(), wanted))
		})
		changed = changed || c
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// merge returns the translations of have that translate, and those of wanted, in the order
// of the pods.
func merge(have, wanted []Egress) []Egress {
	all := map[netip.Addr]Egress{}
	for _, p := range slices.Concat(have, wanted) {
		if p.Node.IsValid() {
			all[p.Pod] = p
		}
	}
	var merged []Egress
	for _, p := range all {
		merged = append(merged, p)
	}
	slices.SortFunc(merged, func(a, b Egress) int { return a.Pod.Compare(b.Pod) })
	return merged
}

// PruneEgress deletes the translations for which keep returns false, and a table without
// translations. See [Handle.Egress] for concurrent calls.
func (h *Handle) PruneEgress(ctx context.Context, keep func(Egress) bool) error {
	var errs []error
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		_, err := h.sys.Edit(ctx, egressTable(f), func(have Ruleset) Ruleset {
			return egressRuleset(f, slices.DeleteFunc(merge(have.egress(), nil), func(p Egress) bool { return !keep(p) }))
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ObserveEgress reads the tables.
func (h *Handle) ObserveEgress(ctx context.Context) (EgressState, error) {
	var s EgressState
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		_, err := h.sys.Edit(ctx, egressTable(f), func(have Ruleset) Ruleset {
			pods := have.egress()
			s.Pods = append(s.Pods, pods...)
			want := egressRuleset(f, merge(pods, nil))
			for _, text := range textsOf(differences(have.table, want.table)) {
				s.Odd = append(s.Odd, "table inet "+egressTable(f)+": "+text)
			}
			return have
		})
		if err != nil {
			return EgressState{}, err
		}
	}
	return s, nil
}
