// SPDX-License-Identifier: Apache-2.0

// Package cniplugin is a CNI plugin that gives pods addresses of the VPC. It also
// has the protocol between the plugin and the agent of its node, and the network
// configuration list that makes a container runtime use the plugin.
//
// # The parts
//
// A runtime executes the plugin for each pod. [Plugin.Main] is the whole plugin,
// and examples/vpc-cni is the program around it. The plugin does not know EC2, nor
// which addresses are free. It asks the agent for addresses over a unix socket,
// with a [Client], wires the pod with package datapath, and prints the result. The
// agent is a [github.com/vpcnet/vpcnet/cniplugin/server.Server] over a backend, as
// in examples/ipamd. A [Conflist] tells the runtime to use the plugin.
//
//	runtime ── environment, configuration ──▶ plugin ── AddRequest ───▶ agent
//	runtime ◀── result or error as JSON ───── plugin ◀── AddResponse ── agent
//	                                            │
//	                                            └─▶ kernel: veth pair, addresses, routes, rules
//
// Another agent needs one type and a few lines:
//
//	type addresses struct{ … } // implements server.Backend
//
//	l, err := server.Listen(cniplugin.DefaultSocket)
//	if err != nil {
//		return err
//	}
//	// Release the addresses of pods that were deleted while no agent was running.
//	_, err = server.CollectTombstones(ctx, cniplugin.TombstoneDir(cniplugin.DefaultStateDir), release)
//	if err != nil {
//		log.Warn("some addresses stay in use", "err", err)
//	}
//	// From here on the runtime calls the plugin.
//	if _, err := server.WriteConflist("/etc/cni/net.d/10-vpcnet.conflist", cniplugin.DefaultStateDir, cniplugin.Conflist{}); err != nil {
//		return err
//	}
//	return (&server.Server{Backend: addresses{…}, Logger: log}).Serve(ctx, l)
//
// # Other allocators and other wirings
//
// A Plugin asks its [Allocator] for addresses and connects the pod with its [Wiring].
// Nil stands for the agent and for package datapath. An Allocator needs two methods,
// and so does a Wiring:
//
//	Plugin{Allocator: …}             a plugin without an agent (examples/standalone), or
//	                                 with upstream's host-local (examples/plugins/hostlocal)
//	Plugin{Wiring: …}                another datapath (examples/plugins/ptp)
//	Plugin{Allocator: …, Wiring: …}  only the commands, versions, locks and errors
//
// With an Allocator, DEL fails if the addresses cannot be released, and leaves no
// tombstone, because no agent collects it. In the per-pod layout a pod is connected to
// its node without any further preparation; the flat layout needs EnsureNode of package
// datapath.
//
// Results, errors and configurations are those of github.com/containernetworking/cni:
// [Result], [Error], and [NetConf] with its types.PluginConf.
//
// # What runtimes and operators can ask for
//
// ADD does what these values ask for, or refuses them by name, also if another value
// precedes them. CHECK refuses the same values; DEL, GC and STATUS do not read those of
// the runtime. A value that is empty asks for nothing.
//
//	CNI_ARGS IP                 these addresses, at most one of each family, separated by
//	runtimeConfig.ips           commas or in a list. A length such as /24 has no meaning.
//	args.cni.ips                The agent gives exactly these, or a reason such as in-use.
//	CNI_ARGS MAC                this unicast MAC for the pod's interface
//	runtimeConfig.mac
//	args.cni.mac
//	CNI_ARGS K8S_POD_*          names the pod in logs and errors
//	CNI_ARGS, unknown key       refused, unless IgnoreUnknown is 1 or true
//	runtimeConfig.io.kubernetes.cri.pod-annotations
//	                            passed on in the AddRequest, at most 256 KiB; the agent
//	                            examples/ipamd ignores them
//	runtimeConfig.portMappings  refused: a chained portmap plugin with the capability makes
//	                            them, as in a list with Conflist.Chained
//	runtimeConfig.bandwidth     refused: a chained bandwidth plugin does this
//	runtimeConfig, other        refused: a runtime passes a capability only if the list
//	                            gives it to this plugin
//	args, other                 ignored, because args is for all plugins
//	mtu                         68 to 65535, as a number or a text
//	vethPrefix                  1 to 4 characters, a-z and 0-9; must be the agent's
//	pluginLogFile               an absolute path, or stderr
//	pluginLogLevel              debug, info, warn, error, or fatal, which logs nothing
//	mode                        eni, ipvlan or bridge: how pods are joined to the VPC
//	securityGroups              IDs of at most 16 security groups, for which each pod gets
//	                            a branch ENI, or with the mode eni a whole ENI
//	podSGEnforcingMode          strict or standard; must be the agent's
//	runtimeConfig.securityGroups
//	                            replaces securityGroups
//	enabled, randomizeSNAT, nodeIP
//	                            refused: they are those of a plugin for egress, see
//	                            package egress
//	ipam                        refused without an own Allocator
//	unknown fields              ignored
//
// For addresses and for the MAC, runtimeConfig precedes args.cni, which precedes
// CNI_ARGS. The list must give the capabilities ips and mac to the plugin; that of
// examples/ipamd does.
//
// # What each command does
//
//	ADD      takes addresses from the agent, wires the pod and prints the result. A
//	         repeated ADD gives the same result. If a step fails, ADD undoes the
//	         earlier steps.
//	DEL      takes the pod's names, addresses, routes and rules from the kernel, then
//	         releases the addresses. When it has ended, an ADD of any plugin can use the
//	         sandbox and the interface name. The agent deletes the link some
//	         milliseconds later; without an agent, DEL does. It succeeds without a
//	         sandbox, a result or an agent, and however often it is called.
//	CHECK    compares the result of ADD, the addresses that the agent has allocated,
//	         and the state of the kernel.
//	GC       removes the attachments that hold addresses and are not in the runtime's
//	         list, except those that another command is working on. It needs the
//	         list: cnitool 1.3 sends none.
//	STATUS   asks the agent whether it could serve an ADD. It waits up to 10 s for an
//	         agent that restarts.
//	VERSION  prints the supported versions of the specification.
//
// The plugin supports all versions of the specification from 0.1.0 to 1.1.0, each
// with the commands and result fields that it has. A configuration without cniVersion
// has version 0.1.0. ADD adds its own interfaces, addresses and routes to a
// prevResult. It keeps all entries, with fields that it does not know. A result of a
// version before 0.3.0 has one address of each family, so there the address of an
// earlier plugin stays. A second interface of a sandbox, beside another of this plugin or
// the default route of another plugin, has its own gateway and route table in the
// sandbox; routes in results of version 1.1.0 name that table.
//
// DEL and GC need only the name of the network, the socket and the state directory. If
// the configuration is invalid, they use what they can read of these and log a warning.
// A socket or directory that cannot be read has its default value. Without a name DEL
// asks the agent for the container and interface in any network, and GC fails, because
// the attachments in its list belong to a network.
//
// # Errors
//
// Errors have the specification's codes where it defines one: 1 for a version, 2
// for a field, 3 for a sandbox or attachment that does not exist, 4 for the
// environment, 5 for standard input and output, 6 for JSON, 7 for a value in the
// configuration, 11 for a temporary failure, and 50 and 51 in answer to STATUS.
// Codes from 100 on are those of [Code]. A panic of an Allocator or a Wiring has code
// 999. The plugin prints an [AgentError] with its code and details unchanged, and with
// its reason in front of its message. [CNIError] does the same for other programs:
//
//	{
//	    "cniVersion": "1.0.0",
//	    "code": 11,
//	    "msg": "subnet-full: subnet-0a1b has no free address",
//	    "details": "InsufficientFreeAddressesInSubnet 3 s ago; retry after 27s"
//	}
//
// # Concurrent commands
//
// A runtime that restarts or times out calls the plugin for an attachment while an
// earlier call has not ended. So ADD, DEL, the removal of one attachment by GC, and
// the collection of its tombstone hold the lock of the attachment. The lock is an
// open file description lock (F_OFD_SETLK) on one byte of the file tombstones/lock
// in the state directory, at an offset that is a hash of the attachment. The lock
// ends with the process and needs no clean-up. CHECK changes nothing and takes no
// lock.
//
//	ADD         waits for the lock within its deadline, then fails: code 11, attachment-busy
//	DEL         waits 5 s, then goes on without the lock and logs a warning
//	GC          does not wait: it leaves the attachment to the command that holds the lock
//	collection  does not wait: the tombstone stays for the next collection
//
// Before a DEL goes on without the lock it writes a tombstone, and then it deletes
// everything that the ADD that holds the lock has wired so far. That ADD may have
// been stopped, and another pod may have its addresses when it is resumed. So an
// ADD that has held the lock for 4 s, which is less than any DEL waits, confirms its
// allocation before it wires the pod and again afterwards: there must be no
// tombstone, and the agent must answer that the attachment holds exactly the
// addresses that it gave. Otherwise, or if the agent does not answer, the ADD undoes
// the wiring, releases the addresses, and fails: code 11, address-lost or the
// agent's reason. A faster ADD makes no further call. Between the two checks,
// package datapath refuses an address that leads to another pod: code 11,
// address-taken.
//
// # Deadlines
//
// The timeout of the configuration, 60 s by default, bounds ADD, CHECK, GC and
// STATUS. ADD reserves a tenth of it, and at most a second, for undoing its steps.
// The undo also gets a second if the deadline has passed, because the process was
// stopped or the kernel was slow. The timeout does not bound DEL, because a DEL that
// gives up achieves nothing. If the agent does not answer, DEL ends after 3 s, or
// after about 1 s if it had to ask which addresses the pod has. After a call has
// timed out, the same command waits 100 ms for each further release, and then
// leaves a tombstone.
//
// # When the agent is away
//
// ADD waits for the agent until its deadline and then fails with code 11. It waits
// that long because after a failed ADD the runtime pauses for some 10 s. If a call
// breaks because the agent is killed, the plugin repeats it with the next agent.
// DEL does not wait: it deletes the pod from the kernel and writes a [Tombstone],
// which survives a crash of the machine. The agent releases the addresses when it
// collects the tombstone, see package server. An ADD of the same attachment removes
// the tombstone before it asks for addresses, so that an old DEL never releases the
// addresses of a new ADD. For the same reason the server does not carry out the
// request of a plugin that has ended.
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
// The response has status 200; an AgentError has any other status. The header
// Vpcnet-Timeout says how long the plugin will wait. Every call may be repeated,
// and the plugin repeats a call during which the agent ends.
//
//	$ curl --unix-socket /run/vpcnet/agent.sock http://agent/v1/check \
//	       -d '{"network":"vpcnet","containerID":"4f1c","ifName":"eth0"}'
//	{"addresses":[{"addr":"10.0.1.23","eni":"eni-0a1b","card":0,"device":1,"table":2}],
//	 "layout":"flat","mtu":9001,"hostLinkPrefix":"eni"}
//
// Plugins and agents of different releases work together: both ignore unknown
// fields, and the zero value of a new field stands for the earlier behaviour. An
// agent answers a call that it does not support with an AgentError of reason
// agent-protocol. The agent gets the user of the caller from the kernel; by default
// it serves root and its own user.
package cniplugin
