// SPDX-License-Identifier: Apache-2.0

package warmpool

import "time"

// AWS keeps the warm targets of amazon-vpc-cni-k8s.
type AWS struct {
	// WarmENITarget is WARM_ENI_TARGET: whole ENIs' worth of free addresses.
	// Used only for secondary private IPs and only if neither WarmIPTarget nor
	// MinimumIPTarget is set.
	WarmENITarget int
	// WarmIPTarget is WARM_IP_TARGET, free addresses; MinimumIPTarget is
	// MINIMUM_IP_TARGET, addresses in all. If either is set, they override the
	// other two.
	WarmIPTarget, MinimumIPTarget int
	// WarmPrefixTarget is WARM_PREFIX_TARGET: wholly free prefixes. Used only
	// for prefixes.
	WarmPrefixTarget int
	// MinAge is how old an ENI must be before it is deleted. Zero means 60 s.
	MinAge time.Duration
	// ReleaseEvery is the least time between two unassignments. Zero means 30 s.
	ReleaseEvery time.Duration
	// Quirks switches on defects of the original.
	Quirks Quirks
}

// Quirks are defects of amazon-vpc-cni-k8s that AWS leaves out unless asked.
type Quirks struct {
	// CoolingIsFree counts cooling addresses as available.
	CoolingIsFree bool
	// CardUnits uses a count of addresses as a count of prefixes on network
	// cards other than 0.
	CardUnits bool
}

// Decide implements Policy.
func (p AWS) Decide(s Snapshot) Decision { return Decision{Memory: s.Memory} }
