// SPDX-License-Identifier: Apache-2.0

package kubepolicy

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/examples/k8s/internal/mirror"
	"github.com/vpcnet/vpcnet/examples/k8s/netpol"
)

// Namespace returns what of a namespace decides.
func Namespace(x *corev1.Namespace) netpol.Namespace {
	return netpol.Namespace{Name: x.Name, Labels: x.Labels}
}

// Pod returns what of a pod decides.
func Pod(x *corev1.Pod) netpol.Pod {
	p := netpol.Pod{
		Namespace: x.Namespace, Name: x.Name, UID: mirror.PodUID(x), Node: x.Spec.NodeName, Labels: x.Labels, HostNetwork: x.Spec.HostNetwork,
		Ended: mirror.Ended(x),
	}
	for _, text := range append([]corev1.PodIP{{IP: x.Status.PodIP}}, x.Status.PodIPs...) {
		if a, err := netip.ParseAddr(text.IP); err == nil && !slices.Contains(p.Addrs, a.Unmap()) {
			p.Addrs = append(p.Addrs, a.Unmap())
		}
	}
	for _, c := range x.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			p.Ports = appendPorts(p.Ports, c)
		}
	}
	for _, c := range x.Spec.Containers {
		p.Ports = appendPorts(p.Ports, c)
	}
	return p
}

func appendPorts(all []netpol.Port, c corev1.Container) []netpol.Port {
	for _, port := range c.Ports {
		if protocol, ok := protocolOf(port.Protocol); ok && port.Name != "" && isPort(port.ContainerPort) {
			all = append(all, netpol.Port{Name: port.Name, Protocol: protocol, Number: uint16(port.ContainerPort)})
		}
	}
	return all
}

func isPort(n int32) bool { return n > 0 && n <= math.MaxUint16 }

// protocolOf returns a protocol, which is TCP if it is not given.
func protocolOf(p corev1.Protocol) (policy.Protocol, bool) {
	switch cmp.Or(p, corev1.ProtocolTCP) {
	case corev1.ProtocolTCP:
		return policy.TCP, true
	case corev1.ProtocolUDP:
		return policy.UDP, true
	case corev1.ProtocolSCTP:
		return policy.SCTP, true
	}
	return 0, false
}

// Policy returns what of a NetworkPolicy decides. Rules that cannot have a meaning are left
// out: they allow nothing.
func Policy(x *networkingv1.NetworkPolicy) netpol.Policy {
	p := netpol.Policy{Namespace: x.Namespace, Name: x.Name, Pods: selector(x.Spec.PodSelector)}
	types := x.Spec.PolicyTypes
	if len(types) == 0 { // as the API server does
		types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(x.Spec.Egress) > 0 {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	if slices.Contains(types, networkingv1.PolicyTypeIngress) {
		p.Ingress = &netpol.Rules{}
		for _, r := range x.Spec.Ingress {
			addRule(p.Ingress, r.From, r.Ports)
		}
	}
	if slices.Contains(types, networkingv1.PolicyTypeEgress) {
		p.Egress = &netpol.Rules{}
		for _, r := range x.Spec.Egress {
			addRule(p.Egress, r.To, r.Ports)
		}
	}
	return p
}

func addRule(to *netpol.Rules, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	var r netpol.Rule
	for _, p := range peers {
		if peer, ok := peerOf(p); ok {
			r.Peers = append(r.Peers, peer)
		}
	}
	for _, p := range ports {
		if port, ok := portOf(p); ok {
			r.Ports = append(r.Ports, port)
		}
	}
	if len(peers) > 0 && len(r.Peers) == 0 || len(ports) > 0 && len(r.Ports) == 0 {
		return // the rule is not one for all peers or all ports
	}
	*to = append(*to, r)
}

func peerOf(p networkingv1.NetworkPolicyPeer) (netpol.Peer, bool) {
	if p.IPBlock != nil {
		b := netpol.Block{}
		var ok bool
		if b.Prefix, ok = prefixOf(p.IPBlock.CIDR); !ok || p.PodSelector != nil || p.NamespaceSelector != nil {
			return netpol.Peer{}, false
		}
		for _, text := range p.IPBlock.Except {
			except, ok := prefixOf(text)
			if !ok {
				return netpol.Peer{}, false
			}
			b.Except = append(b.Except, except)
		}
		return netpol.Peer{Block: &b}, true
	}
	var peer netpol.Peer
	if p.NamespaceSelector != nil {
		s := selector(*p.NamespaceSelector)
		peer.Namespaces = &s
	}
	if p.PodSelector != nil {
		s := selector(*p.PodSelector)
		peer.Pods = &s
	}
	return peer, peer.Namespaces != nil || peer.Pods != nil
}

// prefixOf reads a block of addresses. Old objects have blocks that the API server warns of
// today: with bits behind the length, with zeros at the beginning of a number, and with IPv4
// addresses as IPv6 ones.
func prefixOf(text string) (netip.Prefix, bool) {
	addr, length, ok := strings.Cut(text, "/")
	bits, err := strconv.Atoi(length)
	if !ok || err != nil {
		return netip.Prefix{}, false
	}
	if !strings.Contains(addr, ":") {
		numbers := strings.Split(addr, ".")
		for i, n := range numbers {
			if numbers[i] = strings.TrimLeft(n, "0"); numbers[i] == "" && n != "" {
				numbers[i] = "0"
			}
		}
		addr = strings.Join(numbers, ".")
	}
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	if a.Is4In6() {
		a, bits = a.Unmap(), bits-96
	}
	p := netip.PrefixFrom(a, bits)
	return p.Masked(), p.IsValid()
}

func portOf(p networkingv1.NetworkPolicyPort) (port netpol.PolicyPort, ok bool) {
	protocol := corev1.ProtocolTCP
	if p.Protocol != nil {
		protocol = *p.Protocol
	}
	if port.Protocol, ok = protocolOf(protocol); !ok {
		return port, false
	}
	switch {
	case p.Port == nil:
		return port, p.EndPort == nil
	case p.Port.Type == intstr.String:
		port.Name = p.Port.StrVal
		return port, port.Name != "" && p.EndPort == nil
	case !isPort(p.Port.IntVal):
		return port, false
	}
	port.First = uint16(p.Port.IntVal)
	if p.EndPort != nil {
		if !isPort(*p.EndPort) || *p.EndPort < p.Port.IntVal {
			return port, false
		}
		port.Last = uint16(*p.EndPort)
	}
	return port, true
}

func selector(s metav1.LabelSelector) netpol.Selector {
	out := netpol.Selector{Labels: s.MatchLabels}
	for _, e := range s.MatchExpressions {
		out.Expressions = append(out.Expressions, netpol.Expression{Key: e.Key, Operator: netpol.Operator(e.Operator), Values: e.Values})
	}
	return out
}
