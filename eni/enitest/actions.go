// SPDX-License-Identifier: Apache-2.0

package enitest

import "net/url"

// action is one action of the API: its class for throttling and its code.
type action struct {
	class Class
	// prepare decodes the parameters and returns the function that runs under
	// the lock. A dry run stops in between, and so reports wrong parameters.
	prepare func(url.Values) (func(*tx) (any, error), error)
	// sts means that the action is one of the Security Token Service.
	sts bool
}

// do makes an action from a function that takes decoded parameters.
func do[In, Out any](class Class, f func(*tx, In) (Out, error)) action {
	return action{class: class, prepare: func(form url.Values) (func(*tx) (any, error), error) {
		var in In
		if err := decode(form, &in); err != nil {
			return nil, err
		}
		return func(t *tx) (any, error) { return f(t, in) }, nil
	}}
}

// actions returns the actions of the API by name.
func actions() map[string]action {
	identity := do(NonMutating, (*tx).getCallerIdentity)
	identity.sts = true
	return map[string]action{
		"GetCallerIdentity": identity,

		"DescribeAddresses":                  do(NonMutating, (*tx).describeAddresses),
		"DescribeInstanceStatus":             do(NonMutating, (*tx).describeInstanceStatus),
		"DescribeNetworkAcls":                do(NonMutating, (*tx).describeNetworkACLs),
		"DescribeNetworkInterfaceAttribute":  do(NonMutating, (*tx).describeNetworkInterfaceAttribute),
		"DescribeRegions":                    do(NonMutating, (*tx).describeRegions),
		"DescribeRouteTables":                do(NonMutating, (*tx).describeRouteTables),
		"DescribeSecurityGroupRules":         do(NonMutating, (*tx).describeSecurityGroupRules),
		"DescribeAvailabilityZones":          do(NonMutating, (*tx).describeAvailabilityZones),
		"DescribeInstances":                  do(NonMutating, (*tx).describeInstances),
		"DescribeInstanceTypes":              do(NonMutating, (*tx).describeInstanceTypes),
		"DescribeNetworkInterfaces":          do(NonMutating, (*tx).describeNetworkInterfaces),
		"DescribeSecurityGroups":             do(NonMutating, (*tx).describeSecurityGroups),
		"DescribeSubnets":                    do(NonMutating, (*tx).describeSubnets),
		"DescribeTags":                       do(NonMutating, (*tx).describeTags),
		"DescribeTrunkInterfaceAssociations": do(NonMutating, (*tx).describeTrunkInterfaceAssociations),
		"DescribeVpcs":                       do(NonMutating, (*tx).describeVpcs),
		"DescribeAccountAttributes":          do(NonMutating, (*tx).describeAccountAttributes),
		"DescribeLaunchTemplates":            do(NonMutating, (*tx).describeLaunchTemplates),
		"DescribeLaunchTemplateVersions":     do(NonMutating, (*tx).describeLaunchTemplateVersions),
		"DescribeVpcAttribute":               do(NonMutating, (*tx).describeVpcAttribute),
		"GetManagedResourceVisibility":       do(NonMutating, (*tx).getManagedResourceVisibility),
		"GetSubnetCidrReservations":          do(NonMutating, (*tx).getSubnetCidrReservations),

		"AssignIpv6Addresses":             do(Mutating, (*tx).assignIpv6Addresses),
		"AssignPrivateIpAddresses":        do(Mutating, (*tx).assignPrivateIPAddresses),
		"AssociateTrunkInterface":         do(Mutating, (*tx).associateTrunkInterface),
		"AttachNetworkInterface":          do(Mutating, (*tx).attachNetworkInterface),
		"CreateNetworkInterface":          do(Mutating, (*tx).createNetworkInterface),
		"CreateSubnetCidrReservation":     do(Mutating, (*tx).createSubnetCidrReservation),
		"CreateTags":                      do(Mutating, (*tx).createTags),
		"DeleteNetworkInterface":          do(Mutating, (*tx).deleteNetworkInterface),
		"DeleteSubnetCidrReservation":     do(Mutating, (*tx).deleteSubnetCidrReservation),
		"DeleteTags":                      do(Mutating, (*tx).deleteTags),
		"DetachNetworkInterface":          do(Mutating, (*tx).detachNetworkInterface),
		"DisassociateTrunkInterface":      do(Mutating, (*tx).disassociateTrunkInterface),
		"ModifyNetworkInterfaceAttribute": do(Mutating, (*tx).modifyNetworkInterfaceAttribute),
		"UnassignIpv6Addresses":           do(Mutating, (*tx).unassignIpv6Addresses),
		"UnassignPrivateIpAddresses":      do(Mutating, (*tx).unassignPrivateIPAddresses),

		"AllocateAddress":               do(Mutating, (*tx).allocateAddress),
		"AssociateAddress":              do(Mutating, (*tx).associateAddress),
		"AssociateRouteTable":           do(Mutating, (*tx).associateRouteTable),
		"AssociateVpcCidrBlock":         do(Mutating, (*tx).associateVpcCidrBlock),
		"AuthorizeSecurityGroupEgress":  do(Mutating, (*tx).authorizeSecurityGroupEgress),
		"AuthorizeSecurityGroupIngress": do(Mutating, (*tx).authorizeSecurityGroupIngress),
		"CreateNetworkAcl":              do(Mutating, (*tx).createNetworkACL),
		"CreateNetworkAclEntry":         do(Mutating, (*tx).createNetworkACLEntry),
		"CreateRoute":                   do(Mutating, (*tx).createRoute),
		"CreateRouteTable":              do(Mutating, (*tx).createRouteTable),
		"CreateSecurityGroup":           do(Mutating, (*tx).createSecurityGroup),
		"CreateSubnet":                  do(Mutating, (*tx).createSubnet),
		"CreateVpc":                     do(Mutating, (*tx).createVpc),
		"DeleteNetworkAcl":              do(Mutating, (*tx).deleteNetworkACL),
		"DeleteNetworkAclEntry":         do(Mutating, (*tx).deleteNetworkACLEntry),
		"DeleteRoute":                   do(Mutating, (*tx).deleteRoute),
		"DeleteRouteTable":              do(Mutating, (*tx).deleteRouteTable),
		"DeleteSecurityGroup":           do(Mutating, (*tx).deleteSecurityGroup),
		"DeleteSubnet":                  do(Mutating, (*tx).deleteSubnet),
		"DeleteVpc":                     do(Mutating, (*tx).deleteVpc),
		"DisassociateAddress":           do(Mutating, (*tx).disassociateAddress),
		"DisassociateRouteTable":        do(Mutating, (*tx).disassociateRouteTable),
		"DisassociateVpcCidrBlock":      do(Mutating, (*tx).disassociateVpcCidrBlock),
		"ReleaseAddress":                do(Mutating, (*tx).releaseAddress),
		"ReplaceNetworkAclAssociation":  do(Mutating, (*tx).replaceNetworkACLAssociation),
		"ReplaceNetworkAclEntry":        do(Mutating, (*tx).replaceNetworkACLEntry),
		"ReplaceRoute":                  do(Mutating, (*tx).replaceRoute),
		"RevokeSecurityGroupEgress":     do(Mutating, (*tx).revokeSecurityGroupEgress),
		"RevokeSecurityGroupIngress":    do(Mutating, (*tx).revokeSecurityGroupIngress),

		"CreateLaunchTemplate":            templateAction((*tx).createLaunchTemplate),
		"CreateLaunchTemplateVersion":     templateAction((*tx).createLaunchTemplateVersion),
		"DeleteLaunchTemplate":            do(Mutating, (*tx).deleteLaunchTemplate),
		"ModifyLaunchTemplate":            do(Mutating, (*tx).modifyLaunchTemplate),
		"ModifyManagedResourceVisibility": do(Mutating, (*tx).modifyManagedResourceVisibility),
		"ModifySubnetAttribute":           do(Mutating, (*tx).modifySubnetAttribute),
		"ModifyVpcAttribute":              do(Mutating, (*tx).modifyVpcAttribute),

		"RebootInstances":    do(Mutating, (*tx).rebootInstances),
		"RunInstances":       do(Mutating, (*tx).runInstances),
		"StartInstances":     do(Mutating, (*tx).startInstances),
		"StopInstances":      do(Mutating, (*tx).stopInstances),
		"TerminateInstances": do(Mutating, (*tx).terminateInstances),
	}
}
