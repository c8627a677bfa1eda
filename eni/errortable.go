// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"slices"
	"strings"
)

// effect says what a refused call has changed at EC2.
type effect uint8

const (
	effectNone    effect = iota // EC2 has changed nothing
	effectUnknown               // EC2 may have executed the call
)

// errorRow says what an error of EC2 means.
type errorRow struct {
	code string
	// text is a part of the message that an error must contain, in any case.
	// Optional. It is for codes that EC2 uses for several errors.
	text string
	// calls are the first letters of the actions that the row is about. Empty
	// means every action.
	calls  []string
	reason Reason
	// look says that the caller has to ask EC2 for the state of the object before
	// it repeats the call or takes the refusal as final.
	look   bool
	effect effect
	// rest says that the call fails until an operator changes the account or the
	// role, so that the operation rests, see withRest.
	rest bool
	// clock says that EC2 may refuse the call because of the time of its signature.
	clock bool
	// hint says what to check if the message of EC2 does not. Optional.
	hint string
}

// Hints of errorRows.
const (
	hintToken  = "check the node's IAM role: the session token has expired, or is not of this partition"
	hintRegion = "check that the region is the node's own and is enabled for the account"
)

// Groups of actions for rows of errorRows.
var (
	toUnassign = []string{"Unassign"}
	toDelete   = []string{"Delete"}
	toFill     = []string{"Create", "Attach", "Assign"} // the calls that need free addresses
)

