// SPDX-License-Identifier: Apache-2.0

// Package eni looks after the elastic network interfaces of one EC2 instance:
// it finds them, attaches new ones, puts addresses and delegated prefixes on
// them, takes them off again, and clears away what a crash left behind.
//
// # Parts
//
// [Client] speaks to EC2 and to the instance metadata service. Every call of
// the process goes through it, so that one place keeps the read and the write
// budget, backs off when EC2 throttles, and knows who spent what.
//
// [Manager] is the life of the ENIs of this instance. What to do next is
// decided by functions over plain values: [Merge] weighs what is seen, an
// [Intent] tells its next step, a [SubnetSelector] and the ladder of attempts say
// where addresses come from. The Manager only makes the calls they name, and
// writes each one down in [Intents] before it is made. After a crash at any
// point, [Manager.Resume] finishes or undoes what was under way.
//
// [Sweep] deletes ENIs that nobody owns any more, from a node, a controller or
// a command. [LimitsOf] and [MaxPods] say how much an instance type can carry.
//
// # What is believed
//
// EC2 and the metadata service both lag, by up to minutes, and independently.
// An [Inventory] therefore names its sources and their times, and [Merge]
// weighs them against the mutations this node made itself: an ENI or address
// counts as gone only when both sources say so after every own mutation has
// had time to show, and an address that was released here does not come back
// because an old view still lists it.
//
// A journal may be lost, old, or written by a clock that was set since. An old
// view and an old journal can put a slot in doubt, and hold an operation up for
// Config.Lag. Neither takes anything away: what is unassigned, detached or
// deleted is what Config.InUse says is free at the moment of the call. An ENI
// whose intent was lost is found by its tags: attached by Discover, else by
// [Sweep].
//
// A process that starts can be given the inventory of the one before it, as
// Config.Known, and then knows its ENIs while EC2 does not answer.
//
// # What is ours
//
// A Manager changes only ENIs that carry its owner tag and this instance's ID,
// and addresses of the primary ENI. Everything else (an ENI of the user, the
// trunk of a controller, one tagged node.k8s.amazonaws.com/no_manage) is seen,
// counted against the limits, and left alone.
//
// # Permissions
//
// A node needs ec2:DescribeNetworkInterfaces, ec2:CreateNetworkInterface,
// ec2:AttachNetworkInterface, ec2:ModifyNetworkInterfaceAttribute,
// ec2:DetachNetworkInterface, ec2:DeleteNetworkInterface, ec2:CreateTags and
// ec2:AssignPrivateIpAddresses / ec2:UnassignPrivateIpAddresses (and their
// IPv6 twins). ec2:DescribeSubnets is needed by selectors that look at other
// subnets than the primary ENI's, ec2:DescribeInstanceTypes for types that the
// built-in table does not know.
//
// No goroutine of the package outlives the call that needs it. Its exported
// signatures hold no AWS SDK types but for [NewClient].
package eni
