// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// State is the content of the table: classes by name, and the class of each address of the
// pods on the node. A pod without a class is not limited. The zero State limits no pod, but
// its table is there, so that connection tracking knows the connections of all pods before
// the first policy.
type State struct {
	// Classes have names of 1 to 200 letters, digits, slashes, hyphens, underscores and
	// dots.
	Classes map[string]Compiled
	// Pods has the names of classes. A pod with the name "" is not limited, as one without
	// an entry, but the table remembers it.
	Pods map[netip.Addr]string
	// LogLimit is how many denied packets a second each class sends to group 30118 of nflog in each of
	// its directions, of connections and of replies apart; 0 is none.
	LogLimit uint64 `json:",omitempty"`
}

// Flow is a connection, or the packets of a protocol without connections between two
// addresses, as the forward hook sees them: after destinations are rewritten and before
// sources are. So Dst is the endpoint and not the Service, and Src is the client.
type Flow struct {
	Src, Dst netip.Addr
	Protocol Protocol
	// Port is the destination port, 0 for a protocol without ports.
	Port uint16
}

// Decision is the verdict on a flow with what has led to it.
type Decision struct {
	Allowed bool
	// Class and Direction name the class that denies the flow. Class is empty if none
	// does.
	Class     string
	Direction Direction
	// Egress and Ingress are the boxes that allow the flow, in nft's notation, for the pod
	// that sends it and the pod that receives it. Each is empty if there is no such pod
	// here, or if its class does not isolate it.
	Egress, Ingress string
}

// Judge returns whether the table lets the packets of a flow and the replies pass. The node
// itself is not judged: what it sends to its pods, and what they send to it, passes.
func (s State) Judge(f Flow) (d Decision) {
	if f.Src == f.Dst {
		return Decision{Allowed: true} // a pod and itself, by a Service
	}
	name := s.Pods[f.Src]
	v := s.Classes[name].judge(Packet{Direction: Egress, Peer: f.Dst, Protocol: f.Protocol, Port: f.Port})
	if !v.Allowed {
		return Decision{Class: name, Direction: Egress}
	}
	d.Egress = v.Rule
	name = s.Pods[f.Dst]
	v = s.Classes[name].judge(Packet{Direction: Ingress, Peer: f.Src, Protocol: f.Protocol, Port: f.Port})
	if !v.Allowed {
		return Decision{Class: name, Direction: Ingress, Egress: d.Egress}
	}
	d.Allowed, d.Ingress = true, v.Rule
	return d
}

// String returns the table in nft's notation.
func (s State) String() string { return s.table().String() }

// Diff returns the commands of nft that lead from have to want, "" if there is no
// difference.
func Diff(have, want State) string { return nft.Diff(have.table(), want.table()) }

// validate reports what the kernel cannot have.
func (s State) validate() error {
	for name := range s.Classes {
		if err := checkName(name); err != nil {
			return err
		}
	}
	for a, name := range s.Pods {
		if _, ok := s.Classes[name]; !ok && name != "" {
			return fmt.Errorf("%w: %v has the class %q, which is not among the %d classes", ErrInvalid, a, name, len(s.Classes))
		}
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			return fmt.Errorf("%w: pod %v: want an address without zone that is not IPv4-mapped", ErrInvalid, a)
		}
	}
	return nil
}

// tableName is the name of the table, of family inet. No other program should write to it.
const tableName = "vpcnet-policy"

// The names of the chains that packets come to first.
const (
	forwardChain = "forward"
	repliesChain = "replies"
)

// way is one of the ways in which a class judges packets.
type way struct {
	direction Direction
	reply     bool
}

// ways are all of them, in the order of the table.
var ways = [...]way{{Egress, false}, {Ingress, false}, {Egress, true}, {Ingress, true}}

// chain returns the name of the chain of a class. The word before the first hyphen tells
// the ways apart, whatever the name of the class.
func (w way) chain(class string) string { return w.word() + "-" + class }

// mapName returns the name of the map of pods of a family.
func (w way) mapName(f nft.Family) string { return fmt.Sprintf("%s%d", w.word(), f) }

func (w way) word() string {
	word := "in"
	if w.direction == Egress {
		word = "out"
	}
	if w.reply {
		word = "re" + word
	}
	return word
}

// bySource reports whether the pod is the source of the packets.
func (w way) bySource() bool { return (w.direction == Egress) != w.reply }

// setName returns the name of the set of a class.
func setName(d Direction, f nft.Family, class string) string {
	return way{direction: d}.mapName(f) + "-" + class
}

func selvesName(f nft.Family) string { return fmt.Sprintf("self%d", f) }

// table computes the table.
func (s State) table() nft.Table {
	t := nft.Table{Name: tableName, Owned: true}
	names := slices.Sorted(maps.Keys(s.Classes))
	pods := slices.SortedFunc(maps.Keys(s.Pods), netip.Addr.Compare)
	for _, f := range families {
		selves := nft.Set{Name: selvesName(f), Family: f, Kind: nft.Selves}
		for _, a := range pods {
			if nft.FamilyOf(a) == f {
				selves.Elements = append(selves.Elements, single(a, ""))
			}
		}
		t.Sets = append(t.Sets, selves)
	}
	for _, name := range names {
		t.Sets = append(t.Sets, s.Classes[name].sets(name)...)
	}
	for _, w := range ways {
		for _, f := range families {
			m := nft.Set{Name: w.mapName(f), Family: f, Kind: nft.Addrs, IsMap: true}
			for _, a := range pods {
				class := s.Pods[a]
				if nft.FamilyOf(a) == f && s.Classes[class].Isolated(w.direction) {
					m.Elements = append(m.Elements, single(a, w.chain(class)))
				}
			}
			t.Sets = append(t.Sets, m)
		}
	}
	for _, name := range names {
		t.Chains = append(t.Chains, s.Classes[name].chains(name, s.LogLimit)...)
	}
	t.Chains = append(t.Chains, repliesTo(), forward())
	return t
}