// errorRows lists the errors of EC2. Rows with a text or with calls come before
// the general row of the same code. A code without a row has ReasonUnknown and
// effectUnknown, see rowOf. The comment of each group names the source of its rows.
var errorRows = []errorRow{
	// Throttling: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
	// and the codes that the SDK's own retries recognize,
	// https://github.com/aws/aws-sdk-go-v2/blob/main/aws/retry/standard.go.
	{code: "RequestLimitExceeded", reason: ReasonThrottled},
	{code: "Throttling", reason: ReasonThrottled},
	{code: "ThrottlingException", reason: ReasonThrottled},
	{code: "ThrottledException", reason: ReasonThrottled},
	{code: "RequestThrottled", reason: ReasonThrottled},
	{code: "RequestThrottledException", reason: ReasonThrottled},
	{code: "EC2ThrottledException", reason: ReasonThrottled},
	{code: "TooManyRequestsException", reason: ReasonThrottled},
	{code: "ProvisionedThroughputExceededException", reason: ReasonThrottled},
	{code: "TransactionInProgressException", reason: ReasonThrottled},
	{code: "BandwidthLimitExceeded", reason: ReasonThrottled},
	{code: "LimitExceededException", reason: ReasonThrottled},
	{code: "PriorRequestNotComplete", reason: ReasonThrottled},
	{code: "SlowDown", reason: ReasonThrottled},
	{code: "ConcurrentTagAccess", reason: ReasonThrottled},

	// Failures of EC2: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
	{code: "InternalError", reason: ReasonUnreachable, look: true, effect: effectUnknown},
	{code: "InternalFailure", reason: ReasonUnreachable, look: true, effect: effectUnknown},
	{code: "Unavailable", reason: ReasonUnreachable, look: true, effect: effectUnknown},
	{code: "ServiceUnavailable", reason: ReasonUnreachable, look: true, effect: effectUnknown},
	{code: "RequestTimeout", reason: ReasonUnreachable, look: true, effect: effectUnknown},
	{code: "RequestTimeoutException", reason: ReasonUnreachable, look: true, effect: effectUnknown},

	// Credentials and permissions: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonErrors.html
	// and https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
	{code: "UnauthorizedOperation", reason: ReasonUnauthorized, rest: true},
	{code: "AuthFailure", reason: ReasonUnauthorized, clock: true, hint: hintRegion},
	{code: "AccessDenied", reason: ReasonUnauthorized, rest: true},
	{code: "AccessDeniedException", reason: ReasonUnauthorized, clock: true, rest: true},
	{code: "InvalidClientTokenId", reason: ReasonUnauthorized, hint: hintToken},
	{code: "MissingAuthenticationToken", reason: ReasonUnauthorized},
	{code: "UnrecognizedClientException", reason: ReasonUnauthorized, hint: hintToken},
	{code: "ExpiredToken", reason: ReasonUnauthorized, hint: hintToken},
	{code: "ExpiredTokenException", reason: ReasonUnauthorized, hint: hintToken},
	{code: "RequestExpired", reason: ReasonUnauthorized, clock: true},
	{code: "RequestInTheFuture", reason: ReasonUnauthorized, clock: true},
	{code: "RequestTimeTooSkewed", reason: ReasonUnauthorized, clock: true},
	{code: "SignatureDoesNotMatch", reason: ReasonUnauthorized, clock: true},
	{code: "InvalidSignatureException", reason: ReasonUnauthorized, clock: true},
	{code: "IncompleteSignature", reason: ReasonUnauthorized},
	{code: "OptInRequired", reason: ReasonUnauthorized, rest: true, hint: hintRegion},
	{code: "PendingVerification", reason: ReasonUnauthorized, rest: true},
	{code: "Blocked", reason: ReasonUnauthorized, rest: true},

	// Full subnets. EC2 has two answers: InvalidParameterValue if the subnet has
	// fewer free addresses than requested, InsufficientCidrBlocks if it is
	// fragmented: https://github.com/cilium/cilium/pull/31016,
	// https://github.com/aws/amazon-vpc-cni-k8s/issues/3105.
	{code: "InvalidParameterValue", text: "sufficient free", calls: toFill, reason: ReasonSubnetFull},
	{code: "InsufficientFreeAddressesInSubnet", reason: ReasonSubnetFull},
	{code: "InsufficientCidrBlocks", reason: ReasonNoFreePrefix},

	// Limits: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
	{code: "AttachmentLimitExceeded", reason: ReasonENILimit},
	{code: "NetworkInterfaceLimitExceeded", reason: ReasonQuota},
	{code: "ResourceLimitExceeded", reason: ReasonQuota},
	{code: "SecurityGroupsPerInterfaceLimitExceeded", reason: ReasonQuota},
	{code: "RouteLimitExceeded", reason: ReasonQuota},
	{code: "BranchInterfaceLimitExceeded", reason: ReasonENILimit},
	{code: "PrivateIpAddressLimitExceeded", reason: ReasonSlotLimit, look: true},
	{code: "Ipv6AddressLimitExceeded", reason: ReasonSlotLimit, look: true},

	// Objects that do not exist, or that not all of EC2 knows yet:
	// https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
	{code: "InvalidNetworkInterfaceID.NotFound", reason: ReasonNotFound, look: true},
	{code: "InvalidNetworkInterface.NotFound", reason: ReasonNotFound, look: true},
	{code: "InvalidAttachmentID.NotFound", reason: ReasonNotFound, look: true},
	{code: "InvalidAttachment.NotFound", reason: ReasonNotFound, look: true},
	{code: "InvalidSubnetID.NotFound", reason: ReasonNotFound, look: true},
	{code: "InvalidInstanceID.NotFound", reason: ReasonNotFound, look: true},
	{code: "InvalidGroup.NotFound", reason: ReasonNotFound, look: true},
	{code: "InvalidSecurityGroupID.NotFound", reason: ReasonNotFound, look: true},
	{code: "InvalidVpcID.NotFound", reason: ReasonNotFound, look: true},
	{code: "InvalidAssociationID.NotFound", reason: ReasonNotFound, look: true},
	{code: "InvalidInterfaceAssociationID.NotFound", reason: ReasonNotFound, look: true},
	{code: "InvalidRouteTableID.NotFound", reason: ReasonNotFound, look: true},
	// The refusal of addresses that are not on the ENI, one of the texts of
	// InvalidParameterValue in
	// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
	{code: "InvalidParameterValue", text: "not assigned to interface", calls: toUnassign, reason: ReasonNotFound, look: true},

	// States that end by themselves: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
	{code: "InvalidNetworkInterface.InUse", reason: ReasonInUse, look: true},
	{code: "IncorrectState", reason: ReasonInUse, look: true},
	{code: "IncorrectInstanceState", reason: ReasonInUse, look: true},
	{code: "DependencyViolation", reason: ReasonInUse, look: true},
	{code: "Resource.AlreadyAssociated", reason: ReasonInUse, look: true},
	{code: "RouteAlreadyExists", reason: ReasonInUse, look: true},
	// An ENI that another program deletes while it is attached:
	// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteNetworkInterface.html
	{code: "InvalidParameterValue", text: "currently in use", calls: toDelete, reason: ReasonInUse, look: true},

	// ENIs of AWS services: https://github.com/boto/boto3/issues/2218
	{code: "OperationNotPermitted", reason: ReasonNotManaged, look: true},

	// Requests that are wrong and stay wrong:
	// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
	{code: "InvalidParameterValue", reason: ReasonInvalid, look: true},
	{code: "InvalidParameter", reason: ReasonInvalid, look: true},
	{code: "InvalidParameterCombination", reason: ReasonInvalid, look: true},
	{code: "InvalidParameterDependency", reason: ReasonInvalid, look: true},
	{code: "MissingParameter", reason: ReasonInvalid, look: true},
	{code: "UnknownParameter", reason: ReasonInvalid, look: true},
	{code: "ValidationError", reason: ReasonInvalid, look: true},
	{code: "MalformedQueryString", reason: ReasonInvalid, look: true},
	{code: "InvalidQueryParameter", reason: ReasonInvalid, look: true},
	{code: "InvalidRequest", reason: ReasonInvalid, look: true},
	{code: "InvalidAction", reason: ReasonInvalid, look: true},
	{code: "MissingAction", reason: ReasonInvalid, look: true},
	{code: "NoSuchVersion", reason: ReasonInvalid, look: true},
	{code: "UnsupportedOperation", reason: ReasonInvalid, look: true},
	{code: "Unsupported", reason: ReasonInvalid, look: true},
	{code: "IdempotentParameterMismatch", reason: ReasonInvalid, look: true},
	{code: "InvalidIPAddress.InUse", reason: ReasonInvalid, look: true},
	{code: "InvalidInstanceType", reason: ReasonInvalid, look: true},
	{code: "InvalidNetworkInterfaceId.Malformed", reason: ReasonInvalid, look: true},
	{code: "InvalidNetworkInterfaceAttachmentId.Malformed", reason: ReasonInvalid, look: true},
	{code: "InvalidInstanceID.Malformed", reason: ReasonInvalid, look: true},
	{code: "InvalidSubnetID.Malformed", reason: ReasonInvalid, look: true},
	{code: "InvalidRouteTableId.Malformed", reason: ReasonInvalid, look: true},
	{code: "InvalidVpcID.Malformed", reason: ReasonInvalid, look: true},
	{code: "InvalidGroupId.Malformed", reason: ReasonInvalid, look: true},
	{code: "InvalidSecurityGroupID.Malformed", reason: ReasonInvalid, look: true},
	{code: "InvalidID", reason: ReasonInvalid, look: true},
	{code: "InvalidTagKey.Malformed", reason: ReasonInvalid, look: true},
	{code: "TagLimitExceeded", reason: ReasonInvalid, look: true},
	{code: "FilterLimitExceeded", reason: ReasonInvalid, look: true},
	{code: "InvalidFilter", reason: ReasonInvalid, look: true},
	{code: "InvalidNextToken", reason: ReasonInvalid, look: true},
	{code: "InvalidPaginationToken", reason: ReasonInvalid, look: true},
}

// rowOf returns the row for an error of an action. For an error without a row it
// returns one with ReasonUnknown, which is neither a success nor permanent: EC2 may
// have executed the call. server says that the answer has an HTTP status of 500 or
// more.
func rowOf(action, code, text string, server bool) errorRow {
	code = strings.TrimPrefix(strings.TrimPrefix(code, "Client."), "Server.")
	text = strings.ToLower(text)
	for _, r := range errorRows {
		if strings.EqualFold(r.code, code) && strings.Contains(text, strings.ToLower(r.text)) && r.isAbout(action) {
			return r
		}
	}
	unknown := errorRow{code: code, reason: ReasonUnknown, look: true, effect: effectUnknown}
	if server {
		unknown.reason = ReasonUnreachable
	}
	return unknown
}

// isAbout reports whether the row is about an action.
func (r errorRow) isAbout(action string) bool {
	return len(r.calls) == 0 || slices.ContainsFunc(r.calls, func(c string) bool { return strings.HasPrefix(action, c) })
}
