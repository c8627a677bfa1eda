// SPDX-License-Identifier: Apache-2.0

package netpol

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/policy"
)

// Config configures a [Node].
type Config struct {
	// Name is the name of the node.
	Name string
	// HostNetworkPeers makes a pod in the network of its node a peer of selectors by the
	// node's address. A rule that allows one such pod then allows the whole node.
	HostNetworkPeers bool
}

// Node knows the objects of the cluster and the classes of the pods of one node. Create one
// with [New]. It is not safe for concurrent use.
type Node struct {
	cfg        Config
	namespaces map[string]*namespace
	groups     map[string]*group // by key
	classes    map[string]*class // by name
	cluster    map[string]*boundCluster

	// These are the objects that changes have reached since the last Update.
	stalePods    map[*pod]bool
	staleClasses map[*class]bool
	changed      bool
}

// namespace is a namespace with what is in it. It exists as soon as something is in it.
type namespace struct {
	name string
	// labels are those of the object, and known says that there is one.
	labels   labels
	known    bool
	pods     map[string]*pod
	policies map[string]*boundPolicy
	// groups are those that can have pods of the namespace.
	groups map[*group]bool
}

// pod is a pod in a small form.
type pod struct {
	namespace *namespace
	name, uid string
	labels    labels
	addrs     []netip.Addr // as a peer
	ports     []Port
	local     bool
	// hostNetwork means that the addresses are those of the node.
	hostNetwork bool
	class       *class // nil if no policy selects the pod, or if it is not local
}

// boundPolicy is a policy with its matchers.
type boundPolicy struct {
	Policy
	pods matcher
}

// boundCluster is a cluster policy with the group of its pods.
type boundCluster struct {
	ClusterPolicy
	subject *group // nil if it has no pods; it is not in use
}

func (x *boundCluster) selects(p *pod) bool {
	return x != nil && x.subject != nil && x.subject.inScope(p.namespace) && x.subject.pods.matches(p.labels)
}

// New returns a node without any objects.
func New(cfg Config) *Node {
	return &Node{
		cfg: cfg, namespaces: map[string]*namespace{}, groups: map[string]*group{}, classes: map[string]*class{}, cluster: map[string]*boundCluster{},
		stalePods: map[*pod]bool{}, staleClasses: map[*class]bool{},
	}
}

// SetNamespace adds or replaces a namespace.
func (n *Node) SetNamespace(x Namespace) { n.setNamespace(x.Name, labelsOf(x.Labels), true) }

// DeleteNamespace deletes a namespace. What is in it stays until it is deleted itself, but no
// selector of namespaces has it.
func (n *Node) DeleteNamespace(name string) {
	if n.namespaces[name] != nil {
		n.setNamespace(name, nil, false)
	}
}

func (n *Node) setNamespace(name string, l labels, known bool) {
	ns := n.namespace(name)
	defer n.collect(ns)
	if ns.known == known && slices.Equal(ns.labels, l) {
		return
	}
	if ns.known != known || len(n.cluster) > 0 {
		for _, p := range ns.pods {
			n.stale(p)
		}
	}
	ns.labels, ns.known = l, known
	for _, g := range n.groups {
		if has := g.inScope(ns); has != ns.groups[g] {
			n.join(ns, g, has)
			if len(ns.pods) > 0 {
				n.staleGroup(g)
			}
		}
	}
}

// namespace returns a namespace, which it creates if necessary.
func (n *Node) namespace(name string) *namespace {
	ns := n.namespaces[name]
	if ns == nil {
		name = intern(name)
		ns = &namespace{name: name, pods: map[string]*pod{}, policies: map[string]*boundPolicy{}, groups: map[*group]bool{}}
		n.namespaces[name] = ns
		for _, g := range n.groups {
			if g.inScope(ns) {
				n.join(ns, g, true)
			}
		}
	}
	return ns
}

// collect removes a namespace of which nothing is left.
func (n *Node) collect(ns *namespace) {
	if ns.known || len(ns.pods) > 0 || len(ns.policies) > 0 {
		return
	}
	for g := range ns.groups {
		n.join(ns, g, false)
	}
	delete(n.namespaces, ns.name)
}

func (n *Node) join(ns *namespace, g *group, has bool) {
	if has {
		ns.groups[g], g.namespaces[ns] = true, true
		return
	}
	delete(ns.groups, g)
	delete(g.namespaces, ns)
}

// SetPod adds or replaces a pod.
func (n *Node) SetPod(x Pod) {
	ns := n.namespace(x.Namespace)
	p := &pod{
		namespace: ns, name: x.Name, uid: x.UID, labels: labelsOf(x.Labels), ports: slices.Clone(x.Ports),
		local: x.Node == n.cfg.Name && !x.HostNetwork, hostNetwork: x.HostNetwork,
	}
	if !x.Ended && (!x.HostNetwork || n.cfg.HostNetworkPeers) {
		p.addrs = slices.Clone(x.Addrs)
	}
	for i := range p.ports {
		p.ports[i].Name = intern(p.ports[i].Name)
	}
	old := ns.pods[x.Name]
	if old != nil {
		if old.equal(p) {
			return
		}
		p.class = old.class
		n.leave(old, p)
	}
	ns.pods[p.name] = p
	if p.local || p.class != nil {
		n.stale(p)
	}
	n.stalePeers(old, p)
}

// leave replaces a pod that is gone, or that another one follows, in what is to be computed.
func (n *Node) leave(old, next *pod) {
	delete(n.stalePods, old)
	if next == nil && old.class != nil {
		n.assign(old, nil)
	}
	n.changed = n.changed || old.local
}

