// SPDX-License-Identifier: Apache-2.0

// Package cniplugin is a CNI plugin that gives pods addresses of the VPC, the
// protocol it speaks with the agent of its node, and the network configuration
// list that makes a container runtime use both.
//
// # The parts
//
// A runtime executes the plugin for each pod; [Plugin.Main] is all of it, and
// examples/vpc-cni the program around it. The plugin knows nothing of EC2 and of
// which addresses are free: it asks the agent, with a [Client], over a unix
// socket, wires the pod with package datapath, and prints the result. The agent
// is a [github.com/vpcnet/vpcnet/cniplugin/server.Server] over a backend, as in
// examples/ipamd. A [Conflist] names the plugin to the runtime.
//
//	runtime ── environment, configuration ──▶ plugin ── AddRequest ───▶ agent
//	runtime ◀── result or error as JSON ───── plugin ◀── AddResponse ── agent
//	                                            │
//	                                            └─▶ kernel: veth pair, addresses, routes, rules
//
// An agent of one's own needs one type and a few lines:
//
//	type addresses struct{ … } // implements server.Backend
//
//	l, err := server.Listen(cniplugin.DefaultSocket)
//	if err != nil {
//		return err
//	}
//	// A plugin that found nobody until now has left a tombstone.
//	_, err = cniplugin.CollectTombstones(ctx, cniplugin.TombstoneDir(cniplugin.DefaultStateDir), release)
//	if err != nil {
//		log.Warn("some addresses stay in use", "err", err)
//	}
//	// From here on the runtime calls the plugin.
//	if _, err := (cniplugin.Conflist{}).WriteFile("/etc/cni/net.d/10-vpcnet.conflist"); err != nil {
//		return err
//	}
//	return (&server.Server{Backend: addresses{…}, Logger: log}).Serve(ctx, l)
//
// # What each command does
//
//	ADD      takes addresses from the agent, wires the pod, prints the result. The same
//	         again gives the same. If a step fails, the steps before it are undone.
//	DEL      takes the pod out of the kernel, then gives the addresses back. It succeeds
//	         without sandbox, result or agent, and as often as it is called.
//	CHECK    compares what the runtime was told, what the agent holds, what the kernel has.
//	GC       removes the attachments that the agent holds and the runtime does not list.
//	STATUS   asks the agent whether an ADD would be served.
//	VERSION  needs nothing.
//
// All versions of the specification from 0.3.0 to 1.1.0 are spoken, each with
// the commands and result fields that it has. A prevResult is kept, and added to.
//
// # Errors
//
// Errors have the specification's codes where it has one: 1 for a version, 2 for
// a field, 3 for a sandbox or attachment that is not there, 4 for the
// environment, 5 for standard input and output, 6 for JSON, 7 for a value in the
// configuration, 11 for what will pass, 50 and 51 in answer to STATUS. The codes
// from 100 on are those of [Code]. An [AgentError] comes through with its code
// and details as they are, and its reason in front of its message:
//
//	{
//	    "cniVersion": "1.0.0",
//	    "code": 11,
//	    "msg": "subnet-full: subnet-0a1b has no free address",
//	    "details": "InsufficientFreeAddressesInSubnet 3 s ago; retry after 27s"
//	}
//
// # When the agent is away
//
// ADD waits some seconds for it, because an agent restarts faster than that, and
// then fails with code 11. DEL does not wait: it cleans the kernel and writes a
// [Tombstone], which survives a crash of the machine and from which the agent
// learns what to release when it calls [CollectTombstones]. An ADD of the same
// attachment takes its tombstone away before it asks for addresses, so that an
// old DEL never releases what a new ADD was given.
//
// # The protocol
//
// A call is an HTTP/1 POST of a JSON object to the agent's socket, on a
// connection of its own:
//
//	/v1/add     AddRequest    ▶ AddResponse
//	/v1/del     DelRequest    ▶ DelResponse
//	/v1/check   CheckRequest  ▶ AddResponse
//	/v1/gc      GCRequest     ▶ GCResponse
//	/v1/status  {}            ▶ {}
//
// Status 200 comes with the response; any other with an AgentError. The header
// Vpcnet-Timeout says for how long the plugin will wait. Every call may be
// repeated, and is, when the agent goes away half way through.
//
//	$ curl --unix-socket /run/vpcnet/agent.sock http://agent/v1/check \
//	       -d '{"network":"vpcnet","containerID":"4f1c","ifName":"eth0"}'
//	{"addresses":[{"addr":"10.0.1.23","eni":"eni-0a1b","card":0,"device":1,"table":2}],
//	 "layout":"flat","mtu":9001,"hostLinkPrefix":"eni"}
//
// Plugin and agent of different releases work together: both ignore fields that
// they do not know, and new fields have a zero value that means what was done
// before. A call that an agent does not have is answered with an AgentError of
// reason agent-protocol. The kernel tells the agent which user calls; by default
// root and the agent's own user may.
package cniplugin
