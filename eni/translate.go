// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"errors"
	"net/http"
	"strings"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// reasons maps EC2's error codes
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html)
// to reasons. Codes that are not here count as ReasonInvalid.
var reasons = map[string]Reason{
	"RequestLimitExceeded":                   ReasonThrottled,
	"Throttling":                             ReasonThrottled,
	"ThrottlingException":                    ReasonThrottled,
	"EC2ThrottledException":                  ReasonThrottled,
	"SlowDown":                               ReasonThrottled,
	"UnauthorizedOperation":                  ReasonUnauthorized,
	"AuthFailure":                            ReasonUnauthorized,
	"AccessDenied":                           ReasonUnauthorized,
	"AccessDeniedException":                  ReasonUnauthorized,
	"InvalidClientTokenId":                   ReasonUnauthorized,
	"ExpiredToken":                           ReasonUnauthorized,
	"RequestExpired":                         ReasonUnauthorized,
	"SignatureDoesNotMatch":                  ReasonUnauthorized,
	"OptInRequired":                          ReasonUnauthorized,
	"InsufficientFreeAddressesInSubnet":      ReasonSubnetFull,
	"InsufficientCidrBlocks":                 ReasonNoFreePrefix,
	"AttachmentLimitExceeded":                ReasonENILimit,
	"NetworkInterfaceLimitExceeded":          ReasonQuota,
	"ResourceLimitExceeded":                  ReasonQuota,
	"PrivateIpAddressLimitExceeded":          ReasonSlotLimit,
	"Ipv6AddressLimitExceeded":               ReasonSlotLimit,
	"InvalidNetworkInterfaceID.NotFound":     ReasonNotFound,
	"InvalidNetworkInterfaceId.NotFound":     ReasonNotFound,
	"InvalidAttachmentID.NotFound":           ReasonNotFound,
	"InvalidSubnetID.NotFound":               ReasonNotFound,
	"InvalidInstanceID.NotFound":             ReasonNotFound,
	"InvalidGroup.NotFound":                  ReasonNotFound,
	"InvalidAssociationID.NotFound":          ReasonNotFound,
	"InvalidInterfaceAssociationID.NotFound": ReasonNotFound,
	"InvalidNetworkInterface.InUse":          ReasonInUse,
	"IncorrectState":                         ReasonInUse,
	"DependencyViolation":                    ReasonInUse,
	"InternalError":                          ReasonUnreachable,
	"InternalFailure":                        ReasonUnreachable,
	"Unavailable":                            ReasonUnreachable,
	"ServiceUnavailable":                     ReasonUnreachable,
}

// translate turns an error of the SDK into one of ours; above it nobody knows
// EC2's codes. It returns nil for nil.
func translate(action string, err error) *OpError {
	if err == nil {
		return nil
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return &OpError{Op: action, Why: ReasonUnreachable, Err: cause(err), lost: true}
	}
	e := &OpError{Op: action, Code: api.ErrorCode(), Why: ReasonInvalid, Err: errors.New(api.ErrorMessage())}
	var answer *smithyhttp.ResponseError
	server := errors.As(err, &answer) && answer.HTTPStatusCode() >= http.StatusInternalServerError
	if why, ok := reasons[strings.TrimPrefix(e.Code, "Client.")]; ok {
		e.Why = why
	} else if server {
		e.Why = ReasonUnreachable
	}
	e.lost = e.Why == ReasonUnreachable
	switch e.Why {
	case ReasonThrottled:
		e.After = backoffMost
	case ReasonSubnetFull, ReasonNoFreePrefix:
		e.After = ladderRest
	}
	return e
}

// cause strips the layers that the SDK puts around the error of a connection,
// whose text would repeat what OpError says.
func cause(err error) error {
	var op *smithy.OperationError
	if errors.As(err, &op) {
		return op.Unwrap()
	}
	return err
}

// lostAnswer says whether a call that failed with err may have had its effect.
func lostAnswer(err error) bool {
	var op *OpError
	return errors.As(err, &op) && op.lost
}
