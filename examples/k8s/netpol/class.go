// SPDX-License-Identifier: Apache-2.0

package netpol

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/policy"
)

// class is what pods may receive and send that the same policies select.
type class struct {
	name      string
	namespace *namespace // nil without policies of a namespace
	policies  []string   // names
	cluster   []string   // names of cluster policies, in the order in which those of a tier decide
	// ports are the numbers of the named ports of ingress rules.
	ports    map[PolicyPort][]uint16
	groups   map[*group]bool
	pods     int
	compiled policy.Compiled
}

// classify finds the class of a pod again.
func (n *Node) classify(p *pod) {
	policies, cluster := n.sortedPolicies(p), n.sortedCluster(p)
	if !p.local || len(policies)+len(cluster) == 0 {
		n.assign(p, nil)
		return
	}
	c := &class{ports: map[PolicyPort][]uint16{}, groups: map[*group]bool{}}
	for _, x := range policies {
		c.namespace, c.policies = p.namespace, append(c.policies, x.Name)
		if x.Ingress != nil {
			for _, r := range *x.Ingress {
				c.resolve(r, p)
			}
		}
	}
	for _, x := range cluster {
		c.cluster = append(c.cluster, x.Name)
		for _, r := range x.Ingress {
			c.resolve(r.Rule, p)
		}
	}
	c.name = c.text()
	if known := n.classes[c.name]; known != nil {
		c = known
	}
	n.assign(p, c)
}

// assign gives a pod a class. A class without pods is deleted.
func (n *Node) assign(p *pod, c *class) {
	n.changed = true
	if p.class == c {
		return
	}
	if old := p.class; old != nil {
		if old.pods--; old.pods == 0 {
			delete(n.classes, old.name)
			for g := range old.groups {
				n.unuse(g, old)
			}
			delete(n.staleClasses, old)
		}
	}
	if p.class = c; c == nil {
		return
	}
	if c.pods++; c.pods == 1 {
		n.classes[c.name] = c
		n.staleClasses[c] = true
	}
}

// resolve notes the numbers that the named ports of an ingress rule have in a pod.
func (c *class) resolve(r Rule, p *pod) {
	for _, port := range r.Ports {
		if port.Name != "" {
			c.ports[named(port)] = p.numbers(port)
		}
	}
}

// named returns what decides in a named port.
func named(p PolicyPort) PolicyPort { return PolicyPort{Protocol: p.Protocol, Name: p.Name} }