// equal reports whether two pods differ in nothing that decides.
func (p *pod) equal(q *pod) bool {
	return p.uid == q.uid && p.local == q.local && p.hostNetwork == q.hostNetwork && slices.Equal(p.labels, q.labels) && slices.Equal(p.addrs, q.addrs) && slices.Equal(p.ports, q.ports)
}

// DeletePod deletes a pod.
func (n *Node) DeletePod(namespace, name string) {
	ns := n.namespaces[namespace]
	if ns == nil || ns.pods[name] == nil {
		return
	}
	p := ns.pods[name]
	n.leave(p, nil)
	delete(ns.pods, name)
	n.stalePeers(p, nil)
	n.collect(ns)
}

// stale notes that the class of a pod is to be found again.
func (n *Node) stale(p *pod) {
	if p.local || p.class != nil {
		n.stalePods[p] = true
	}
}

// stalePeers notes the groups that one of two versions of a pod is in, if they differ as peers.
func (n *Node) stalePeers(old, p *pod) {
	same := old != nil && p != nil && slices.Equal(old.addrs, p.addrs) && slices.Equal(old.ports, p.ports)
	in := func(g *group, p *pod) bool { return p != nil && g.has(p) }
	of := old
	if of == nil {
		of = p
	}
	for g := range of.namespace.groups {
		if was, is := in(g, old), in(g, p); was != is || is && !same {
			n.staleGroup(g)
		}
	}
}

// staleGroup notes that the pods of a group are others than before.
func (n *Node) staleGroup(g *group) {
	g.addrs = nil
	for c := range g.classes {
		n.staleClasses[c] = true
	}
}

// SetPolicy adds or replaces a policy.
func (n *Node) SetPolicy(x Policy) {
	ns := n.namespace(x.Namespace)
	n.replace(ns, x.Name, &boundPolicy{Policy: x, pods: matcherOf(x.Pods)})
}

// DeletePolicy deletes a policy.
func (n *Node) DeletePolicy(namespace, name string) {
	if ns := n.namespaces[namespace]; ns != nil {
		n.replace(ns, name, nil)
		n.collect(ns)
	}
}

func (n *Node) replace(ns *namespace, name string, p *boundPolicy) {
	old := ns.policies[name]
	if p == nil {
		delete(ns.policies, name)
	} else {
		ns.policies[name] = p
	}
	for _, x := range ns.pods {
		if !x.local {
			continue
		}
		if old != nil && old.pods.matches(x.labels) || p != nil && p.pods.matches(x.labels) {
			n.stale(x)
		}
	}
	for _, c := range n.classes {
		if c.namespace == ns && slices.Contains(c.policies, name) {
			n.staleClasses[c] = true
		}
	}
}

// SetClusterPolicy adds or replaces a cluster policy.
func (n *Node) SetClusterPolicy(x ClusterPolicy) {
	n.replaceCluster(x.Name, &boundCluster{x, scope("", Peer{Namespaces: x.Namespaces, Pods: x.Pods})})
}

// DeleteClusterPolicy deletes a cluster policy.
func (n *Node) DeleteClusterPolicy(name string) { n.replaceCluster(name, nil) }

func (n *Node) replaceCluster(name string, x *boundCluster) {
	old := n.cluster[name]
	if x == nil {
		delete(n.cluster, name)
	} else {
		n.cluster[name] = x
	}
	for _, ns := range n.namespaces {
		for _, p := range ns.pods {
			if p.local && (old.selects(p) || x.selects(p)) {
				n.stale(p)
			}
		}
	}
	for _, c := range n.classes {
		if slices.Contains(c.cluster, name) {
			n.staleClasses[c] = true
		}
	}
}

// Update computes the classes that changes have reached, and reports whether Classes returns
// something else than before. It returns an error for a class that the kernel cannot have; its
// pods are isolated, and nothing is allowed.
func (n *Node) Update() (changed bool, err error) {
	for p := range n.stalePods {
		n.classify(p)
	}
	clear(n.stalePods)
	for c := range n.staleClasses {
		if c.pods > 0 {
			err = firstError(err, n.rebuild(c))
			n.changed = true
		}
	}
	clear(n.staleClasses)
	changed, n.changed = n.changed, false
	return changed, err
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// PodKey is the key of a pod.
type PodKey struct{ Namespace, Name string }

// PodClass is the class of a pod.
type PodClass struct {
	// UID is that of the pod that has the class: another pod can have the same name.
	UID string
	// Name is the name of the class, "" if no policy selects the pod.
	Name  string
	Class policy.Compiled
}

// Classes returns the classes of all pods of the node that are not in its network, as of the
// last Update. A pod of a namespace that is not known is not among them.
func (n *Node) Classes() map[PodKey]PodClass {
	all := map[PodKey]PodClass{}
	for _, ns := range n.namespaces {
		if !ns.known {
			continue
		}
		for _, p := range ns.pods {
			if !p.local {
				continue
			}
			c := PodClass{UID: p.uid}
			if p.class != nil {
				c.Name, c.Class = p.class.name, p.class.compiled
			}
			all[PodKey{ns.name, p.name}] = c
		}
	}
	return all
}

// sortedPolicies returns the policies of a namespace that select a pod, in the order of names.
func (n *Node) sortedPolicies(p *pod) (all []*boundPolicy) {
	for _, name := range slices.Sorted(maps.Keys(p.namespace.policies)) {
		if x := p.namespace.policies[name]; x.pods.matches(p.labels) {
			all = append(all, x)
		}
	}
	return all
}

// sortedCluster returns the cluster policies that select a pod, in the order in which those of a
// tier decide.
func (n *Node) sortedCluster(p *pod) (all []*boundCluster) {
	for _, x := range n.cluster {
		if x.selects(p) {
			all = append(all, x)
		}
	}
	slices.SortFunc(all, func(a, b *boundCluster) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
	})
	return all
}
