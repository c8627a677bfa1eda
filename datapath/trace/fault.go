// SPDX-License-Identifier: Apache-2.0

package trace

// Fault is a reason why a packet does not arrive or takes a wrong way.
type Fault struct {
	Name   FaultName
	Detail string
}

// FaultName is one of the constants below.
type FaultName string

// Faults that Trace finds. If one fault causes another, Trace reports both, such as a
// missing rule and the wrong ENI.
const (
	FaultUnknownSource FaultName = "unknown-source"    // neither the node nor a pod of it has the source
	FaultNoLink        FaultName = "missing-link"      // a link on the way does not exist
	FaultLinkDown      FaultName = "link-down"         // a link on the way is down
	FaultIPv6Off       FaultName = "ipv6-off"          // IPv6 is switched off on a link on the way
	FaultWrongMAC      FaultName = "wrong-mac"         // the MAC of a link is not that of its ENI
	FaultWrongVLAN     FaultName = "wrong-vlan"        // a VLAN link has the wrong ID or the wrong parent
	FaultNoPort        FaultName = "not-a-port"        // the pod's host link is not a port of the bridge
	FaultMissingAddr   FaultName = "missing-address"   // the sandbox does not have the pod's address
	FaultAddrOnNode    FaultName = "address-on-node"   // a link of the node has the pod's address
	FaultMissingRoute  FaultName = "missing-route"     // no route
	FaultWrongRoute    FaultName = "wrong-route"       // a route leads to another link or gateway
	FaultBlockedRoute  FaultName = "unreachable-route" // a route or a rule refuses
	FaultNoPod         FaultName = "no-pod"            // an ENI of the node holds the destination, but no pod has it
	FaultMissingRule   FaultName = "missing-rule"      // the rule that should decide does not exist
	FaultWrongTable    FaultName = "wrong-table"       // a rule looks into the wrong table
	FaultForeignRule   FaultName = "foreign-rule"      // another program's rule decides
	FaultLocalFirst    FaultName = "local-first"       // table local comes before the rules of strict pods
	FaultMissingMark   FaultName = "missing-mark"      // the packet does not have the mark that it needs
	FaultWrongENI      FaultName = "wrong-eni"         // the packet leaves by an ENI that does not own its source
	FaultNoFilter      FaultName = "missing-filter"    // the nftables table or a part of it does not exist
	FaultDropped       FaultName = "dropped"           // a foreign rule in our table drops the packet
	FaultSpoofed       FaultName = "source-not-owned"  // the pod may not send with this source
	FaultRefused       FaultName = "refused"           // policy refuses the packet: the metadata service
	FaultPolicyDenied  FaultName = "policy-denied"     // a network policy of a pod does not allow it
	FaultStaleNeighbor FaultName = "stale-neighbour"   // a permanent entry has an old MAC
	FaultNoNeighbor    FaultName = "missing-neighbour" // a permanent entry does not exist
	FaultStrictReverse FaultName = "strict-rp-filter"  // the route back to the source uses another link
	FaultNoReverse     FaultName = "no-reverse-route"  // loose filtering, but no route back to the source
	FaultEarlyDemux    FaultName = "early-demux"       // the kernel assigns answers of strict pods to sockets of the node
	FaultNoForwarding  FaultName = "forwarding-off"    // the node or one of its links does not forward
	FaultLostSNAT      FaultName = "lost-snat"         // the source should be translated and is not
	FaultDiffers       FaultName = "kernel-disagrees"  // the kernel's own answer differs
)

// Note is something that Trace could not determine. The result of Trace may be wrong in
// this respect.
type Note struct {
	Name   NoteName
	Detail string
}

// NoteName is one of the constants below.
type NoteName string

// Notes of Trace.
const (
	NoteOwner       NoteName = "unknown-owner"        // which ENI owns the source
	NoteSandbox     NoteName = "unseen-sandbox"       // what is inside the pod
	NotePort        NoteName = "unknown-port"         // which port of a bridge leads to the pod
	NoteRule        NoteName = "unjudged-rule"        // a rule matches something that a State does not contain
	NoteRoute       NoteName = "unjudged-route"       // a route has several next hops
	NoteFilter      NoteName = "unjudged-filter"      // a foreign rule in our nftables table
	NoteForeign     NoteName = "foreign-filter"       // chains of other programs
	NoteTranslation NoteName = "unjudged-translation" // a foreign rule in the table of package snat
	NotePolicy      NoteName = "unjudged-policy"      // network policies that depend on more than what is known
	NoteUntouched   NoteName = "untranslated"         // by design the node does not translate this source
)