// numbers returns the numbers of a named port in a pod, in order.
func (p *pod) numbers(port PolicyPort) (all []uint16) {
	for _, x := range p.ports {
		if x.Name == port.Name && x.Protocol == port.Protocol && x.Number != 0 {
			all = append(all, x.Number)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// maxName is the greatest length of the name of a class; see [policy.State].
const maxName = 200

// clusterPart comes before the names of cluster policies in the name of a class. No namespace
// and no policy has this name.
const clusterPart = "_cluster"

// text returns the name of a class: the namespace and the policies, the cluster policies, and a
// hash where these do not say everything.
func (c *class) text() string {
	var parts []string
	if c.namespace != nil {
		parts = append([]string{c.namespace.name}, c.policies...)
	}
	if len(c.cluster) > 0 {
		parts = append(append(parts, clusterPart), c.cluster...)
	}
	name := strings.Join(parts, "/")
	full := name
	for _, p := range slices.SortedFunc(maps.Keys(c.ports), func(a, b PolicyPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol))
	}) {
		full += fmt.Sprintf("//%s %d %d", p.Name, p.Protocol, c.ports[p])
	}
	const hash = 16
	if full == name && len(name) <= maxName {
		return name
	}
	sum := sha256.Sum256([]byte(full))
	return name[:min(len(name), maxName-hash-2)] + "//" + hex.EncodeToString(sum[:hash/2])
}

// rebuild computes the content of a class.
func (n *Node) rebuild(c *class) error {
	old := c.groups
	c.groups = map[*group]bool{}
	var content policy.Class
	for _, name := range c.policies {
		x := c.namespace.policies[name]
		n.add(&content.Ingress, c, x, policy.Ingress)
		n.add(&content.Egress, c, x, policy.Egress)
	}
	for _, name := range c.cluster {
		x := n.cluster[name]
		n.addCluster(&content.Ingress, c, x, policy.Ingress)
		n.addCluster(&content.Egress, c, x, policy.Egress)
	}
	for g := range old {
		if !c.groups[g] {
			n.unuse(g, c)
		}
	}
	var err error
	if c.compiled, err = policy.Compile(content); err != nil {
		err = fmt.Errorf("class %s: %w", c.name, err)
		nothing := policy.Rules{Isolated: true}
		c.compiled, _ = policy.Compile(policy.Class{Ingress: nothing, Egress: nothing}) // without rules there is nothing to refuse
	}
	return err
}

// add adds the rules of a policy for a direction.
func (n *Node) add(to *policy.Rules, c *class, x *boundPolicy, d policy.Direction) {
	rules := x.Ingress
	if d == policy.Egress {
		rules = x.Egress
	}
	if rules == nil {
		return
	}
	to.Isolated = true
	for i, r := range *rules {
		to.Allow = append(to.Allow, n.translate(c, x.Namespace, r, d, fmt.Sprintf("%s/%s %s %d", x.Namespace, x.Name, d, i))...)
	}
}

// addCluster adds the rules of a cluster policy for a direction.
func (n *Node) addCluster(to *policy.Rules, c *class, x *boundCluster, d policy.Direction) {
	rules, list := x.Ingress, &to.Before
	if d == policy.Egress {
		rules = x.Egress
	}
	if x.Tier == Baseline {
		list = &to.After
	}
	for i, r := range rules {
		name := fmt.Sprintf("%s %s %d", x.Name, d, i)
		if r.Name != "" {
			name += " " + r.Name
		}
		for _, t := range n.translate(c, "", r.Rule, d, name) {
			*list = append(*list, policy.OrderedRule{Rule: t, Action: r.Action})
		}
	}
}

// translate returns a rule of a policy of a namespace, or of a cluster policy, in terms of
// package policy.
func (n *Node) translate(c *class, in string, r Rule, d policy.Direction, name string) (rules []policy.Rule) {
	if ports := c.numeric(r, d); len(ports) > 0 {
		rules = append(rules, policy.Rule{Name: name, Peers: n.blocks(c, in, r), Ports: ports})
	}
	if d == policy.Egress {
		rules = append(rules, n.byNames(c, in, r, name)...)
	}
	return rules
}

// numeric returns the ports of a rule that are the same for all peers.
func (c *class) numeric(r Rule, d policy.Direction) (ports []policy.Ports) {
	if len(r.Ports) == 0 {
		return []policy.Ports{{}}
	}
	for _, p := range r.Ports {
		switch {
		case p.Name == "":
			if p.Last == 0 || p.First <= p.Last {
				ports = append(ports, policy.Ports{Protocol: p.Protocol, First: p.First, Last: p.Last})
			}
		case d == policy.Ingress:
			for _, number := range c.ports[named(p)] {
				ports = append(ports, policy.Ports{Protocol: p.Protocol, First: number})
			}
		}
	}
	return ports
}

// blocks returns the peers of a rule.
func (n *Node) blocks(c *class, in string, r Rule) (blocks []policy.Block) {
	if len(r.Peers) == 0 {
		return []policy.Block{{}}
	}
	for _, p := range r.Peers {
		if p.Block != nil {
			if p.Block.Prefix.IsValid() {
				blocks = append(blocks, policy.Block{Prefix: p.Block.Prefix, Except: p.Block.Except})
			}
			continue
		}
		if g := scope(in, p); g != nil {
			for _, a := range n.use(g, c).peers() {
				blocks = append(blocks, single(a))
			}
		}
	}
	return blocks
}

func single(a netip.Addr) policy.Block { return policy.Block{Prefix: netip.PrefixFrom(a, a.BitLen())} }

// byNames returns the rules for the named ports of an egress rule: the peers with the same
// number of a port share one.
func (n *Node) byNames(c *class, in string, r Rule, name string) (rules []policy.Rule) {
	byPort := map[policy.Ports][]netip.Addr{}
	for _, port := range r.Ports {
		if port.Name == "" {
			continue
		}
		for p, contains := range n.pods(c, in, r) {
			for _, number := range p.numbers(port) {
				to := policy.Ports{Protocol: port.Protocol, First: number}
				for _, a := range p.addrs {
					if contains(a) {
						byPort[to] = append(byPort[to], a)
					}
				}
			}
		}
	}
	for _, to := range slices.SortedFunc(maps.Keys(byPort), func(a, b policy.Ports) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First))
	}) {
		rule := policy.Rule{Name: name, Ports: []policy.Ports{to}}
		for _, a := range sorted(byPort[to]) {
			rule.Peers = append(rule.Peers, single(a))
		}
		rules = append(rules, rule)
	}
	return rules
}
