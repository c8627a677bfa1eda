// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Reason is why an operation did not succeed, out of a closed set. The values
// appear in logs, metrics and CNI errors.
type Reason string

// The reasons.
const (
	ReasonSubnetFull    Reason = "subnet-full"     // no free address in any subnet allowed
	ReasonNoFreePrefix  Reason = "no-free-prefix"  // addresses are free, but no whole /28 or /80
	ReasonENILimit      Reason = "eni-limit"       // the instance takes no more ENIs
	ReasonSlotLimit     Reason = "slot-limit"      // the ENI takes no more addresses
	ReasonQuota         Reason = "quota"           // the account's quota of ENIs is used up
	ReasonThrottled     Reason = "throttled"       // EC2 asks for fewer calls
	ReasonUnauthorized  Reason = "unauthorized"    // the role lacks an IAM action
	ReasonUnreachable   Reason = "ec2-unreachable" // no answer, or none in time
	ReasonNoMetadata    Reason = "no-metadata"     // the metadata service does not answer
	ReasonNotFound      Reason = "not-found"       // the ENI, or what it refers to, is not there
	ReasonInUse         Reason = "in-use"          // pods have addresses of it, or may have, or EC2 is still detaching it
	ReasonNotManaged    Reason = "not-managed"     // the ENI is not ours to change
	ReasonMode          Reason = "safe-mode"       // the safe mode forbids it
	ReasonInvalid       Reason = "invalid"         // EC2 rejects the request as wrong
	ReasonStillInFlight Reason = "in-flight"       // an earlier attempt is not finished; Resume goes on with it
	ReasonUnknown       Reason = "unknown"
)

// Reasons returns all reasons, in the order of their definition.
func Reasons() []Reason {
	return []Reason{
		ReasonSubnetFull, ReasonNoFreePrefix, ReasonENILimit, ReasonSlotLimit, ReasonQuota, ReasonThrottled,
		ReasonUnauthorized, ReasonUnreachable, ReasonNoMetadata, ReasonNotFound, ReasonInUse, ReasonNotManaged,
		ReasonMode, ReasonInvalid, ReasonStillInFlight, ReasonUnknown,
	}
}

// Sentinels for errors.Is. An *OpError matches the one of its Reason.
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

// sentinels maps each reason to what errors.Is finds.
var sentinels = map[Reason]error{
	ReasonSubnetFull: ErrSubnetFull, ReasonNoFreePrefix: ErrNoFreePrefix, ReasonENILimit: ErrENILimit,
	ReasonSlotLimit: ErrSlotLimit, ReasonQuota: ErrQuota, ReasonThrottled: ErrThrottled,
	ReasonUnauthorized: ErrUnauthorized, ReasonUnreachable: ErrUnreachable, ReasonNoMetadata: ErrNoMetadata,
	ReasonNotFound: ErrNotFound, ReasonInUse: ErrInUse, ReasonNotManaged: ErrNotManaged,
	ReasonMode: ErrMode, ReasonInvalid: ErrInvalid, ReasonStillInFlight: ErrInFlight,
}

// OpError is the error of every operation of this package that reached, or
// would have reached, EC2 or the metadata service.
type OpError struct {
	// Op is what was asked for: an EC2 action such as "AttachNetworkInterface",
	// or an operation of a Manager such as "provision".
	Op string
	// ENI is the ENI it was about, or empty.
	ENI string
	// Code is EC2's error code, or empty if EC2 did not answer with one.
	Code string
	// Why is the reason, out of the closed set.
	Why Reason
	// After is when it makes sense to try again; 0 if time does not help or
	// nothing is known.
	After time.Duration
	// Err is the cause, or nil.
	Err error
	// lost says that EC2 may have done it all the same: the answer did not
	// arrive, or was one of a broken server.
	lost bool
	// unmet says that EC2 was not asked, because Config.InUse forbids the call.
	unmet bool
}

// Error names the operation, the ENI, the reason, and EC2's own words.
func (e *OpError) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.ENI != "" {
		b.WriteString(" " + e.ENI)
	}
	fmt.Fprintf(&b, ": %s", e.Why)
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

// Is matches the sentinel of the error's reason.
func (e *OpError) Is(target error) bool {
	s, ok := sentinels[e.Why]
	return ok && s == target
}

// Reason is the reason as a string, for those who do not import this package.
func (e *OpError) Reason() string { return string(e.Why) }

// RetryAfter is when it makes sense to try again; 0 if nothing is known.
func (e *OpError) RetryAfter() time.Duration { return e.After }

// forbidden says whether err is the refusal of Config.InUse, and not one of EC2.
func forbidden(err error) bool {
	var op *OpError
	return errors.As(err, &op) && op.unmet
}

// reasonOf is the reason an error carries, ReasonUnknown if none.
func reasonOf(err error) Reason {
	var op *OpError
	if errors.As(err, &op) {
		return op.Why
	}
	return ReasonUnknown
}
