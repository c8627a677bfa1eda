// SPDX-License-Identifier: Apache-2.0

package eni

// SubnetSelector chooses the subnets of new ENIs. Implementations are pure:
// the Manager makes the calls.
type SubnetSelector interface {
	// Query says which subnets to ask EC2 about. ok is false if no question is
	// needed, because only the primary ENI's subnet will do.
	Query(inst Instance) (q SubnetQuery, ok bool)
	// Order returns the candidates that may be used, best first. Without a
	// query the only candidate is the primary ENI's subnet.
	Order(inst Instance, candidates []Subnet) []Subnet
}

// GroupSelector chooses the security groups of an ENI, new or present.
type GroupSelector interface {
	// Groups returns the groups for an ENI in a subnet. nil means that the
	// ENI keeps what it has; a new one then gets the primary ENI's.
	Groups(inst Instance, subnetID string, kind Kind) []string
}

// SubnetQuery restricts a listing of subnets. Empty fields do not restrict;
// all others must match.
type SubnetQuery struct {
	IDs         []string
	VPCID, Zone string
	// Tags must be there with one of the values, or with any if there is none.
	Tags map[string][]string
}
