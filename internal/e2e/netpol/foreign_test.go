// SPDX-License-Identifier: Apache-2.0

package netpol

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/examples/k8s/kubepolicy"
	"github.com/vpcnet/vpcnet/examples/k8s/netpol"
)

// here is the node of all pods.
const here = "node-a"

// cluster makes random objects of Kubernetes out of few names, labels and ports, so that they
// meet. It makes only what the API server accepts.
type cluster struct {
	*rand.Rand
	namespaces []corev1.Namespace
	pods       []corev1.Pod
	policies   []*networkingv1.NetworkPolicy
}

func newCluster(seed uint64) *cluster {
	c := &cluster{Rand: rand.New(rand.NewPCG(seed, 2))}
	for _, name := range []string{"x", "y", "z"} {
		c.namespaces = append(c.namespaces, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: c.labels()}})
		for i := range 3 {
			p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: fmt.Sprint("p", i), Labels: c.labels()}}
			p.Spec.NodeName, p.Status.Phase = here, corev1.PodRunning
			p.Status.PodIP = netip.AddrFrom4([4]byte{10, 0, 0, byte(len(c.pods))}).String()
			p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: c.one("web", "dns"), ContainerPort: c.number(), Protocol: c.protocol()}}}}
			c.pods = append(c.pods, p)
		}
	}
	for i := range 1 + c.IntN(5) {
		c.policies = append(c.policies, c.policy(fmt.Sprint("n", i)))
	}
	return c
}

func (c *cluster) one(all ...string) string { return all[c.IntN(len(all))] }

func (c *cluster) number() int32 { return 80 + c.Int32N(4) }

func (c *cluster) protocol() corev1.Protocol { return corev1.Protocol(c.one("TCP", "UDP", "SCTP")) }

func (c *cluster) labels() map[string]string {
	l := map[string]string{}
	for _, key := range []string{"app", "tier"} {
		if c.IntN(3) > 0 {
			l[key] = c.one("a", "b")
		}
	}
	return l
}

func (c *cluster) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	switch c.IntN(4) {
	case 0:
	case 1:
		s.MatchLabels = map[string]string{c.one("app", "tier"): c.one("a", "b")}
	default:
		e := metav1.LabelSelectorRequirement{Key: c.one("app", "tier"), Operator: metav1.LabelSelectorOperator(c.one("In", "NotIn", "Exists", "DoesNotExist"))}
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
			e.Values = []string{c.one("a", "b")}
		}
		s.MatchExpressions = []metav1.LabelSelectorRequirement{e}
		if e.Operator == metav1.LabelSelectorOpNotIn {
			// Cyclonus does not match an object without the label, as the API does.
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: e.Key, Operator: metav1.LabelSelectorOpExists})
		}
	}
	return s
}

func (c *cluster) peers() (all []networkingv1.NetworkPolicyPeer) {
	for range c.IntN(3) {
		var p networkingv1.NetworkPolicyPeer
		switch c.IntN(4) {
		case 0:
			base := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(c.IntN(12))}), 28+c.IntN(5)).Masked()
			p.IPBlock = &networkingv1.IPBlock{CIDR: base.String()}
			if c.IntN(2) == 0 {
				p.IPBlock.Except = []string{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(c.IntN(12))}), 30+c.IntN(3)).Masked().String()}
			}
		case 1:
			p.PodSelector = c.selector()
		case 2:
			p.NamespaceSelector = c.selector()
		default:
			p.PodSelector, p.NamespaceSelector = c.selector(), c.selector()
		}
		all = append(all, p)
	}
	return all
}

func (c *cluster) ports() (all []networkingv1.NetworkPolicyPort) {
	for range c.IntN(3) {
		protocol := c.protocol()
		p := networkingv1.NetworkPolicyPort{Protocol: &protocol}
		switch number := intstr.FromInt32(c.number()); c.IntN(4) {
		case 0:
			name := intstr.FromString(c.one("web", "dns"))
			p.Port = &name
		case 1:
		case 2:
			last := number.IntVal + c.Int32N(3)
			p.Port, p.EndPort = &number, &last
		default:
			p.Port = &number
		}
		all = append(all, p)
	}
	return all
}

