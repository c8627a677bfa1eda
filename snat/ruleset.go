// SPDX-License-Identifier: Apache-2.0

package snat

import "github.com/vpcnet/vpcnet/internal/nft"

// tableName is the name of the table, of family inet, for a [Config]. This package writes to
// no other table except those of [Egress], and no other program should write to these.
const tableName = "vpcnet-snat"

// The names of the set and of the chains.
const (
	insideSet     = "inside" // the destinations for which sources stay as they are
	nodePortChain = "node-port"
	podsChain     = "pods"
	returnsChain  = "returns"
	sourceChain   = "source"
)

// maxLinkName is the kernel's IFNAMSIZ, which counts the closing zero.
const maxLinkName = 16

// The priorities of the chains. Connection tracking is at -200, kube-proxy rewrites
// destinations at -100 and sources at 100 in all of its modes, and the order of equal
// priorities is not defined.
// https://wiki.nftables.org/wiki-nftables/index.php/Netfilter_hooks
const (
	// priorityAfterDNAT sees the destination that the packet is routed to. The
	// chain there is a filter chain: nat chains are skipped once a flow is rewritten.
	priorityAfterDNAT = -90
	// priorityAfterSNAT lets kube-proxy and port mappings translate first.
	priorityAfterSNAT = 110
)

// Ruleset is the content of the table. Its String is the text that `nft -f` accepts
// and `nft list table` prints.
type Ruleset struct{ table nft.Table }

// String returns the table in the notation of nft, "" if it is empty.
func (r Ruleset) String() string { return r.table.String() }

// Equal reports whether r and o have the same text.
func (r Ruleset) Equal(o Ruleset) bool { return r.table.Equal(o.table) }
