// SPDX-License-Identifier: Apache-2.0

package enitest

import "time"

// Config configures a Cloud. The zero value is a cloud in us-west-2 where every
// change takes effect at once and no call fails without a reason.
type Config struct {
	// Region is the region of the API. Empty means us-west-2.
	Region string
	// Account is the account that owns all resources. Empty means 123456789012.
	Account string
	// Delays are the durations of asynchronous operations.
	Delays Delays
	// Lag is the time by which answers lag behind the state.
	Lag Lag
	// Throttle limits the rate of calls. Nil means no limit.
	Throttle *Throttle
	// Types are instance types that add to the table of package instancetype, or replace
	// its entries of the same name.
	Types []InstanceType
	// HideManaged is the setting of the account that Describe calls do not show the
	// resources that a service manages through an operator, see InstanceInput.Operator, in
	// calls without IncludeManagedResources. The call ModifyManagedResourceVisibility
	// changes it.
	HideManaged bool
	// AuditSize is the maximum number of calls in the audit log. 0 means 10,000.
	AuditSize int
}

// auditSize is the default of Config.AuditSize.
const auditSize = 10_000

// Delays are the durations of the operations that EC2 does asynchronously, and of
// the calls. Zero means that there is no delay.
type Delays struct {
	// Attach is how long an attachment is "attaching" before it is "attached" and
	// metadata shows it. Hooks are called when the call is made.
	Attach time.Duration
	// Detach is how long an attachment is "detaching" before the ENI is
	// "available". The device leaves the instance when the call is made.
	Detach time.Duration
	// Start is how long an instance is "pending" before it is "running".
	Start time.Duration
	// Stop is how long an instance is "stopping" before it is "stopped".
	Stop time.Duration
	// Terminate is how long an instance is "shutting-down" before it is
	// "terminated" and its ENIs are deleted or available.
	Terminate time.Duration
	// Call is how long each API call takes.
	Call time.Duration
}

// Lag is the time by which answers lag behind the state. EC2 and the metadata
// service are both eventually consistent, independently of each other. An answer
// with a lag shows the state as it was that long ago, ten minutes at most.
type Lag struct {
	// Describe is the lag of all Describe calls, for every kind of resource.
	Describe time.Duration
	// Write is how long the calls that change resources do not find one that a call has
	// created, of any kind. They find what a method of Cloud has created at once.
	Write time.Duration
	// Metadata is the lag of metadata keys that Keys does not name.
	Metadata time.Duration
	// Keys holds the lag of single metadata keys. A key is the last element of the
	// path, such as "local-ipv4s" or "ipv4-prefix", or "macs" for the listing of
	// MACs.
	Keys map[string]time.Duration
}

func (l Lag) forKey(key string) time.Duration {
	if d, ok := l.Keys[key]; ok {
		return d
	}
	return l.Metadata
}

// InstanceType describes an EC2 instance type to a Cloud.
type InstanceType struct {
	Name string
	// ENIs is the maximum number of ENIs on each network card, by card index.
	ENIs []int
	// IPv4PerENI and IPv6PerENI are the maximum numbers of addresses of an ENI,
	// its primary address included. A delegated prefix counts as one address.
	IPv4PerENI, IPv6PerENI int
	// Branches is the maximum number of branch ENIs of a trunk; 0 means that the
	// type does not support trunk ENIs.
	Branches int
	// DefaultCard is the network card of the primary ENI.
	DefaultCard int
	// Hypervisor is "nitro" or "xen"; empty for bare metal.
	Hypervisor string
	BareMetal  bool
	// VCPUs is the default number of vCPUs, MemoryMiB the memory in MiB and EFAs the
	// maximum number of Elastic Fabric Adapters. DescribeInstanceTypes omits those that
	// are 0.
	VCPUs, MemoryMiB, EFAs int
	// Flexible is the number of ENIs that each network card allows in addition to ENIs
	// if the caller of AttachNetworkInterface chooses the number of ENA queues.
	Flexible []int
}

// prefixes reports whether EC2 delegates prefixes to ENIs of this type.
func (t InstanceType) prefixes() bool { return t.BareMetal || t.Hypervisor == "nitro" }
