// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// translate converts an error of the SDK to an *OpError, so that its callers need
// not know EC2's codes. It returns nil for nil.
func translate(action string, err error) *OpError {
	if err == nil {
		return nil
	}
	var api smithy.APIError
	if errors.Is(err, ErrNoCredentials) {
		return &OpError{Op: action, reason: ReasonUnauthorized, Err: cause(err), unsent: true}
	}
	if !errors.As(err, &api) {
		return &OpError{Op: action, reason: ReasonUnreachable, Err: cause(err), look: true, lost: true}
	}
	var answer *smithyhttp.ResponseError
	server := errors.As(err, &answer) && answer.HTTPStatusCode() >= http.StatusInternalServerError
	row := rowOf(action, api.ErrorCode(), api.ErrorMessage(), server)
	e := &OpError{
		Op: action, Code: api.ErrorCode(), Err: errors.New(api.ErrorMessage()),
		reason: row.reason, look: row.look, lost: row.effect == effectUnknown, rest: row.rest, clock: row.clock,
	}
	if row.hint != "" {
		e.Err = fmt.Errorf("%s; %s", api.ErrorMessage(), row.hint)
	}
	switch e.reason {
	case ReasonThrottled, ReasonUnknown:
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

// notNow reports whether EC2 certainly has not executed a call that failed with err, and
// would not refuse it at another time: it was throttled, not sent, or not signed with
// valid credentials. The call says nothing about its object then.
func notNow(err error) bool {
	var op *OpError
	return errors.As(err, &op) && !op.lost && (op.unsent || op.reason == ReasonThrottled || op.reason == ReasonUnauthorized && !op.rest)
}

// mustLook reports whether a caller has to ask EC2 for the state of an object
// before it repeats a call that failed with err, or takes err as final.
func mustLook(err error) bool {
	var op *OpError
	return errors.As(err, &op) && (op.look || op.lost)
}
