// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/policy"
)

// Policies are the network policies of a node's pods.
type Policies struct {
	policy.State
	// Odd means that another program has changed the table of package policy.
	Odd bool `json:",omitempty"`
}

// policyTable is the name of package policy's table.
const policyTable = "vpcnet-policy"

// policies judges a packet that the node forwards. It reports false if a policy denies it.
func (t *tracer) policies(l *leg) bool {
	p := t.v.Policies
	if p == nil || l.in == "" {
		return true
	}
	if p.Odd {
		t.note(NotePolicy, "what another program has changed in table inet %s", policyTable)
	}
	flow, complete := t.p.Flow.judged()
	d := p.Judge(flow)
	word := ""
	if l.hops == &t.p.Back {
		word = "re"
	}
	if d.Egress != "" {
		l.hop("nft "+word+"out", fmt.Sprintf("class %s of %s allows it", p.Pods[flow.Src], flow.Src), d.Egress)
	}
	switch {
	case d.Allowed && d.Ingress != "":
		l.hop("nft "+word+"in", fmt.Sprintf("class %s of %s allows it", p.Pods[flow.Dst], flow.Dst), d.Ingress)
		return true
	case d.Allowed:
		return true
	}
	chain, pod, peer := "in", flow.Dst, flow.Src
	if d.Direction == policy.Egress {
		chain, pod, peer = "out", flow.Src, flow.Dst
	}
	if !complete && reaches(p.Classes[d.Class].Boxes(d.Direction), peer, flow.Protocol) {
		t.note(NotePolicy, "whether class %s of %s allows it, which depends on the protocol and the port", d.Class, pod)
		return true
	}
	l.hop("nft "+word+chain, "drops it", fmt.Sprintf("no element of class %s has %s", d.Class, key(peer, flow)))
	t.fault(FaultPolicyDenied, "class %s of %s denies %s %s %s", d.Class, pod, d.Direction, map[bool]string{false: "from", true: "to"}[bool(d.Direction)], key(peer, flow))
	return false
}

// key returns what is looked up for a peer, in nft's notation, as far as it is known.
func key(peer netip.Addr, f policy.Flow) string {
	switch {
	case f.Protocol == 0:
		return peer.String()
	case f.Port == 0:
		return fmt.Sprintf("%s . %s", peer, f.Protocol)
	}
	return fmt.Sprintf("%s . %s . %d", peer, f.Protocol, f.Port)
}

// judged returns the flow as package policy judges it, and false if its protocol or its port
// is not known. Only what allows every protocol allows protocol 0.
func (f Flow) judged() (flow policy.Flow, complete bool) {
	proto, _ := f.proto()
	flow = policy.Flow{Src: f.Src, Dst: f.Dst, Protocol: policy.Protocol(proto), Port: f.Port}
	switch flow.Protocol {
	case 0:
		return flow, false
	case policy.TCP, policy.UDP, policy.SCTP:
		return flow, f.Port != 0
	}
	flow.Port = 0
	return flow, true
}

// reaches reports whether one of the boxes has a peer with a protocol, 0 for any.
func reaches(boxes []policy.Box, peer netip.Addr, protocol policy.Protocol) bool {
	return slices.ContainsFunc(boxes, func(b policy.Box) bool {
		return !peer.Less(b.First) && !b.Last.Less(peer) && (protocol == 0 || b.FirstProtocol <= protocol && protocol <= b.LastProtocol)
	})
}
