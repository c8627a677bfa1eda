// SPDX-License-Identifier: Apache-2.0

package enitest

import "time"

// Config sets up a Cloud. The zero value is a cloud in us-west-2 where
// everything happens at once and nothing fails.
type Config struct {
	// Region is the region of the API. Empty means us-west-2.
	Region string
	// Account is the account that owns everything. Empty means 123456789012.
	Account string
	// Delays are the durations of the changes that EC2 makes in its own time.
	Delays Delays
	// Lag is how far answers are behind the state.
	Lag Lag
	// Throttle limits the rate of calls. Nil means no limit.
	Throttle *Throttle
	// Types adds instance types to the table of package eni, or replaces some.
	Types []InstanceType
}

// Delays are the durations of changes that EC2 makes in its own time. Zero
// means at once.
type Delays struct {
	// Attach is how long an attachment is "attaching" before it is "attached" and
	// metadata shows it. Hooks hear of it when the call is made.
	Attach time.Duration
	// Detach is how long an attachment is "detaching" before the ENI is
	// "available". The device leaves the instance when the call is made.
	Detach time.Duration
	// Start is how long an instance is "pending" before it is "running".
	Start time.Duration
	// Terminate is how long an instance is "shutting-down" before it is
	// "terminated" and its ENIs are gone or free.
	Terminate time.Duration
	// Call is how long each API call takes.
	Call time.Duration
}

// Lag is how far the answers are behind the state: EC2 and the metadata service
// are both eventually consistent, and not with each other. A lag shows the
// state of that long ago, up to ten minutes.
type Lag struct {
	// Describe is the lag of all Describe calls.
	Describe time.Duration
	// Write is how long after its creation an ENI is still unknown to the
	// calls that change it.
	Write time.Duration
	// Metadata is the lag of metadata keys that Keys does not name.
	Metadata time.Duration
	// Keys is the lag by metadata key: the last element of the path, such as
	// "local-ipv4s" or "ipv4-prefix", or "macs" for the listing of MACs.
	Keys map[string]time.Duration
}

func (l Lag) ofKey(key string) time.Duration {
	if d, ok := l.Keys[key]; ok {
		return d
	}
	return l.Metadata
}

// InstanceType is what a Cloud knows about an EC2 instance type.
type InstanceType struct {
	Name string
	// ENIs is the number of network interfaces of each network card.
	ENIs []int
	// IPv4PerENI and IPv6PerENI are the addresses of one ENI, its primary
	// address included. A delegated prefix takes the place of one address.
	IPv4PerENI, IPv6PerENI int
	// Branches is the number of branch ENIs of a trunk; 0 means that the type
	// has no trunking.
	Branches int
	// DefaultCard is the network card of the primary ENI.
	DefaultCard int
	// Hypervisor is "nitro" or "xen"; empty for bare metal.
	Hypervisor string
	BareMetal  bool
}

// prefixes reports whether EC2 delegates prefixes to ENIs of this type.
func (t InstanceType) prefixes() bool { return t.BareMetal || t.Hypervisor == "nitro" }
