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
//	GC       removes the attachments that the agent holds and the runtime does not list,
//	         but for those that another command is working on.
//	STATUS   asks the agent whether an ADD would be served; it waits up to 10 s for one
//	         that restarts.
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
// # Commands that meet
//
// Runtimes call the plugin for one attachment while an earlier call has not
// ended: they restart, or lose patience. So ADD, DEL, the removal of one
// attachment by GC, and the collection of its tombstone hold the lock of the
// attachment: one byte of the file tombstones/lock in the state directory, at an
// offset that is a hash of the attachment, with the kernel's open file description
// locks (F_OFD_SETLK). The lock ends with the process and needs no clean-up. CHECK,
// which changes nothing, takes none.
//
//	ADD         waits for the lock within its deadline, then fails: code 11, attachment-busy
//	DEL         waits 5 s, then goes on without it, with a warning in the log
//	GC          does not wait: the command that holds the lock decides over the attachment
//	collection  does not wait: the tombstone stays for the next one
//
// A DEL that goes on without the lock first leaves a tombstone, and what the ADD
// that holds the lock has wired until then, it deletes. That ADD may have been
// stopped, and its addresses may have another pod when it goes on. So an ADD that
// has had the lock for 4 s, less than any DEL waits, confirms its allocation before
// it wires the pod and again afterwards: there must be no tombstone, and the agent
// must say that the attachment holds exactly the addresses that it gave. Otherwise, or
// if the agent does not answer, the ADD takes back what it has wired, releases,
// and fails: code 11, address-lost or the agent's reason. An ADD that takes less time
// makes no further call. Between the two looks package datapath refuses an address
// that leads to another pod: code 11, address-taken.
//
// # Deadlines
//
// The timeout of the configuration, 60 s unless it says otherwise, bounds ADD,
// CHECK, GC and STATUS. ADD keeps a tenth of it, at most a second, for undoing what it
// has done. A second is also what an undo gets after the deadline, if the process was
// stopped or the kernel was slow. DEL has no deadline of the configuration, as nothing
// is won by giving up; without an answer of the agent it ends after 3 s, or after
// about 1 s if it had to ask which addresses the pod has. Once a call has run into its
// timeout, the same command waits 100 ms for any further release, and then leaves a
// tombstone.
//
// # When the agent is away
//
// ADD waits for it until its deadline, because a failed ADD costs the pod the
// runtime's pause of some 10 s, and then fails with code 11. A call that breaks off,
// because the agent is killed, is sent again to the next agent. DEL does not wait: it
// cleans the kernel and writes a [Tombstone], which survives a crash of the machine
// and from which the agent learns what to release when it calls
// [CollectTombstones]. An ADD of the same attachment takes its tombstone away before
// it asks for addresses, so that an old DEL never releases what a new ADD was given.
// For the same reason the server does not carry out the request of a plugin that
// has gone.
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
