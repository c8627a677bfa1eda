// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"fmt"
	"net/http"
	"strings"
)

// APIError is an error answer of the EC2 API. The codes are listed in
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html.
type APIError struct {
	Code, Message string
	// Status is the HTTP status; 0 means the status that EC2 sends with the code.
	Status int
}

func (e *APIError) Error() string { return e.Code + ": " + e.Message }

func (e *APIError) status() int {
	switch {
	case e.Status != 0:
		return e.Status
	case e.Code == "UnauthorizedOperation", e.Code == "AuthFailure":
		return http.StatusForbidden
	case e.Code == "DryRunOperation":
		return http.StatusPreconditionFailed
	case e.Code == "RequestLimitExceeded", e.Code == "Unavailable", e.Code == "ServiceUnavailable":
		return http.StatusServiceUnavailable
	case e.Code == "InternalError", e.Code == "InternalFailure":
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

func errorf(code, format string, args ...any) error {
	return &APIError{Code: code, Message: fmt.Sprintf(format, args...)}
}

func invalidValue(format string, args ...any) error {
	return errorf("InvalidParameterValue", format, args...)
}

func missing(parameter string) error {
	return errorf("MissingParameter", "The request must contain the parameter %s", parameter)
}

// kind holds the prefix of the IDs of one kind of resource, and the words and
// codes of EC2's errors about such an ID. The codes are those of
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html#CommonErrors.
// That list has no code for some kinds of malformed IDs; malformed is then empty, and
// such an ID does not exist.
type kind struct {
	prefix, noun, notFound, malformed string
}

var (
	kindENI      = kind{"eni-", "networkInterface ID", "InvalidNetworkInterfaceID.NotFound", "InvalidNetworkInterfaceId.Malformed"}
	kindInstance = kind{"i-", "instance ID", "InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"}
	kindSubnet   = kind{"subnet-", "subnet ID", "InvalidSubnetID.NotFound", "InvalidSubnetID.Malformed"}
	kindVPC      = kind{"vpc-", "vpc ID", "InvalidVpcID.NotFound", "InvalidVpcID.Malformed"}
	kindGroup    = kind{"sg-", "security group", "InvalidGroup.NotFound", "InvalidGroupId.Malformed"}
	// kindENIGroup is the kind of a security group of an ENI.
	kindENIGroup   = kind{"sg-", "securityGroup ID", "InvalidSecurityGroupID.NotFound", "InvalidSecurityGroupId.Malformed"}
	kindAttachment = kind{"eni-attach-", "attachment ID", "InvalidAttachmentID.NotFound", "InvalidNetworkInterfaceAttachmentId.Malformed"}
)

// unknown returns the error for IDs that no resource has. An ID is malformed if
// anything but hexadecimal digits follows its prefix.
func (k kind) unknown(ids ...string) error {
	for _, id := range ids {
		if k.malformed == "" {
			break
		}
		digits, ok := strings.CutPrefix(id, k.prefix)
		switch {
		case !ok:
			return errorf(k.malformed, "Invalid id: \"%s\" (expecting \"%s...\")", id, k.prefix)
		case k.prefix != "" && (digits == "" || strings.Trim(digits, "0123456789abcdef") != ""):
			return errorf(k.malformed, "Invalid id: \"%s\"", id)
		}
	}
	if len(ids) == 1 {
		return errorf(k.notFound, "The %s '%s' does not exist", k.noun, ids[0])
	}
	return errorf(k.notFound, "The %ss '%s' do not exist", k.noun, strings.Join(ids, ", "))
}
