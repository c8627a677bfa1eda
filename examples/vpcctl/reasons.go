// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/vpcnet/vpcnet/ipam"

// reasonText explains a reason and says what an operator can do about it.
type reasonText struct{ meaning, do string }

const (
	doWait       = "wait: the agent tries again by itself; vpcctl events shows what EC2 says meanwhile"
	doEvidence   = "look at the evidence: it has the text of EC2"
	doLessOrMore = "move pods to other nodes, or use a larger instance type; vpcctl max-pods says how many pods a type can have"
)

// reasonTexts has each reason of package ipam.
var reasonTexts = map[ipam.Reason]reasonText{
	ipam.ReasonAgentStarting:  {"the agent has not seen its ENIs yet: it waits for EC2 or the instance metadata service", "wait; if it lasts, run vpcctl doctor, and look at the error in the agent's log"},
	ipam.ReasonAgentStopping:  {"the agent is ending", "wait for the next agent; pods that have addresses keep them"},
	ipam.ReasonRefilling:      {"more addresses were requested from EC2 and did not arrive in time", doWait + "; a larger warm pool (VPCNET_WARM_POLICY, WARM_IP_TARGET) avoids the wait"},
	ipam.ReasonCooling:        {"all addresses that are not in use rest after their last pod, so that late packets and stale neighbour entries do not reach the next one", "wait for IP_COOLDOWN_PERIOD, or keep more addresses"},
	ipam.ReasonAllInUse:       {"every address is in use", doLessOrMore},
	ipam.ReasonPoolLimit:      {"the node has the most pods or addresses that its settings allow", "raise VPCNET_MAX_PODS or MAX_ENI, or " + doLessOrMore},
	ipam.ReasonENILimit:       {"the instance has the most ENIs that its type allows, and all are full", doLessOrMore + "; ENABLE_PREFIX_DELEGATION gives 16 addresses for one"},
	ipam.ReasonSlotLimit:      {"an ENI has the most addresses that the instance type allows", "nothing if the node can have more ENIs; else " + doLessOrMore},
	ipam.ReasonQuota:          {"the account has the most ENIs that it may have in the region", "delete unused ENIs (vpcctl sweep), or ask AWS for a higher quota"},
	ipam.ReasonSubnetFull:     {"the subnet has no free address", "add a subnet for pods (VPCNET_POD_SUBNETS or ENABLE_SUBNET_DISCOVERY), delete leaked ENIs (vpcctl sweep), or keep fewer spare addresses"},
	ipam.ReasonNoFreePrefix:   {"the subnet has free addresses, but no free and aligned /28: it is fragmented", "nothing: the agent takes single addresses meanwhile; reserve a part of the subnet for prefixes (a subnet CIDR reservation of type prefix)"},
	ipam.ReasonThrottled:      {"EC2 refuses calls because the account makes too many", "wait: the agent slows down by itself; look for other programs that call EC2 in a loop"},
	ipam.ReasonUnauthorized:   {"the node's IAM role lacks a permission", "allow the node's IAM role the action that vpcctl explain failure names; examples/deploy/iam-policy.json has all"},
	ipam.ReasonEC2Unreachable: {"EC2 does not answer", "check the route, the VPC endpoint, security groups, the proxy and the region; AWS_ENDPOINT_URL_EC2 sets another endpoint"},
	ipam.ReasonNoMetadata:     {"the instance metadata service does not answer", "check that it is enabled, that its hop limit is at least 2 if the agent is in a container with its own network, and that no proxy variable catches 169.254.169.254"},
	ipam.ReasonSafeMode:       {"changes in EC2 are off, because an operator switched them off or the sources disagree about too many addresses at once", "look at the events for what the sources disagree about; the agent leaves the mode when they agree"},
	ipam.ReasonInFlight:       {"an earlier operation on the same ENI or block has not ended", doWait},
	ipam.ReasonInUse:          {"the ENI or the address is in use, or may be", "look at the pods of the ENI with vpcctl explain eni"},
	ipam.ReasonNoSuchAddress:  {"the pod wants an address that no ENI of the node has", "remove the wish from the pod, or let it run on the node that has the address"},
	ipam.ReasonNotFound:       {"the ENI does not exist any more: another program has deleted it", "nothing: the agent replaces it; find the program that deletes ENIs"},
	ipam.ReasonNotManaged:     {"the ENI is not the agent's: it lacks its tags, or belongs to a service of AWS", "nothing, unless the tags were removed: then create the ENI anew or give the tags back"},
	ipam.ReasonLinkNotReady:   {"an ENI has addresses, but its link, route table or routes are not verified", "run vpcctl doctor: it names programs that also configure links; the agent tries again by itself"},
	ipam.ReasonNoBlocks:       {"the pool has no addresses of that family or network card", "check ENABLE_IPv4 and ENABLE_IPv6, and that the subnet has the family"},
	ipam.ReasonEC2Refused:     {"EC2 refused for a reason that has no name here", doEvidence},
}
