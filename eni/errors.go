// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Reason says why an operation failed. The set of reasons is closed. The values
// appear in logs, metrics and CNI errors.
type Reason string

// The reasons.
const (
	ReasonSubnetFull    Reason = "subnet-full"     // none of the selected subnets has a free address
	ReasonNoFreePrefix  Reason = "no-free-prefix"  // the subnet has free addresses, but no free /28 or /80
	ReasonENILimit      Reason = "eni-limit"       // the instance takes no more ENIs
	ReasonSlotLimit     Reason = "slot-limit"      // the ENI takes no more addresses
	ReasonQuota         Reason = "quota"           // a quota of the account is used up, for example that of ENIs
	ReasonThrottled     Reason = "throttled"       // EC2 asks for fewer calls
	ReasonUnauthorized  Reason = "unauthorized"    // the role lacks an IAM action
	ReasonUnreachable   Reason = "ec2-unreachable" // EC2 did not answer, or not in time
	ReasonNoMetadata    Reason = "no-metadata"     // the metadata service did not answer
	ReasonNotFound      Reason = "not-found"       // the ENI, or an object it refers to, does not exist
	ReasonInUse         Reason = "in-use"          // pods have addresses of the ENI, or may have, or EC2 is still detaching it
	ReasonNotManaged    Reason = "not-managed"     // this node may not change the ENI
	ReasonMode          Reason = "safe-mode"       // the safe mode forbids it
	ReasonInvalid       Reason = "invalid"         // EC2 rejected the request as invalid
	ReasonStillInFlight Reason = "in-flight"       // an earlier operation is not finished; Resume continues it
	ReasonUnknown       Reason = "unknown"         // EC2's code is not known, or the error carries no reason
)

// Reasons returns all reasons in the order of their definition.
func Reasons() []Reason {
	return []Reason{
		ReasonSubnetFull, ReasonNoFreePrefix, ReasonENILimit, ReasonSlotLimit, ReasonQuota, ReasonThrottled,
		ReasonUnauthorized, ReasonUnreachable, ReasonNoMetadata, ReasonNotFound, ReasonInUse, ReasonNotManaged,
		ReasonMode, ReasonInvalid, ReasonStillInFlight, ReasonUnknown,
	}
}

// Sentinel errors for errors.Is. An *OpError matches the sentinel of its reason.
var (
	ErrSubnetFull   = errors.New("subnet has no free address")
	ErrNoFreePrefix = errors.New("subnet has no free prefix")
	ErrENILimit     = errors.New("instance takes no more ENIs")
	ErrSlotLimit    = errors.New("ENI takes no more addresses")
	ErrQuota        = errors.New("account quota used up")
	ErrThrottled    = errors.New("throttled by EC2")
	ErrUnauthorized = errors.New("not authorized")
	ErrUnreachable  = errors.New("EC2 does not answer")
	ErrNoMetadata   = errors.New("instance metadata service does not answer")
	ErrNotFound     = errors.New("not found")
	ErrInUse        = errors.New("in use")
	ErrNotManaged   = errors.New("ENI is not managed by this node")
	ErrMode         = errors.New("forbidden by the safe mode")
	ErrInvalid      = errors.New("rejected by EC2")
	ErrInFlight     = errors.New("still in flight")
)

// sentinels maps each reason to its sentinel error.
var sentinels = map[Reason]error{
	ReasonSubnetFull: ErrSubnetFull, ReasonNoFreePrefix: ErrNoFreePrefix, ReasonENILimit: ErrENILimit,
	ReasonSlotLimit: ErrSlotLimit, ReasonQuota: ErrQuota, ReasonThrottled: ErrThrottled,
	ReasonUnauthorized: ErrUnauthorized, ReasonUnreachable: ErrUnreachable, ReasonNoMetadata: ErrNoMetadata,
	ReasonNotFound: ErrNotFound, ReasonInUse: ErrInUse, ReasonNotManaged: ErrNotManaged,
	ReasonMode: ErrMode, ReasonInvalid: ErrInvalid, ReasonStillInFlight: ErrInFlight,
}

// OpError is the error of an operation on EC2 or the metadata service. Every
// such operation of this package returns one. [OpError.Reason] and
// [OpError.RetryAfter] tell why it failed and when to try again.
type OpError struct {
	// Op is the operation that failed: an EC2 action such as
	// "AttachNetworkInterface", or an operation of a Manager such as "provision".
	Op string
	// ENI is the ID of the ENI that the operation was about, or empty.
	ENI string
	// Code is EC2's error code, or empty if EC2 did not answer with one.
	Code string
	// Err is the cause, or nil.
	Err error

	reason     Reason
	retryAfter time.Duration
	// lost says that EC2 may have executed the call although it failed: the
	// answer did not arrive, or it reported an internal error of EC2.
	lost bool
	// look says that only a describe call shows what the refusal means.
	look bool
	// unsent says that this try of the call was not sent to EC2.
	unsent bool
	// rest says that the call fails until an operator changes something. undone says
	// that the operation has created an ENI and removed it again.
	rest, undone bool
	// clock says that the time of the signature explains the error. skew is how far
	// EC2's clock is ahead.
	clock bool
	skew  time.Duration
	// inUseVeto says that Config.InUse forbade the call, so that EC2 was not
	// asked.
	inUseVeto bool
}

// NewOpError returns the error of an operation that failed for a reason. cause
// may be nil. It is for programs that report their own failures at EC2 or the
// metadata service with the reasons of this package, and for tests.
func NewOpError(op string, reason Reason, cause error) *OpError {
	return &OpError{Op: op, reason: reason, Err: cause}
}

// Error names the operation, the ENI, the reason, and EC2's own code and message.
func (e *OpError) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.ENI != "" {
		b.WriteString(" " + e.ENI)
	}
	fmt.Fprintf(&b, ": %s", e.reason)
	if e.Code != "" {
		fmt.Fprintf(&b, " (%s)", e.Code)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// Is reports whether target is the sentinel of the error's reason.
func (e *OpError) Is(target error) bool {
	s, ok := sentinels[e.reason]
	return ok && s == target
}

// Reason returns the reason, one of [Reasons]. It is a string so that packages
// which do not import this one can ask for it through an interface.
func (e *OpError) Reason() string { return string(e.reason) }

// RetryAfter returns how long to wait before another attempt makes sense. It
// returns 0 if waiting does not help, or if the time is not known.
func (e *OpError) RetryAfter() time.Duration { return e.retryAfter }

// forbidden reports whether Config.InUse, and not EC2, refused the operation.
func forbidden(err error) bool {
	var op *OpError
	return errors.As(err, &op) && op.inUseVeto
}

// reasonOf returns the reason that an error carries, or ReasonUnknown.
func reasonOf(err error) Reason {
	var op *OpError
	if errors.As(err, &op) {
		return op.reason
	}
	return ReasonUnknown
}
