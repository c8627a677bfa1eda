// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/nft"
)

// flowsPriority is behind the chains of package policy and of other programs that filter at
// the usual priority, so that a packet that one of them drops begins no accelerated flow.
const flowsPriority = nft.PriorityFilter + 10

// flows returns the table of accelerated flows, without the links of pods.
//
// Only packets from a pod begin an accelerated flow. They have been routed by their mark, or
// by the rules of the pod, so that the kernel knows the way out. For the way back it makes a
// lookup of its own, and limits that to the link by which the packet came in: the pod's. The
// other way round it would look for the way out by the ENI with the mark of a packet that came
// in, which has none. Kernels before 5.19 use no mark at all for that lookup.
//
// Packets by other links are not accelerated, among them those of pods on a branch ENI or a
// bridge, which the kernel must not send past their rules. Packets to the metadata service
// are not, so that they can be refused at any time.
func (n Node) flows() netstate.Flows {
	if !n.Accelerate {
		return netstate.Flows{}
	}
	established := netstate.Chain{Name: "established", Rules: []netstate.FilterRule{
		nft.NewRule(nft.Destination{Addr: claims.Metadata4}, nft.Return{}),
		nft.NewRule(nft.Destination{Addr: claims.Metadata6}, nft.Return{}),
	}}
	for _, protocol := range []nft.Protocol{nft.TCP, nft.UDP} {
		established.Rules = append(established.Rules, nft.NewRule(nft.Established{}, protocol, nft.FlowAdd{Flowtable: netstate.Flowtable}))
	}
	forward := netstate.Chain{Name: "forward", Hook: nft.HookForward, Priority: flowsPriority}
	for _, out := range []string{netstate.FlowPods, netstate.FlowENIs} {
		forward.Rules = append(forward.Rules,
			nft.NewRule(nft.LinkIn{Set: netstate.FlowPods}, nft.LinkIn{Out: true, Set: out}, nft.Jump{Chain: established.Name}))
	}
	f := netstate.Flows{Chains: []netstate.Chain{forward, established}}
	for _, e := range n.ENIs {
		if e.Link != "" {
			f.Links = append(f.Links, netstate.FlowLink{Name: e.Link, ENI: true})
		}
	}
	return f
}

// podKey identifies a pod's interface, whatever its links are called.
type podKey struct{ containerID, ifName string }

func (p Pod) key() podKey { return podKey{p.ContainerID, p.IfName} }

// limited reports whether an address of the pod is among the limited ones.
func (d Desired) limited() func(Pod) bool {
	limited := map[netip.Addr]bool{}
	for _, a := range d.Limited {
		limited[a] = true
	}
	return func(p Pod) bool {
		return slices.ContainsFunc(p.Addrs, func(a PodAddr) bool { return limited[a.Addr] })
	}
}

// accelerated returns the pods that have accelerated flows, by the name of their host link.
func (d Desired) accelerated(links []netstate.Link) map[string]podKey {
	all := map[string]podKey{}
	if !d.Node.Accelerate {
		return all
	}
	limited := d.limited()
	for link, p := range d.wired(links) {
		if p.fromNode() && !limited(p) {
			all[link] = p.key()
		}
	}
	return all
}
