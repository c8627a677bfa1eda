// SPDX-License-Identifier: Apache-2.0

// Package eni manages the elastic network interfaces of one EC2 instance. It
// discovers them, attaches new ones, assigns addresses and delegated prefixes
// to them, unassigns those again, and cleans up after a crash.
//
// # Parts
//
// [Client] makes all calls of the process to EC2 and to the instance metadata
// service. It keeps a read and a write budget, backs off when EC2 throttles,
// and reports every call to ClientConfig.OnCall.
//
// [Manager] manages the ENIs of this instance. Pure functions decide what to do
// next: one merges what the sources show into an [Inventory], an [Intent]
// determines its own next step, and a [SubnetSelector] and the list of attempts
// determine where addresses come from. The Manager makes the calls that these
// functions choose, and journals each one in [Intents] before it makes it.
// After a crash at any point, [Manager.Resume] finishes or undoes the
// unfinished operations.
//
// [Sweep] deletes ENIs that have lost their owner. It works on a node, in a
// controller or in a command. Package eni/instancetype holds how many ENIs and
// pods an instance type supports.
//
// # Conflicting sources
//
// EC2 and the metadata service both lag, by up to minutes, and independently of
// each other. An [Inventory] therefore names its sources and their times, and
// the Manager weighs them against the changes that this node made itself. An
// ENI or address counts as gone only when both sources omit it after each change
// by this node has had time to appear. An address that this node released does
// not return because an old view still lists it.
//
// A journal may be lost, old, or written before the clock was set. An old view
// and an old journal can put a slot in doubt, and can delay an operation by
// Config.Lag. Neither takes anything away: the Manager unassigns, detaches and
// deletes only what Config.InUse reports as free at the moment of the call. An
// ENI with a lost intent is found by its tags: by Discover if it is attached,
// else by [Sweep].
//
// A new process can receive the inventory of the previous one as Config.Known.
// It then knows its ENIs while EC2 does not answer.
//
// # Errors of EC2
//
// One table says for each error of EC2 which [Reason] it has and whether the
// Manager has to look at the object before it believes or repeats the call. A code
// that the table lacks is neither a success nor final: the Manager looks, the
// Client counts it as Call.Unknown, and the operation is tried again later. Within
// Config.Lag of a change, an answer that an object does not exist or is in the
// wrong state is not final either.
//
// After EC2 has denied an action, the operation rests for 2 to 16 minutes: it
// returns ErrUnauthorized with RetryAfter and makes no call. An operation that has
// created an ENI and removed it again after a refusal rests for 30 seconds to 16
// minutes. An action that fails for another reason is called again after 1 to 30
// seconds, whichever operation calls it.
//
// A call that could not be sent or signed says nothing about its object, so an ENI
// that is half made stays in the journal until the call is possible. An answer that EC2
// did not write, such as the page of a proxy, or that does not arrive as a whole, is
// a lost answer whatever its HTTP status is.
//
// # Managed ENIs
//
// A Manager changes only ENIs that carry its owner tag and this instance's ID,
// and addresses of the primary ENI. It lists all other ENIs (an ENI of the user,
// the trunk of a controller, one tagged node.k8s.amazonaws.com/no_manage, one
// that a service of AWS manages, also if it is the primary ENI or hidden),
// counts them against the limits, and does not change them.
//
// # Permissions
//
// A node needs ec2:DescribeNetworkInterfaces, ec2:CreateNetworkInterface,
// ec2:AttachNetworkInterface, ec2:ModifyNetworkInterfaceAttribute,
// ec2:DetachNetworkInterface, ec2:DeleteNetworkInterface, ec2:CreateTags and
// ec2:AssignPrivateIpAddresses / ec2:UnassignPrivateIpAddresses (and their
// IPv6 twins). Selectors that use other subnets than the primary ENI's need
// ec2:DescribeSubnets, and CheckPlacement ec2:DescribeSecurityGroups. Instance
// types that the built-in table lacks need
// ec2:DescribeInstanceTypes.
//
// An action that the role lacks costs one attempt and a rest, see above.
//
// Each goroutine of the package ends with the call that started it. Exported
// signatures contain no AWS SDK types, except that of [NewClient].
package eni
