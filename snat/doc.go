// SPDX-License-Identifier: Apache-2.0

// Package snat translates the source of packets that pods send out of the VPC to the
// node's primary address. It makes such flows use the primary ENI in both directions,
// and makes the answers of a connection to a node port leave by the ENI that the
// connection entered by.
//
// [Config] describes the translation, [Config.Ruleset] computes the rules, and a
// [Handle] puts them into the kernel's nftables. A Ruleset prints itself as nft text:
// that is its dry run, and the tests compare it. There is a second backend, see iptables
// below.
//
// # Why marks
//
// A pod's packets leave by the ENI that owns the pod's address; on another ENI the VPC
// drops them. But a translated packet has the primary address as its source and must
// leave by the primary ENI. The kernel chooses the route before it translates the
// source, so the decision must be made before. One bit of the packet's mark, 0x80,
// carries it: a routing rule of package datapath (priority 1024, fwmark 0x80/0x80
// lookup main) sends marked packets by the primary ENI. The same bit of the
// connection's mark stores the decision for the rest of the flow. The rules change no
// other bits of both marks, except those of [Config.ReturnMask].
//
// # A flow out of the VPC
//
// From a pod on a second ENI to a host in the internet:
//
//	pod ── eni… ─▶ prerouting
//	                 -200 connection tracking: the flow is new
//	                 -100 kube-proxy, if it was for a Service: destination rewritten
//	                  -90 chain pods: new, destination outside and not the node's
//	                      own: connection mark 0x80, so packet mark 0x80
//	               route: rule 1024, main table, primary ENI
//	               postrouting
//	                  100 kube-proxy's masquerading, which comes first
//	                  110 chain source: leaves by the primary ENI, destination
//	                      outside, source not the node's own: node's address and
//	                      a random port
//	            ── ens5 ─▶ internet
//
// The answer arrives at the primary ENI for the node's address; connection tracking
// restores the pod's address before the kernel chooses the route. Reverse path filtering
// then looks up the route from the pod's address to the internet, which uses another
// ENI: the primary ENI needs rp_filter 2 or 0.
//
// The chain at -90 is a filter chain and not a nat chain, because a flow that has been
// rewritten skips nat chains. It comes after the rewriting at -100 in every mode of
// kube-proxy, so that it sees the endpoint and not the Service's address. A Service with
// endpoints outside the VPC works as well as one with endpoints inside.
//
// The rules decide once, on a flow's first packet. When the rules change, existing flows
// keep their translation and their route.
//
// # A flow in through a node port
//
// From a client to a port of the node that is forwarded to a pod on a second ENI:
//
//	client ── ens5 ─▶ prerouting
//	                 -150 chain node-port: new, for the node: connection mark 0x80
//	                 -100 kube-proxy: destination is now the pod
//	               ── eni… ─▶ pod
//	pod ── eni… ─▶ prerouting
//	                  -90 chain pods: connection mark 0x80, so packet mark 0x80
//	               route: main table, primary ENI
//	               postrouting: connection tracking puts the node's address back
//	            ── ens5 ─▶ client
//
// Without the mark the answer would leave by the pod's ENI, with a source that
// this ENI does not own.
//
// A node port answers at the addresses of the other ENIs too: the answer has the address
// of that ENI, and only that ENI may send it. [Config.Returns] has a number for each
// ENI. The connection's mark stores the number in seven more bits, and the marks of
// answers get it:
//
//	client ── ens6 ─▶ prerouting
//	                 -150 chain node-port: connection mark 0x01
//	                 -100 kube-proxy: destination is now the pod
//	               ── eni… ─▶ a pod here; or ens5 ─▶ another node, masqueraded
//	answer ─────────▶ prerouting
//	                 -100 connection tracking: the masquerading is undone
//	                  -90 chains pods, returns: packet mark 0x01, instead of the
//	                      mark by the source
//	               route: fwmark 0x1, the table of ens6 (package datapath)
//	            ── ens6 ─▶ client
//
// # Repair
//
// [Handle.Watch] repairs the table when another program changes it: when it flushes the
// ruleset, a chain or a set, deletes an element, a rule or the table, or adds a rule or a
// chain. The kernel reports each transaction. The repair replaces the table in one
// transaction, as Apply does, so that flows keep their translation and no packet meets a
// part of the rules. Between the change and the repair, one to a few milliseconds, new
// flows follow the changed rules, and keep doing so.
//
// Changes by the Handle itself are not repaired. The Handle stores the content that it
// last applied, so Apply may be called at any time.
//
// # iptables
//
// [Config.Iptables] computes the same rules for iptables, and package snat/iptables applies
// them. That is for nodes whose rules are audited or changed with iptables; elsewhere
// nftables is better. Package datapath has its table in nftables with either backend.
// iptables has no hook between the rewriting of destinations at -100 and the choice of the
// route, so a part of the decision moves:
//
//	prerouting
//	   -150 mangle, chain VPCNET-MARKS: marks node ports and the packets of decided flows
//	   -100 nat: kube-proxy first; only packets that it does not rewrite come to chain
//	        VPCNET-PODS: destination outside and not the node's own: connection mark
//	        0x80, packet mark 0x80
//	postrouting
//	    100 nat: kube-proxy first; then chain VPCNET-SOURCE: node's address
//
// A flow to a Service is therefore not marked, and leaves by the ENI of its pod. That is
// right for endpoints in the VPC, and wrong for endpoints outside of it: on second ENIs the
// VPC drops such packets. A kube-proxy in nftables mode rewrites at -100 too, before or
// after iptables, which depends on the program that started last: exclude the prefix of the
// Services then. [IptablesRuleset.Limits] says so.
//
// The jump to VPCNET-PODS must be the last rule of its chain. Watch moves it there if another
// program has appended a rule.
//
// [Config.Trace] tells for one flow what the rules of each backend do to it, and which.
//
// Changing one excluded prefix, and checking the rules, beside the rules of a kube-proxy in
// iptables mode for 0 and 5,000 Services (milliseconds; BenchmarkApply, BenchmarkCheck and
// BenchmarkLibrary of package snat/iptables, version 1.8.9, in one run with real-time
// priority on two processors):
//
//	                        change         check
//	Services               0   5,000      0   5,000
//	nftables               2       2
//	iptables-nft          47     697     27     678
//	iptables-legacy       35     317     33     170
//
// The number of pods on the node makes no difference, because no rule is that of a pod.
//
// One program for each chain and rule, as go-iptables starts them, takes 271 and 331 ms with
// iptables-nft, and 222 and 2,953 ms with iptables-legacy. It is faster for iptables-nft with
// many Services, because it does not list the foreign rules; but between its programs packets
// meet a part of the rules.
//
// # What stays as it is
//
// The rules do not change packets to the VPC and to excluded prefixes, packets of the
// node itself with any source, and the addresses of IPv6 packets, which need no
// translation (node ports are marked for both families). They are in a table of their
// own; the package changes no other table, except for [Egress].
//
// # Egress of the other family
//
// Pods of a cluster with one family reach hosts of the other by the node's address of that
// family, also hosts in the VPC. [Egress] describes such a pod, and package cniplugin/egress
// is the plugin that makes its link. The translations are in further tables, which
// [Handle.Apply] and [Handle.Watch] leave alone.
package snat