func (c *cluster) policy(name string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: c.one("x", "y", "z"), Name: name}}
	p.Spec.PodSelector = *c.selector()
	p.Spec.PolicyTypes = [][]networkingv1.PolicyType{{"Ingress"}, {"Egress"}, {"Ingress", "Egress"}}[c.IntN(3)]
	for range c.IntN(3) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: c.peers(), Ports: c.ports()})
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: c.peers(), Ports: c.ports()})
	}
	return p
}

// ours returns the classes of package netpol as the state of the kernel's table.
func (c *cluster) ours(t *testing.T) policy.State {
	t.Helper()
	n := netpol.New(netpol.Config{Name: here})
	for i := range c.namespaces {
		n.SetNamespace(kubepolicy.Namespace(&c.namespaces[i]))
	}
	for i := range c.pods {
		n.SetPod(kubepolicy.Pod(&c.pods[i]))
	}
	for _, p := range c.policies {
		n.SetPolicy(kubepolicy.Policy(p))
	}
	if _, err := n.Update(); err != nil {
		t.Fatal(err)
	}
	s := policy.State{Classes: map[string]policy.Compiled{}, Pods: map[netip.Addr]string{}}
	classes := n.Classes()
	for _, p := range c.pods {
		class, known := classes[netpol.PodKey{Namespace: p.Namespace, Name: p.Name}]
		if !known {
			t.Fatalf("pod %s/%s has no class", p.Namespace, p.Name)
		}
		s.Classes[class.Name], s.Pods[netip.MustParseAddr(p.Status.PodIP)] = class.Class, class.Name
	}
	return s
}

// peer returns the pod with a number as the other evaluator has it; one behind the last is an
// address outside of the cluster.
func (c *cluster) peer(i int) *matcher.TrafficPeer {
	if i == len(c.pods) {
		return &matcher.TrafficPeer{IP: "10.0.0.11"}
	}
	p := &c.pods[i]
	space := map[string]map[string]string{}
	for _, ns := range c.namespaces {
		space[ns.Name] = ns.Labels
	}
	return &matcher.TrafficPeer{IP: p.Status.PodIP, Internal: &matcher.InternalPeer{PodLabels: p.Labels, NamespaceLabels: space[p.Namespace], Namespace: p.Namespace}}
}

// String returns the objects as JSON.
func (c *cluster) String() string {
	text, err := json.Marshal([]any{c.namespaces, c.pods, c.policies})
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// TestCyclonus compares the verdicts on all connections in random clusters with those of
// Cyclonus, of which the policy-assistant of network-policy-api has come.
func TestCyclonus(t *testing.T) {
	numbers := map[corev1.Protocol]policy.Protocol{corev1.ProtocolTCP: policy.TCP, corev1.ProtocolUDP: policy.UDP, corev1.ProtocolSCTP: policy.SCTP}
	var allowed, denied int
	for seed := range uint64(150) {
		c := newCluster(seed)
		state, theirs := c.ours(t), matcher.BuildNetworkPolicies(seed%2 == 0, c.policies)
		for from := range len(c.pods) + 1 {
			for to := range len(c.pods) + 1 {
				if from == to {
					continue // a pod reaches itself
				}
				source, destination := c.peer(from), c.peer(to)
				for port := int32(80); port < 84; port++ {
					for protocol, number := range numbers {
						flow := policy.Flow{Src: netip.MustParseAddr(source.IP), Dst: netip.MustParseAddr(destination.IP), Protocol: number, Port: uint16(port)}
						want := theirs.IsTrafficAllowed(&matcher.Traffic{
							Source: source, Destination: destination, ResolvedPort: int(port), ResolvedPortName: c.portName(to, port, protocol), Protocol: protocol,
						}).IsAllowed()
						if got := state.Judge(flow); got.Allowed != want {
							t.Fatalf("seed %d: %+v: %+v, want allowed %t\n%s", seed, flow, got, want, c)
						}
						if want {
							allowed++
						} else {
							denied++
						}
					}
				}
			}
		}
	}
	if allowed == 0 || denied == 0 {
		t.Errorf("%d connections allowed and %d denied, want some of both", allowed, denied)
	}
	t.Logf("%d connections allowed and %d denied", allowed, denied)
}

// portName returns the name that a port has in a pod, "" if it has none.
func (c *cluster) portName(pod int, number int32, protocol corev1.Protocol) string {
	if pod == len(c.pods) {
		return ""
	}
	port := c.pods[pod].Spec.Containers[0].Ports[0]
	if port.ContainerPort == number && port.Protocol == protocol {
		return port.Name
	}
	return ""
}
