// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Reason says why no address is available. The set is closed: every refusal
// carries one of the values below, and the CNI error, the log and the metric show
// the same value.
//
// The pool itself gives only ReasonCooling, ReasonAllInUse, ReasonPoolLimit,
// ReasonLinkNotReady and ReasonNoBlocks, and for wanted addresses also ReasonInUse,
// ReasonInFlight and ReasonNoSuchAddress. The other reasons come from the agent,
// by SetOutlook. They are defined here, beside the error that carries them, so
// that all layers use one spelling; the pool does not act on them.
type Reason string

// The reasons.
const (
	// ReasonAgentStarting: the agent has not observed its ENIs yet.
	ReasonAgentStarting Reason = "agent-starting"
	// ReasonAgentStopping: the agent is shutting down.
	ReasonAgentStopping Reason = "agent-stopping"
	// ReasonRefilling: more addresses were requested but did not arrive in time.
	ReasonRefilling Reason = "refilling"
	// ReasonCooling: all addresses that are not in use are cooling.
	ReasonCooling Reason = "cooling"
	// ReasonAllInUse: every address is in use, and the agent gave no other reason.
	ReasonAllInUse Reason = "all-in-use"
	// ReasonPoolLimit: the node has its maximum number of pods or addresses.
	ReasonPoolLimit Reason = "pool-limit"
	// ReasonENILimit: the instance has its maximum number of ENIs, and all are full.
	ReasonENILimit Reason = "eni-limit"
	// ReasonSlotLimit: the ENI has its maximum number of addresses.
	ReasonSlotLimit Reason = "slot-limit"
	// ReasonQuota: the account's quota of ENIs is used up.
	ReasonQuota Reason = "quota"
	// ReasonSubnetFull: the subnet has no free address.
	ReasonSubnetFull Reason = "subnet-full"
	// ReasonNoFreePrefix: the subnet has free addresses but no free /28 prefix.
	ReasonNoFreePrefix Reason = "no-free-prefix"
	// ReasonThrottled: EC2 throttled the call.
	ReasonThrottled Reason = "throttled"
	// ReasonUnauthorized: the node's IAM role lacks a permission.
	ReasonUnauthorized Reason = "unauthorized"
	// ReasonEC2Unreachable: EC2 did not answer.
	ReasonEC2Unreachable Reason = "ec2-unreachable"
	// ReasonNoMetadata: the instance metadata service did not answer.
	ReasonNoMetadata Reason = "no-metadata"
	// ReasonSafeMode: an operator or a safety check has disabled changes in EC2.
	ReasonSafeMode Reason = "safe-mode"
	// ReasonInFlight: an earlier operation on the same ENI or block has not ended yet.
	ReasonInFlight Reason = "in-flight"
	// ReasonInUse: an ENI or address of an operation is in use, or may be.
	ReasonInUse Reason = "in-use"
	// ReasonNoSuchAddress: a pod wants an address that no ENI of the node has, or that
	// no pod can have.
	ReasonNoSuchAddress Reason = "no-such-address"
	// ReasonNotFound: an ENI of an operation does not exist.
	ReasonNotFound Reason = "not-found"
	// ReasonNotManaged: the node is not allowed to change the ENI.
	ReasonNotManaged Reason = "not-managed"
	// ReasonLinkNotReady: an ENI has addresses, but its link, route table or
	// routes on the node are not verified.
	ReasonLinkNotReady Reason = "link-not-ready"
	// ReasonNoBlocks: the pool has no block of that family on that card.
	ReasonNoBlocks Reason = "no-blocks"
	// ReasonEC2Refused: EC2 returned an error that has no reason of its own in
	// this list; the evidence has its text.
	ReasonEC2Refused Reason = "ec2-refused"
)

// Reasons returns all reasons, in the order of their definition.
func Reasons() []Reason {
	return []Reason{
		ReasonAgentStarting, ReasonAgentStopping, ReasonRefilling, ReasonCooling, ReasonAllInUse, ReasonPoolLimit,
		ReasonENILimit, ReasonSlotLimit, ReasonQuota, ReasonSubnetFull, ReasonNoFreePrefix, ReasonThrottled,
		ReasonUnauthorized, ReasonEC2Unreachable, ReasonNoMetadata, ReasonSafeMode,
		ReasonInFlight, ReasonInUse, ReasonNoSuchAddress, ReasonNotFound, ReasonNotManaged, ReasonLinkNotReady,
		ReasonNoBlocks, ReasonEC2Refused,
	}
}

// Sentinels for errors.Is.
var (
	// ErrExhausted: no address is available. errors.As finds the *ExhaustedError
	// with the reason.
	ErrExhausted = errors.New("no address available")
	// ErrNotAllocated: the attachment holds no address.
	ErrNotAllocated = errors.New("attachment holds no address")
	// ErrInUse: a block or ENI has addresses in use or cooling.
	ErrInUse = errors.New("addresses in use or cooling")
	// ErrUnknown: the pool knows no such ENI or block.
	ErrUnknown = errors.New("unknown to the pool")
	// ErrConflict: the request contradicts the state of the pool.
	ErrConflict = errors.New("conflicts with the pool")
	// ErrInvalid: a value is malformed.
	ErrInvalid = errors.New("invalid")
	// ErrWitness: the Witness failed; nothing was allocated or drained.
	ErrWitness = errors.New("no answer from the witness")
	// ErrJournal: the journal could not be read or written; the pool is
	// unchanged.
	ErrJournal = errors.New("journal")
)

// ExhaustedError says why no address could be allocated. errors.Is matches it
// with ErrExhausted and, if the wait was cut short, with the context's error.
type ExhaustedError struct {
	Attachment Attachment
	Family     Family
	Card       int
	// Addr is the address of Request.Addrs that cannot be allocated; invalid if the
	// request was not refused for a wanted address.
	Addr   netip.Addr
	Reason Reason
	// Evidence is the detail behind the reason, for an operator.
	Evidence string
	// RetryAfter is the time after which to try again. Zero means unknown.
	RetryAfter time.Duration
	// Waited is how long the request was in the queue.
	Waited time.Duration
	// err is the context's error if the context ended first. May be nil.
	err error
}

// Error returns the reason, followed by the evidence.
func (e *ExhaustedError) Error() string {
	s := fmt.Sprintf("no %v address on card %d for %v: %s", e.Family, e.Card, e.Attachment, e.Reason)
	if e.Addr.IsValid() {
		s = fmt.Sprintf("address %v for %v: %s", e.Addr, e.Attachment, e.Reason)
	}
	if e.Evidence != "" {
		s += ": " + e.Evidence
	}
	if e.Waited > 0 {
		s += fmt.Sprintf(" (waited %v)", e.Waited.Round(time.Millisecond))
	}
	if e.RetryAfter > 0 {
		s += fmt.Sprintf("; try again in %v", e.RetryAfter.Round(time.Millisecond))
	}
	return s
}

// Unwrap returns ErrExhausted and the context's error.
func (e *ExhaustedError) Unwrap() []error {
	if e.err == nil {
		return []error{ErrExhausted}
	}
	return []error{ErrExhausted, e.err}
}
