// SPDX-License-Identifier: Apache-2.0

package trace

// Fault is a reason why a packet goes wrong.
type Fault struct {
	Name   FaultName
	Detail string
}

// FaultName is one of the constants below.
type FaultName string

// What Trace finds. A fault that has another one as its cause is named together
// with it, as a wrong ENI with the missing rule.
const (
	FaultUnknownSource FaultName = "unknown-source"    // neither the node nor a pod of it has the source
	FaultNoLink        FaultName = "missing-link"      // a link of the way does not exist
	FaultLinkDown      FaultName = "link-down"         // a link of the way is down
	FaultIPv6Off       FaultName = "ipv6-off"          // a link of the way has IPv6 switched off
	FaultWrongMAC      FaultName = "wrong-mac"         // a link has another MAC than its ENI
	FaultWrongVLAN     FaultName = "wrong-vlan"        // a VLAN link has another ID, or is on another link
	FaultNoPort        FaultName = "not-a-port"        // the pod's host link is no port of the bridge
	FaultMissingAddr   FaultName = "missing-address"   // the sandbox has lost the pod's address
	FaultAddrOnNode    FaultName = "address-on-node"   // a link of the node has the pod's address
	FaultMissingRoute  FaultName = "missing-route"     // no route
	FaultWrongRoute    FaultName = "wrong-route"       // a route leads to another link or gateway
	FaultBlockedRoute  FaultName = "unreachable-route" // a route or a rule refuses
	FaultNoPod         FaultName = "no-pod"            // an ENI of the node holds the destination, and no pod has it
	FaultMissingRule   FaultName = "missing-rule"      // the rule that should decide is not there
	FaultWrongTable    FaultName = "wrong-table"       // a rule leads to another table
	FaultForeignRule   FaultName = "foreign-rule"      // another program's rule decides
	FaultLocalFirst    FaultName = "local-first"       // table local comes before the rules of strict pods
	FaultMissingMark   FaultName = "missing-mark"      // the packet does not get the mark that it needs
	FaultWrongENI      FaultName = "wrong-eni"         // it leaves by an ENI that does not own the source
	FaultNoFilter      FaultName = "missing-filter"    // the nftables table or a part of it is not there
	FaultDropped       FaultName = "dropped"           // a rule in our table drops it that is not ours
	FaultSpoofed       FaultName = "source-not-owned"  // the pod may not send with this source
	FaultRefused       FaultName = "refused"           // policy: the metadata service
	FaultStaleNeighbor FaultName = "stale-neighbour"   // a permanent entry has an old MAC
	FaultNoNeighbor    FaultName = "missing-neighbour" // a permanent entry is not there
	FaultStrictReverse FaultName = "strict-rp-filter"  // the way back to the sender is another link
	FaultNoReverse     FaultName = "no-reverse-route"  // loose filtering, but no way back to the sender
	FaultEarlyDemux    FaultName = "early-demux"       // the kernel takes answers of strict pods for the node's
	FaultNoForwarding  FaultName = "forwarding-off"    // the node, or a link of it, is no router
	FaultLostSNAT      FaultName = "lost-snat"         // the source should be translated and is not
	FaultDiffers       FaultName = "kernel-disagrees"  // the kernel's own answer is another
)

// Note is something that Trace could not judge: what it says holds but for that.
type Note struct {
	Name   NoteName
	Detail string
}

// NoteName is one of the constants below.
type NoteName string

// What Trace leaves open.
const (
	NoteOwner       NoteName = "unknown-owner"        // which ENI owns the source
	NoteSandbox     NoteName = "unseen-sandbox"       // what is inside the pod
	NotePort        NoteName = "unknown-port"         // which port of a bridge leads to the pod
	NoteRule        NoteName = "unjudged-rule"        // a rule by something that a State does not hold
	NoteRoute       NoteName = "unjudged-route"       // a route with several ways
	NoteFilter      NoteName = "unjudged-filter"      // a rule in our nftables table that is not ours
	NoteForeign     NoteName = "foreign-filter"       // chains of other programs
	NoteTranslation NoteName = "unjudged-translation" // a rule of package snat's table that is not its own
	NoteUntouched   NoteName = "untranslated"         // nothing on the node translates this source, by design
)
