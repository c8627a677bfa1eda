// SPDX-License-Identifier: Apache-2.0

// Package snat translates the source of what pods send out of the VPC to the
// node's primary address, and sees to it that such flows use the primary ENI in
// both directions, and flows that came in through a node port the ENI that they
// came in by.
//
// [Config] says what is wanted, [Config.Ruleset] computes the rules, and a
// [Handle] makes the kernel's nftables hold them. A Ruleset prints itself as nft
// text: that is its dry run, and what its tests compare.
//
// # Why marks
//
// A pod's packets leave by the ENI that owns the pod's address; the VPC drops
// them anywhere else. But a translated packet has the primary address as its
// source and has to leave by the primary ENI. The route is chosen before the
// source is translated, so the decision has to be known by then. One bit of the
// packet's mark, 0x80, carries it: a routing rule (it belongs to package
// datapath: priority 1024, fwmark 0x80/0x80 lookup main) sends marked packets by the primary
// ENI. The same bit of the connection's mark remembers it for the rest of the
// flow. All other bits of both marks are left alone, but for those of
// [Config.ReturnMask].
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
// The answer arrives at the primary ENI for the node's address; connection
// tracking puts the pod's address back before the route is chosen. The check of
// the reverse path looks for the way to the internet from the pod's address, which
// is not the primary ENI: that ENI needs rp_filter 2 or 0.
//
// The chain at -90 is a filter chain and not a nat chain, since nat chains are
// not asked about a flow once somebody has rewritten it, and it comes after the
// rewriting at -100, whatever mode kube-proxy is in: so it sees the endpoint and
// not the Service's address, and a Service with endpoints outside the VPC works
// as well as one with endpoints inside.
//
// The decision falls once, on a flow's first packet. Flows that exist when the
// rules change go on as they began.
//
// # A flow in through a node port
//
// From a client to a port of the node behind which is a pod on a second ENI:
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
// A node port answers at the addresses of the other ENIs too, and what holds for
// the primary ENI holds for each of them: the answer has that ENI's address, and
// only that ENI may send it. [Config.Returns] has a number for each, which the
// connection's mark remembers in seven more bits, and which returns in the marks
// of answers:
//
//	client ── ens6 ─▶ prerouting
//	                 -150 chain node-port: connection mark 0x01
//	                 -100 kube-proxy: destination is now the pod
//	               ── eni… ─▶ a pod here; or ens5 ─▶ another node, masqueraded
//	answer ─────────▶ prerouting
//	                 -100 connection tracking: the masquerading is undone
//	                  -90 chains pods, returns: packet mark 0x01, instead of what
//	                      the source had chosen
//	               route: fwmark 0x1, the table of ens6 (package datapath)
//	            ── ens6 ─▶ client
//
// # Repair
//
// [Handle.Watch] repairs the table when another program changes it: a flushed
// ruleset, chain or set, a deleted element, rule or table, a rule or chain that
// is not ours. The kernel reports each transaction, and the repair is the same
// replacement in one transaction as Apply's, so flows keep their translation, and
// no packet meets a half of the rules. Between the change and the repair, one to
// a few milliseconds, new flows go by the changed rules and stay with that.
//
// What the Handle has put into the table itself is no change by others. The handle
// remembers it, so an Apply may come at any time.
//
// # What stays as it is
//
// Traffic to the VPC and to excluded prefixes; traffic of the node itself,
// whatever its source; IPv6, whose addresses need no translation (node ports are
// marked for both families); and every table that is not ours.
package snat
