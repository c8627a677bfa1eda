// SPDX-License-Identifier: Apache-2.0

package trace

import "github.com/vpcnet/vpcnet/datapath/netstate"

// accelerated adds a hop if the packet puts its flow into the flowtable of the node, once the
// flow has seen an answer: later packets in both directions then go from link to link.
func (t *tracer) accelerated(l *leg, out string) {
	in, leaves := false, false
	for _, k := range t.v.Node.Flows.Links {
		in = in || k.Name == l.in && !k.ENI
		leaves = leaves || k.Name == out
	}
	if in && leaves && len(t.v.Node.Flows.Chains) > 0 {
		l.hop("nft forward", "lets further packets of an established TCP or UDP flow pass between "+l.in+" and "+out+" directly", "flow add @"+netstate.Flowtable)
	}
}
