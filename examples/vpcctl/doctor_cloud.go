// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/preflight"
	"github.com/vpcnet/vpcnet/ipam"
)

// doOf returns what to do about a reason of package eni, which has the texts of package ipam.
func doOf(reason string) string {
	return cmp.Or(reasonTexts[ipam.Reason(reason)].do, doEvidence)
}

func metadataDown(f *facts) []finding {
	if f.Cloud.MetadataError == "" {
		return nil
	}
	return found(preflight.Harm, "the instance metadata service does not answer, or gives no session token", doOf(string(ipam.ReasonNoMetadata)), f.Cloud.MetadataError)
}

func metadataProxy(f *facts) []finding {
	if f.Cloud.MetadataProxy == "" {
		return nil
	}
	return found(preflight.Risk, "programs with this environment ask a proxy for the metadata service; ipamd does not, but others get the role of the proxy's instance",
		"add 169.254.169.254 to NO_PROXY", "the proxy is "+f.Cloud.MetadataProxy)
}

func ec2Down(f *facts) []finding {
	if f.Cloud.EC2Error == "" || f.Cloud.EC2Reason == string(ipam.ReasonUnauthorized) || f.Cloud.EC2Reason == string(ipam.ReasonNoMetadata) && f.Cloud.MetadataError != "" {
		return nil
	}
	evidence := []string{f.Cloud.EC2Error, fmt.Sprintf("region %q, endpoint %q", f.Cloud.Region, f.Cloud.Endpoint)}
	if f.Cloud.EC2Proxy != "" {
		evidence = append(evidence, "by the proxy "+f.Cloud.EC2Proxy)
	}
	return found(preflight.Harm, "EC2 does not answer: the node gets no more addresses", doOf(f.Cloud.EC2Reason), evidence...)
}

// The subnet is nearly full if it has fewer free addresses than an ENI with prefixes takes.
const minFreeAddrs = 16

func subnetNearlyFull(f *facts) []finding {
	var evidence []string
	for _, id := range slices.Sorted(maps.Keys(f.Cloud.FreeAddrs)) {
		if n := f.Cloud.FreeAddrs[id]; n < minFreeAddrs {
			evidence = append(evidence, fmt.Sprintf("%s has %d free addresses", id, n))
		}
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Risk, "a subnet is nearly full: soon there are no more addresses for pods", doOf(string(ipam.ReasonSubnetFull)), evidence...)
}

// journalAndEC2 compares the blocks of the agent with those that EC2 and the metadata service
// agree about.
func journalAndEC2(f *facts) []finding {
	if !f.Cloud.Asked || f.Cloud.EC2Error != "" || f.Cloud.MetadataError != "" || f.Agent.Answers == nil {
		return nil
	}
	var evidence []string
	for _, e := range f.Agent.status().ENIs {
		if f.changing(e.ID) {
			continue
		}
		known, ok := f.Cloud.Inventory.ENI(e.ID)
		if !ok {
			evidence = append(evidence, fmt.Sprintf("%s of the agent is not attached to the instance", e.ID))
			continue
		}
		have := map[netip.Prefix]bool{}
		for _, b := range append(known.Blocks(), known.Doubtful...) {
			have[b] = true
		}
		for _, b := range e.Blocks {
			if !have[b.Prefix] {
				evidence = append(evidence, fmt.Sprintf("%s of the agent is not on %s", b.Prefix, e.ID))
			}
		}
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Harm, "the agent has addresses that the instance does not have: pods with them are cut off",
		"wait for the agent's next audit, a minute at most; then look at vpcctl events, and for programs that unassign addresses", evidence...)
}

// changing reports whether an operation on the ENI is not finished, so that sources may
// disagree about it.
func (f *facts) changing(id string) bool {
	for _, i := range f.Agent.intents() {
		if i.ENI == id {
			return true
		}
	}
	return false
}
