// SPDX-License-Identifier: Apache-2.0

package kubepolicy

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/examples/k8s/netpol"
)

// ClusterPolicy returns what of a ClusterNetworkPolicy decides. A rule with a peer or a protocol
// that this version does not know fails closed, as the API asks for: one that accepts is without
// this peer or protocol, and any other denies everything.
func ClusterPolicy(x *policyv1.ClusterNetworkPolicy) netpol.ClusterPolicy {
	p := netpol.ClusterPolicy{Name: x.Name, Tier: netpol.Tier(x.Spec.Tier == policyv1.BaselineTier), Priority: int(x.Spec.Priority)}
	subject := podsOf(x.Spec.Subject.Namespaces, x.Spec.Subject.Pods)
	p.Namespaces, p.Pods = subject.Namespaces, subject.Pods
	for _, r := range x.Spec.Ingress {
		var peers []netpol.Peer
		for _, from := range r.From {
			peers = append(peers, podsOf(from.Namespaces, from.Pods))
		}
		p.Ingress = appendClusterRule(p.Ingress, r.Name, r.Action, peers, r.Protocols)
	}
	for _, r := range x.Spec.Egress {
		var peers []netpol.Peer
		for _, to := range r.To {
			peers = append(peers, egressPeers(to)...)
		}
		p.Egress = appendClusterRule(p.Egress, r.Name, r.Action, peers, r.Protocols)
	}
	return p
}

// actions are the actions by their names. Another one denies.
var actions = map[policyv1.ClusterNetworkPolicyRuleAction]policy.Action{
	policyv1.ClusterNetworkPolicyRuleActionAccept: policy.Accept,
	policyv1.ClusterNetworkPolicyRuleActionPass:   policy.Pass,
	policyv1.ClusterNetworkPolicyRuleActionDeny:   policy.Deny,
}

// appendClusterRule appends a rule. Its peers that are not known are empty.
func appendClusterRule(to []netpol.ClusterRule, name string, action policyv1.ClusterNetworkPolicyRuleAction, peers []netpol.Peer, protocols []policyv1.ClusterNetworkPolicyProtocol) []netpol.ClusterRule {
	r := netpol.ClusterRule{Name: name, Action: policy.Deny}
	if a, known := actions[action]; known {
		r.Action = a
	}
	r.Peers = slices.DeleteFunc(slices.Clone(peers), func(p netpol.Peer) bool { return p == netpol.Peer{} })
	unknown := len(r.Peers) < len(peers) || len(peers) == 0
	for _, p := range protocols {
		ports := portsOf(p)
		unknown = unknown || len(ports) == 0
		r.Ports = append(r.Ports, ports...)
	}
	switch {
	case unknown && r.Action != policy.Accept:
		r.Action, r.Rule = policy.Deny, netpol.Rule{}
	case len(r.Peers) == 0 || len(protocols) > 0 && len(r.Ports) == 0:
		return to
	}
	return append(to, r)
}

// podsOf returns a peer of pods. It is empty if it has a field that is not known here.
func podsOf(namespaces *metav1.LabelSelector, pods *policyv1.NamespacedPod) (p netpol.Peer) {
	switch {
	case namespaces != nil:
		s := selector(*namespaces)
		p.Namespaces = &s
	case pods != nil:
		ns, s := selector(pods.NamespaceSelector), selector(pods.PodSelector)
		p.Namespaces, p.Pods = &ns, &s
	}
	return p
}

// egressPeers returns the peers of a peer of the API, which can have several blocks. A block that
// cannot be read is as a peer that is not known. Nodes and names of domains, of the experimental
// channel of the API, are not known.
func egressPeers(x policyv1.ClusterNetworkPolicyEgressPeer) (all []netpol.Peer) {
	if len(x.Networks) == 0 {
		return []netpol.Peer{podsOf(x.Namespaces, x.Pods)}
	}
	for _, text := range x.Networks {
		var p netpol.Peer
		if prefix, ok := prefixOf(string(text)); ok {
			p.Block = &netpol.Block{Prefix: prefix}
		}
		all = append(all, p)
	}
	return all
}

// portsOf returns the ports of a protocol, none if it has a field that is not known here.
func portsOf(x policyv1.ClusterNetworkPolicyProtocol) []netpol.PolicyPort {
	var p netpol.PolicyPort
	var port *policyv1.Port
	switch {
	case x.TCP != nil:
		p.Protocol, port = policy.TCP, x.TCP.DestinationPort
	case x.UDP != nil:
		p.Protocol, port = policy.UDP, x.UDP.DestinationPort
	case x.SCTP != nil:
		p.Protocol, port = policy.SCTP, x.SCTP.DestinationPort
	case x.DestinationNamedPort != "":
		var all []netpol.PolicyPort
		for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP, policy.SCTP} {
			all = append(all, netpol.PolicyPort{Protocol: protocol, Name: x.DestinationNamedPort})
		}
		return all
	default:
		return nil
	}
	switch {
	case port == nil: // the API asks for a field, so there is one that is not known here
		return nil
	case isPort(port.Number):
		p.First = uint16(port.Number)
	case port.Range != nil && isPort(port.Range.Start) && isPort(port.Range.End) && port.Range.Start <= port.Range.End:
		p.First, p.Last = uint16(port.Range.Start), uint16(port.Range.End)
	default:
		return nil
	}
	return []netpol.PolicyPort{p}
}
