// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"errors"
	"net/http"
	"strings"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// reasons maps the error codes of EC2
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html)
// to reasons. Other codes mean ReasonInvalid.
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

// translate converts an error of the SDK to an *OpError, so that its callers need
// not know EC2's codes. It returns nil for nil.
func translate(action string, err error) *OpError {
	if err == nil {
		return nil
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return &OpError{Op: action, reason: ReasonUnreachable, Err: cause(err), lost: true}
	}
	e := &OpError{Op: action, Code: api.ErrorCode(), reason: ReasonInvalid, Err: errors.New(api.ErrorMessage())}
	var answer *smithyhttp.ResponseError
	server := errors.As(err, &answer) && answer.HTTPStatusCode() >= http.StatusInternalServerError
	if reason, ok := reasons[strings.TrimPrefix(e.Code, "Client.")]; ok {
		e.reason = reason
	} else if server {
		e.reason = ReasonUnreachable
	}
	e.lost = e.reason == ReasonUnreachable
	switch e.reason {
	case ReasonThrottled:
		e.retryAfter = backoffMax
	case ReasonSubnetFull, ReasonNoFreePrefix:
		e.retryAfter = exhaustedFor
	}
	return e
}

// cause removes the layers that the SDK adds to the error of a connection, because
// their text repeats that of the OpError.
func cause(err error) error {
	var op *smithy.OperationError
	if errors.As(err, &op) {
		return op.Unwrap()
	}
	return err
}

// lostAnswer reports whether EC2 may have executed a call that failed with err.
func lostAnswer(err error) bool {
	var op *OpError
	return errors.As(err, &op) && op.lost
}