func single(a netip.Addr, chain string) nft.Element {
	return nft.Element{Prefix: netip.PrefixFrom(a, a.BitLen()), Chain: chain}
}

// sets returns the sets of boxes of a class. A class without boxes of a family has no set
// for it.
func (c Compiled) sets(name string) (sets []nft.Set) {
	for _, d := range []Direction{Egress, Ingress} {
		for _, f := range families {
			if boxes := c.side(d).boxes[f]; len(boxes) > 0 {
				sets = append(sets, nft.Set{Name: setName(d, f, name), Family: f, Kind: nft.Boxes, Elements: boxes})
			}
		}
	}
	return sets
}

// chains returns the chains of a class. Replies are looked up in the same sets as what they
// reply to, with the ends of the packet exchanged. What is denied is logged up to a limit.
func (c Compiled) chains(name string, logLimit uint64) (chains []nft.Chain) {
	for _, w := range ways {
		if !c.Isolated(w.direction) {
			continue
		}
		k := nft.Chain{Name: w.chain(name)}
		for _, f := range families {
			if len(c.side(w.direction).boxes[f]) > 0 {
				k.Rules = append(k.Rules, nft.NewRule(
					nft.InBoxes{Family: f, Dst: w.bySource(), SourcePort: w.reply, Set: setName(w.direction, f, name)}, nft.Return{}))
			}
		}
		for _, f := range families {
			k.Rules = append(k.Rules, nft.NewRule(nft.Self{Family: f, Set: selvesName(f)}, nft.Return{}))
		}
		if logLimit > 0 {
			prefix := k.Name[:min(len(k.Name), maxPrefix)]
			k.Rules = append(k.Rules, nft.NewRule(nft.Limit{PerSecond: logLimit}, nft.Log{Prefix: prefix, Group: logGroup}))
		}
		k.Rules = append(k.Rules, nft.NewRule(nft.Counter{}, nft.Drop{}))
		chains = append(chains, k)
	}
	return chains
}

// forward returns the chain of all forwarded packets.
func forward() nft.Chain {
	k := nft.Chain{Name: forwardChain, Type: nft.TypeFilter, Hook: nft.HookForward, Priority: nft.PriorityFilter, Rules: []nft.Rule{
		{Statements: []nft.Statement{nft.Related{}, nft.Accept{}}, Comment: "errors about flows that were allowed"},
		nft.NewRule(nft.Reply{}, nft.Goto{Chain: repliesChain}),
	}}
	k.Rules = append(k.Rules, lookups(false)...)
	return k
}

// repliesTo returns the chain of replies.
func repliesTo() nft.Chain { return nft.Chain{Name: repliesChain, Rules: lookups(true)} }

// lookups returns the rules that find the classes of a packet's ends.
func lookups(reply bool) (rules []nft.Rule) {
	for _, w := range ways {
		if w.reply != reply {
			continue
		}
		for _, f := range families {
			if w.bySource() {
				rules = append(rules, nft.NewRule(nft.SourceMap{Family: f, Map: w.mapName(f)}))
			} else {
				rules = append(rules, nft.NewRule(nft.DestinationMap{Family: f, Map: w.mapName(f)}))
			}
		}
	}
	return rules
}

// stateOf returns the State whose table is t. It returns false if there is none: another
// program has changed the table, or it is absent.
func stateOf(t nft.Table) (State, bool) {
	s := State{Classes: map[string]Compiled{}, Pods: map[netip.Addr]string{}}
	for _, k := range t.Chains {
		w, name, ok := wayOf(k.Name)
		if !ok {
			continue
		}
		c := s.Classes[name]
		if w.direction == Egress {
			c.egress.isolated = true
		} else {
			c.ingress.isolated = true
		}
		s.Classes[name] = c
		for _, r := range k.Rules {
			if len(r.Statements) == 0 {
				continue
			}
			if limit, ok := r.Statements[0].(nft.Limit); ok {
				s.LogLimit = limit.PerSecond
			}
		}
	}
	for _, set := range t.Sets {
		switch {
		case set.Kind == nft.Boxes:
			s.addBoxes(set)
		case set.Kind == nft.Selves:
			for _, e := range set.Elements {
				s.Pods[e.Prefix.Addr()] = cmp.Or(s.Pods[e.Prefix.Addr()], "")
			}
		case set.IsMap:
			for _, e := range set.Elements {
				_, class, _ := strings.Cut(e.Chain, "-")
				s.Pods[e.Prefix.Addr()] = class
			}
		}
	}
	want := s.table()
	want.Owned, want.Orphan = t.Owned, t.Orphan
	return s, t.Equal(want)
}

// addBoxes adds the boxes of a set to its class.
func (s State) addBoxes(set nft.Set) {
	word, name, _ := strings.Cut(set.Name, "-")
	c, ok := s.Classes[name]
	if !ok {
		return
	}
	of := &c.ingress
	if strings.HasPrefix(word, (way{direction: Egress}).word()) {
		of = &c.egress
	}
	of.boxes = maps.Clone(of.boxes)
	if of.boxes == nil {
		of.boxes = map[nft.Family][]nft.Element{}
	}
	of.boxes[set.Family] = set.Elements
	s.Classes[name] = c
}
