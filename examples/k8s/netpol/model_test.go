// SPDX-License-Identifier: Apache-2.0

package netpol_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/examples/k8s/netpol"
)

const here = "node-a"

// objects are the objects of a cluster, by which the tests judge a connection. The methods
// know nothing of classes, groups and changes.
type objects struct {
	namespaces map[string]netpol.Namespace
	pods       map[netpol.PodKey]netpol.Pod
	policies   map[netpol.PodKey]netpol.Policy
	cluster    map[string]netpol.ClusterPolicy
}

func newObjects() *objects {
	return &objects{map[string]netpol.Namespace{}, map[netpol.PodKey]netpol.Pod{}, map[netpol.PodKey]netpol.Policy{}, map[string]netpol.ClusterPolicy{}}
}

// reaches reports whether the policies that select a pod let it connect, or be connected, with
// an address.
func (o *objects) reaches(pod netpol.Pod, p policy.Packet) bool {
	if action := o.decide(netpol.Admin, pod, p); action != policy.Pass {
		return action == policy.Accept
	}
	isolated := false
	for _, x := range o.policies {
		rules := x.Ingress
		if p.Direction == policy.Egress {
			rules = x.Egress
		}
		if x.Namespace != pod.Namespace || rules == nil || !selects(x.Pods, pod.Labels) {
			continue
		}
		isolated = true
		for _, r := range *rules {
			if o.allows(r, x.Namespace, pod, p) {
				return true
			}
		}
	}
	return !isolated && o.decide(netpol.Baseline, pod, p) != policy.Deny
}

// decide returns what the cluster policies of a tier decide.
func (o *objects) decide(tier netpol.Tier, pod netpol.Pod, p policy.Packet) policy.Action {
	all := slices.SortedFunc(maps.Values(o.cluster), func(a, b netpol.ClusterPolicy) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
	})
	for _, x := range all {
		rules := x.Ingress
		if p.Direction == policy.Egress {
			rules = x.Egress
		}
		if x.Tier != tier || !o.isPeerPod(netpol.Peer{Namespaces: x.Namespaces, Pods: x.Pods}, "", pod) {
			continue
		}
		for _, r := range rules {
			if o.allows(r.Rule, "", pod, p) {
				return r.Action
			}
		}
	}
	return policy.Pass
}

// allows reports whether a rule allows a connection.
func (o *objects) allows(r netpol.Rule, in string, pod netpol.Pod, p policy.Packet) bool {
	peerOK := len(r.Peers) == 0
	for _, peer := range r.Peers {
		peerOK = peerOK || o.isPeer(peer, in, p.Peer)
	}
	portOK := len(r.Ports) == 0
	for _, port := range r.Ports {
		first, last := port.First, max(port.First, port.Last)
		switch {
		case port.Protocol != p.Protocol:
		case port.Last != 0 && port.First > port.Last:
		case port.Name == "" && first == 0 && last == 0:
			portOK = true
		case port.Name == "":
			portOK = portOK || first <= p.Port && p.Port <= last
		case p.Direction == policy.Ingress:
			portOK = portOK || calls(pod, port, p.Port)
		default:
			portOK = portOK || o.namedAt(r, in, port, p)
		}
	}
	return peerOK && portOK
}

// namedAt reports whether a peer of the rule has the address and a port of the name.
func (o *objects) namedAt(r netpol.Rule, in string, port netpol.PolicyPort, p policy.Packet) bool {
	for _, other := range o.pods {
		if other.HostNetwork || other.Ended || !slices.Contains(other.Addrs, p.Peer) || !calls(other, port, p.Port) {
			continue
		}
		if len(r.Peers) == 0 {
			return true
		}
		for _, peer := range r.Peers {
			if peer.Block != nil && inBlock(*peer.Block, p.Peer) || peer.Block == nil && o.isPeerPod(peer, in, other) {
				return true
			}
		}
	}
	return false
}

