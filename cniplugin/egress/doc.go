// SPDX-License-Identifier: Apache-2.0

// Package egress is a chained CNI plugin that gives pods access to hosts of the family that
// their cluster does not have: IPv6 in an IPv4 cluster, and IPv4 in an IPv6 cluster. The
// pod gets a further interface with an address that only its node knows, and appears to all
// hosts as the node. No host opens connections to that address, and the pods of a node do
// not reach each other by it.
//
// examples/egress-cni is the program. It takes the place of the program egress-cni of
// amazon-vpc-cni-k8s, with the same configuration. It is independent of package cniplugin
// and its agent, and follows any plugin in a list.
//
// # A flow out of a pod
//
// From a pod of an IPv4 cluster to an IPv6 host:
//
//	pod v6if0 fd00::ac:2
//	   default via fe80::1, a permanent entry with the MAC of the node's end
//	── eg6… ─▶ prerouting
//	             -90 drop a source that is not the pod's, refuse new flows to pods
//	           route: table main of the node
//	           postrouting
//	             105 the node's IPv6 address and a random port
//	        ── ens5 ─▶ host
//
// Connection tracking restores the pod's address in the answer, and a route of table main
// leads to the pod. Packet too big and other ICMP errors return the same way. The tables
// are those of [github.com/vpcnet/vpcnet/snat.Egress].
//
// # The configuration
//
// The fields have the names of amazon-vpc-cni-k8s. ADD and CHECK refuse other values by
// name; a field that is missing has the value of "".
//
//	enabled          "true"; with "false" or "" the plugin prints the prevResult unchanged
//	nodeIP           the node's address that packets get. Its family is the family of the
//	                 egress. Needed if enabled.
//	ipam             the IPAM plugin, host-local as a rule, which must give one address of
//	                 that family. Its routes lead into the interface; without routes that
//	                 is the default route. A route with a gateway is refused.
//	mtu              68 to 65535, at least 1280 for IPv6, as a number or a text; "" means
//	                 1500
//	randomizeSNAT    prng, hashrandom or none; "" means prng
//	pluginLogFile    an absolute path, or stderr; "" means stderr
//	pluginLogLevel   debug, info, warn, error, or fatal, which logs nothing
//	stateDir         a directory for the records of attachments, which need not survive
//	                 a reboot; "" means /run/vpcnet/egress
//
// # What each command does
//
//	ADD      takes an address from the IPAM plugin, makes the interface v6if0 or v4if0,
//	         and prints the prevResult with the two ends of the new link, without its
//	         address. A result of a version before 0.3.0 has no interfaces and stays as
//	         it is. A repeated ADD has the same result. If a step fails, ADD undoes the
//	         earlier steps. It refuses a pod that has an address of the family.
//	DEL      removes the link, the translation and the address. It needs no sandbox and no
//	         prevResult, and may be repeated. It removes what ADD made also if the
//	         configuration says meanwhile that the plugin is disabled.
//	CHECK    compares the prevResult, the IPAM plugin, the links, addresses, routes and
//	         neighbours of both sides, the settings and the tables with what ADD made.
//	GC       removes the attachments of the network that the runtime does not list, then
//	         calls the GC of the IPAM plugin.
//	STATUS   succeeds if the IPAM plugin is there.
//
// ADD writes a record of the attachment before its first step, and DEL removes it after
// its last, so that DEL and GC find everything if the plugin was killed or the sandbox is
// gone. DEL removes the translation before it releases the address.
//
// Nothing watches the tables: the plugin ends with each call, and runs also on nodes without
// an agent of this module. ADD of any pod makes the translations of all pods that have a
// record, so that a table which another program has flushed lasts until the next ADD, and
// CHECK reports it.
//
// ADD switches on forwarding of the family if it is off. For IPv6 it first sets accept_ra of
// the link that has nodeIP to 2: otherwise the kernel would drop the node's default route.
// The sandbox keeps its other interfaces, routes and settings as they are.
package egress
