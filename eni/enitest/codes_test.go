// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documentedCodes are the error codes of this package that AWS lists in
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html.
var documentedCodes = []string{
	"AttachmentLimitExceeded", "AuthFailure", "CannotDelete", "DependencyViolation", "DryRunOperation", "FilterLimitExceeded",
	"IdempotentParameterMismatch", "IncorrectInstanceState", "IncorrectState", "InsufficientFreeAddressesInSubnet", "InternalError",
	"InternalFailure", "InvalidAction", "InvalidAddress.NotFound", "InvalidAllocationID.NotFound", "InvalidAssociationID.NotFound",
	"InvalidAttachmentID.NotFound", "InvalidGroup.Duplicate", "InvalidGroup.NotFound", "InvalidGroup.Reserved", "InvalidGroupId.Malformed",
	"InvalidID", "InvalidIPAddress.InUse", "InvalidInstanceID", "InvalidInstanceID.Malformed", "InvalidInstanceID.NotFound",
	"InvalidInstanceType", "InvalidLaunchTemplateId.Malformed", "InvalidLaunchTemplateId.NotFound",
	"InvalidLaunchTemplateId.VersionNotFound", "InvalidLaunchTemplateName.AlreadyExistsException",
	"InvalidLaunchTemplateName.MalformedException", "InvalidLaunchTemplateName.NotFoundException", "InvalidNetworkAclEntry.NotFound",
	"InvalidNetworkAclID.NotFound", "InvalidNetworkAclId.Malformed", "InvalidNetworkInterface.InUse",
	"InvalidNetworkInterfaceAttachmentId.Malformed", "InvalidNetworkInterfaceID.NotFound", "InvalidNetworkInterfaceId.Malformed",
	"InvalidNextToken", "InvalidParameter", "InvalidParameterCombination", "InvalidParameterValue", "InvalidPermission.Duplicate",
	"InvalidPermission.NotFound", "InvalidRoute.NotFound", "InvalidRouteTableID.NotFound", "InvalidRouteTableId.Malformed",
	"InvalidSecurityGroupID.NotFound", "InvalidSecurityGroupId.Malformed", "InvalidSecurityGroupRuleId.Malformed",
	"InvalidSecurityGroupRuleId.NotFound", "InvalidSubnet.Conflict", "InvalidSubnet.Range", "InvalidSubnetID.Malformed",
	"InvalidSubnetID.NotFound", "InvalidVpcID.Malformed", "InvalidVpcID.NotFound", "MalformedQueryString", "MissingParameter",
	"NetworkAclEntryAlreadyExists", "OperationNotPermitted", "PrivateIpAddressLimitExceeded", "RequestLimitExceeded",
	"Resource.AlreadyAssociated", "RouteAlreadyExists", "RulesPerSecurityGroupLimitExceeded", "SecurityGroupsPerInterfaceLimitExceeded",
	"ServiceUnavailable", "TagLimitExceeded", "UnauthorizedOperation", "Unavailable", "UnknownParameter", "UnsupportedOperation",
	"VPCIdNotSpecified",
}

// otherCodes are the error codes of this package that the list of AWS does not have, with
// their sources.
var otherCodes = map[string]string{
	"InsufficientCidrBlocks":                    "https://docs.aws.amazon.com/eks/latest/userguide/cni-increase-ip-addresses.html",
	"InvalidVpc.Range":                          "EC2's answers to CreateVpc and AssociateVpcCidrBlock; the list calls it InvalidVpcRange",
	"InvalidVpcCidrBlockAssociationID.NotFound": "EC2's answers to DisassociateVpcCidrBlock",
	"InvalidSubnetCidrReservationID.NotFound":   "EC2's answers to DeleteSubnetCidrReservation",
	"BranchInterfaceLimitExceeded":              "not known: AWS does not document the quota error of AssociateTrunkInterface",
}

// TestCodes checks that every error code in the sources of the package is in
// documentedCodes or otherCodes, and that these have no others.
func TestCodes(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	calls := []*regexp.Regexp{
		regexp.MustCompile(`(?:errorf|Code:|e\.Code ==) ?\(?"([A-Z][A-Za-z.]+)"`),
		regexp.MustCompile(`kind\{"[^"]*", "[^"]*",\s*"([A-Za-z.]+)", "[A-Za-z.]*"\}`),
		regexp.MustCompile(`kind\{"[^"]*", "[^"]*",\s*"[A-Za-z.]+", "([A-Za-z.]+)"\}`),
		regexp.MustCompile(`notFound: "([A-Za-z.]+)"`),
	}
	used := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range calls {
			for _, m := range call.FindAllStringSubmatch(string(text), -1) {
				used[m[1]] = true
			}
		}
	}
	for code := range used {
		if !slices.Contains(documentedCodes, code) && otherCodes[code] == "" {
			t.Errorf("the source of error code %s is not known", code)
		}
	}
	for _, code := range documentedCodes {
		if !used[code] {
			t.Errorf("error code %s is not used", code)
		}
	}
	for code := range otherCodes {
		if !used[code] {
			t.Errorf("error code %s is not used", code)
		}
	}
}
