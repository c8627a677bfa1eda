// SPDX-License-Identifier: Apache-2.0

// Package enitest provides an EC2 API and an instance metadata service in
// process, for tests of programs that manage network interfaces.
//
// It is to EC2 what net/http/httptest is to HTTP. A [Cloud] holds VPCs,
// subnets, instances and elastic network interfaces, and answers over the real
// wire protocol: the EC2 Query API with its XML and its error codes, and IMDSv2
// with session tokens. The unmodified AWS SDK, the AWS CLI and other network
// agents work with it. It computes each answer from its state, and each call
// changes the state under the rules that EC2 documents: five reserved addresses
// a subnet, aligned /28 blocks, the limits of the instance type, attachment
// states, security groups, tags.
//
// The instance types are those of package instancetype. DescribeInstanceTypes shows them
// with the attributes of published answers of EC2, except for about 130 types without a
// published answer: their answers lack these attributes, and filters on them do not match.
//
// # Access
//
// [Cloud.Listen] opens loopback listeners, one for EC2 and one for the metadata
// of each instance. [Cloud.Transport] is an [net/http.RoundTripper] that
// answers in the caller's goroutine without a socket. Inside a
// [testing/synctest] bubble use the transport: a goroutine blocked on a socket
// would stop the fake clock. A stopped instance has no metadata service: connections to
// it end without an answer.
//
// # Time
//
// The package starts no goroutine except for the listeners, and it reads time
// only through package time. An attachment that takes five seconds is in the
// state "attached" for every request that arrives five seconds later. The answers
// of Describe calls and of each metadata key can lag behind the state, see [Lag].
//
// # Faults
//
// [Cloud.AddFault] makes calls fail, wait, hang or lose their answer;
// [Cloud.SetThrottle] puts token buckets in front of the API; [Cloud.Deny]
// takes away permissions. [Cloud.Audit] returns the log of all calls with their
// callers, [Cloud.Calls] their number.
//
// # Actions
//
// These are the actions of EC2, and GetCallerIdentity of the Security Token
// Service: AllocateAddress, AssignIpv6Addresses, AssignPrivateIpAddresses,
// AssociateAddress, AssociateRouteTable, AssociateTrunkInterface,
// AssociateVpcCidrBlock, AttachNetworkInterface, AuthorizeSecurityGroupEgress,
// AuthorizeSecurityGroupIngress, CreateLaunchTemplate,
// CreateLaunchTemplateVersion, CreateNetworkAcl, CreateNetworkAclEntry,
// CreateNetworkInterface, CreateRoute, CreateRouteTable, CreateSecurityGroup,
// CreateSubnet, CreateSubnetCidrReservation, CreateTags, CreateVpc,
// DeleteLaunchTemplate, DeleteNetworkAcl, DeleteNetworkAclEntry,
// DeleteNetworkInterface, DeleteRoute, DeleteRouteTable, DeleteSecurityGroup,
// DeleteSubnet, DeleteSubnetCidrReservation, DeleteTags, DeleteVpc,
// DescribeAccountAttributes, DescribeAddresses, DescribeAvailabilityZones,
// DescribeInstanceStatus, DescribeInstanceTypes, DescribeInstances,
// DescribeLaunchTemplateVersions, DescribeLaunchTemplates, DescribeNetworkAcls,
// DescribeNetworkInterfaceAttribute, DescribeNetworkInterfaces, DescribeRegions,
// DescribeRouteTables, DescribeSecurityGroupRules, DescribeSecurityGroups,
// DescribeSubnets, DescribeTags, DescribeTrunkInterfaceAssociations,
// DescribeVpcAttribute, DescribeVpcs, DetachNetworkInterface,
// DisassociateAddress, DisassociateRouteTable, DisassociateTrunkInterface,
// DisassociateVpcCidrBlock, GetCallerIdentity, GetManagedResourceVisibility,
// GetSubnetCidrReservations, ModifyLaunchTemplate,
// ModifyManagedResourceVisibility, ModifyNetworkInterfaceAttribute,
// ModifySubnetAttribute, ModifyVpcAttribute, RebootInstances, ReleaseAddress,
// ReplaceNetworkAclAssociation, ReplaceNetworkAclEntry, ReplaceRoute,
// RevokeSecurityGroupEgress, RevokeSecurityGroupIngress, RunInstances,
// StartInstances, StopInstances, TerminateInstances, UnassignIpv6Addresses,
// UnassignPrivateIpAddresses.
//
// # Metadata keys
//
// These are the keys of an instance, below /latest/ and below each dated version:
// dynamic/instance-identity/document, meta-data/ami-id,
// meta-data/ami-launch-index, meta-data/ami-manifest-path,
// meta-data/block-device-mapping/ami, meta-data/block-device-mapping/root,
// meta-data/hostname, meta-data/iam/info,
// meta-data/iam/security-credentials/node, meta-data/instance-action,
// meta-data/instance-id, meta-data/instance-life-cycle, meta-data/instance-type,
// meta-data/ipv6, meta-data/local-hostname, meta-data/local-ipv4, meta-data/mac,
// meta-data/placement/availability-zone,
// meta-data/placement/availability-zone-id, meta-data/placement/region,
// meta-data/profile, meta-data/public-hostname, meta-data/public-ipv4,
// meta-data/reservation-id, meta-data/security-groups, meta-data/services/domain,
// meta-data/services/partition, meta-data/system, meta-data/tags/instance/KEY,
// user-data.
//
// # Metadata keys of an ENI
//
// These are the keys below meta-data/network/interfaces/macs/MAC/ of an attached
// ENI: device-number, interface-id, ipv4-associations/ADDRESS, ipv4-prefix,
// ipv6-prefix, ipv6s, local-hostname, local-ipv4s, mac, network-card, owner-id,
// public-hostname, public-ipv4s, security-group-ids, security-groups, subnet-id,
// subnet-ipv4-cidr-block, subnet-ipv6-cidr-blocks, vpc-id, vpc-ipv4-cidr-block,
// vpc-ipv4-cidr-blocks, vpc-ipv6-cidr-blocks.
package enitest