func calls(pod netpol.Pod, port netpol.PolicyPort, number uint16) bool {
	return slices.Contains(pod.Ports, netpol.Port{Name: port.Name, Protocol: port.Protocol, Number: number})
}

func (o *objects) isPeer(peer netpol.Peer, in string, a netip.Addr) bool {
	if peer.Block != nil {
		return inBlock(*peer.Block, a)
	}
	for _, p := range o.pods {
		if !p.HostNetwork && !p.Ended && slices.Contains(p.Addrs, a) && o.isPeerPod(peer, in, p) {
			return true
		}
	}
	return false
}

func (o *objects) isPeerPod(peer netpol.Peer, in string, p netpol.Pod) bool {
	if peer.Namespaces == nil && (peer.Pods == nil || p.Namespace != in) {
		return false
	}
	if ns, known := o.namespaces[p.Namespace]; peer.Namespaces != nil && !(known && selects(*peer.Namespaces, ns.Labels)) {
		return false
	}
	return peer.Pods == nil || selects(*peer.Pods, p.Labels)
}

func inBlock(b netpol.Block, a netip.Addr) bool {
	for _, e := range b.Except {
		if e.Contains(a) {
			return false
		}
	}
	return b.Prefix.Contains(a)
}

func selects(s netpol.Selector, labels map[string]string) bool {
	for k, v := range s.Labels {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	for _, e := range s.Expressions {
		v, has := labels[e.Key]
		ok := map[netpol.Operator]bool{
			netpol.In: has && slices.Contains(e.Values, v), netpol.NotIn: !has || !slices.Contains(e.Values, v),
			netpol.Exists: has, netpol.DoesNotExist: !has,
		}[e.Operator]
		if !ok {
			return false
		}
	}
	return true
}

// node returns a node that was told of all objects in the order of their names.
func (o *objects) node(t testing.TB) *netpol.Node {
	n := netpol.New(netpol.Config{Name: here})
	byKey := func(a, b netpol.PodKey) int { return cmpKey(a, b) }
	for _, k := range slices.SortedFunc(maps.Keys(o.policies), byKey) {
		n.SetPolicy(o.policies[k])
	}
	for _, k := range slices.SortedFunc(maps.Keys(o.pods), byKey) {
		n.SetPod(o.pods[k])
	}
	for _, name := range slices.Sorted(maps.Keys(o.cluster)) {
		n.SetClusterPolicy(o.cluster[name])
	}
	for _, name := range slices.Sorted(maps.Keys(o.namespaces)) {
		n.SetNamespace(o.namespaces[name])
	}
	update(t, n)
	return n
}

func cmpKey(a, b netpol.PodKey) int {
	return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
}

func update(t testing.TB, n *netpol.Node) bool {
	t.Helper()
	changed, err := n.Update()
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// judge returns whether a class lets a packet of a pod pass.
func judge(c netpol.PodClass, p policy.Packet) bool {
	pod := netip.MustParseAddr("192.0.2.1")
	if p.Peer.Is6() {
		pod = netip.MustParseAddr("2001:db8::1")
	}
	flow := policy.Flow{Src: p.Peer, Dst: pod, Protocol: p.Protocol, Port: p.Port}
	if p.Direction == policy.Egress {
		flow.Src, flow.Dst = flow.Dst, flow.Src
	}
	return policy.State{Classes: map[string]policy.Compiled{c.Name: c.Class}, Pods: map[netip.Addr]string{pod: c.Name}}.Judge(flow).Allowed
}

// text returns classes for comparisons.
func text(all map[netpol.PodKey]netpol.PodClass) map[netpol.PodKey]string {
	out := map[netpol.PodKey]string{}
	for k, c := range all {
		out[k] = fmt.Sprint(c.UID, " ", c.Name, "\n", policy.State{Classes: map[string]policy.Compiled{"c": c.Class}})
	}
	return out
}

// world makes random objects out of few names, labels and addresses, so that they meet.
type world struct{ *rand.Rand }

func (w world) one(all ...string) string { return all[w.IntN(len(all))] }

func (w world) labels() map[string]string {
	l := map[string]string{}
	for _, k := range []string{"app", "tier"} {
		if w.IntN(3) > 0 {
			l[k] = w.one("a", "b", "")
		}
	}
	return l
}

func (w world) selector() (s netpol.Selector) {
	switch w.IntN(5) {
	case 0:
	case 1, 2:
		s.Labels = map[string]string{w.one("app", "tier"): w.one("a", "b", "")}
	default:
		for range 1 + w.IntN(2) {
			e := netpol.Expression{Key: w.one("app", "tier"), Operator: netpol.Operator(w.one("In", "NotIn", "Exists", "DoesNotExist"))}
			if e.Operator == netpol.In || e.Operator == netpol.NotIn {
				e.Values = []string{w.one("a", "b"), w.one("a", "")}
			}
			s.Expressions = append(s.Expressions, e)
		}
	}
	return s
}

func (w world) protocol() policy.Protocol {
	return []policy.Protocol{policy.TCP, policy.TCP, policy.UDP, policy.SCTP}[w.IntN(4)]
}

func (w world) number() uint16 { return uint16(80 + w.IntN(4)) }

func (w world) addr() netip.Addr {
	if w.IntN(4) == 0 {
		return netip.MustParseAddr(fmt.Sprintf("fd00::%d", w.IntN(8)))
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(w.IntN(8))})
}

func (w world) pod() netpol.Pod {
	p := netpol.Pod{
		Namespace: w.one("x", "y", "z"), Name: w.one("p", "q", "r", "s"), UID: w.one("1", "2"), Node: w.one(here, here, "node-b", ""), Labels: w.labels(),
		HostNetwork: w.IntN(8) == 0, Ended: w.IntN(8) == 0,
	}
	for range w.IntN(3) {
		p.Addrs = append(p.Addrs, w.addr())
	}
	for range w.IntN(4) {
		p.Ports = append(p.Ports, netpol.Port{Name: w.one("web", "dns"), Protocol: w.protocol(), Number: w.number()})
	}
	return p
}

func (w world) prefix() netip.Prefix {
	a := w.addr()
	return netip.PrefixFrom(a, a.BitLen()-w.IntN(4)) // not always canonical
}

func (w world) rule() (r netpol.Rule) {
	for range w.IntN(3) {
		p := netpol.Peer{}
		if w.IntN(4) == 0 {
			p.Block = &netpol.Block{Prefix: w.prefix()}
			for range w.IntN(3) {
				p.Block.Except = append(p.Block.Except, w.prefix())
			}
		} else {
			if w.IntN(2) == 0 {
				s := w.selector()
				p.Namespaces = &s
			}
			if w.IntN(3) > 0 {
				s := w.selector()
				p.Pods = &s
			}
		}
		r.Peers = append(r.Peers, p)
	}
	for range w.IntN(3) {
		p := netpol.PolicyPort{Protocol: w.protocol()}
		switch w.IntN(4) {
		case 0:
			p.Name = w.one("web", "dns", "none")
		case 1:
		case 2:
			p.First, p.Last = w.number(), w.number()
		default:
			p.First = w.number()
		}
		r.Ports = append(r.Ports, p)
	}
	return r
}

func (w world) rules() *netpol.Rules {
	if w.IntN(3) == 0 {
		return nil
	}
	all := netpol.Rules{}
	for range w.IntN(3) {
		all = append(all, w.rule())
	}
	return &all
}

func (w world) policy() netpol.Policy {
	return netpol.Policy{Namespace: w.one("x", "y", "z"), Name: w.one("n", "m", "o"), Pods: w.selector(), Ingress: w.rules(), Egress: w.rules()}
}

func (w world) clusterPolicy() netpol.ClusterPolicy {
	p := netpol.ClusterPolicy{
		Name: w.one("n", "m", "o"), Tier: netpol.Tier(w.IntN(2) == 0), Priority: w.IntN(3), Ingress: w.clusterRules(), Egress: w.clusterRules(),
	}
	if w.IntN(8) > 0 {
		s := w.selector()
		p.Namespaces = &s
	}
	if w.IntN(2) == 0 {
		s := w.selector()
		p.Pods = &s
	}
	return p
}

func (w world) clusterRules() (all []netpol.ClusterRule) {
	for range w.IntN(4) {
		all = append(all, netpol.ClusterRule{Name: w.one("", "why"), Action: policy.Action(w.IntN(3)), Rule: w.rule()})
	}
	return all
}

// step changes an object in the world and tells the node.
func (w world) step(o *objects, n *netpol.Node) {
	switch w.IntN(10) {
	case 0:
		ns := netpol.Namespace{Name: w.one("x", "y", "z"), Labels: w.labels()}
		o.namespaces[ns.Name] = ns
		n.SetNamespace(ns)
	case 1:
		if name := w.one("x", "y", "z"); w.IntN(4) == 0 {
			delete(o.namespaces, name)
			n.DeleteNamespace(name)
		}
	case 2, 3, 4:
		p := w.pod()
		o.pods[netpol.PodKey{Namespace: p.Namespace, Name: p.Name}] = p
		n.SetPod(p)
	case 5:
		k := netpol.PodKey{Namespace: w.one("x", "y", "z"), Name: w.one("p", "q", "r", "s")}
		delete(o.pods, k)
		n.DeletePod(k.Namespace, k.Name)
	case 6:
		p := w.policy()
		o.policies[netpol.PodKey{Namespace: p.Namespace, Name: p.Name}] = p
		n.SetPolicy(p)
	case 7:
		p := w.clusterPolicy()
		o.cluster[p.Name] = p
		n.SetClusterPolicy(p)
	case 8:
		if name := w.one("n", "m", "o"); w.IntN(2) == 0 {
			delete(o.cluster, name)
			n.DeleteClusterPolicy(name)
		}
	default:
		k := netpol.PodKey{Namespace: w.one("x", "y", "z"), Name: w.one("n", "m", "o")}
		if w.IntN(2) == 0 {
			delete(o.policies, k)
			n.DeletePolicy(k.Namespace, k.Name)
		}
	}
}

// check compares the classes of a node with the objects, and with those of a node that was told
// of the objects at once.
func (o *objects) check(t *testing.T, w world, n *netpol.Node) {
	t.Helper()
	before := text(n.Classes())
	changed := update(t, n)
	classes := n.Classes()
	if diff := gocmp.Diff(before, text(classes)); diff != "" && !changed {
		t.Fatalf("Update reports no change (-before +after):\n%s", diff)
	}
	if diff := gocmp.Diff(text(o.node(t).Classes()), text(classes)); diff != "" {
		t.Fatalf("classes after the changes (-from the objects +got):\n%s", diff)
	}
	for k, pod := range o.pods {
		c, has := classes[k]
		if _, known := o.namespaces[pod.Namespace]; has != (known && pod.Node == here && !pod.HostNetwork) {
			t.Fatalf("pod %v has a class: %t; %+v", k, has, pod)
		}
		if !has {
			continue
		}
		for range 8 {
			p := policy.Packet{Direction: policy.Direction(w.IntN(2) == 0), Peer: w.addr(), Protocol: w.protocol(), Port: w.number()}
			if got, want := judge(c, p), o.reaches(pod, p); got != want {
				t.Fatalf("pod %+v\nclass %s\npacket %+v\nallowed %t, want %t\nobjects %+v", pod, c.Name, p, got, want, o)
			}
		}
	}
}

func FuzzNode(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		w := world{rand.New(rand.NewPCG(seed, 1))}
		o, n := newObjects(), netpol.New(netpol.Config{Name: here})
		for range 6 {
			for range 1 + w.IntN(12) {
				w.step(o, n)
			}
			o.check(t, w, n)
		}
	})
}
