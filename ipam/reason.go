// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"time"
)

// Reason says why there is no address. The set is closed: every refusal
// carries one of the values below, unchanged from the place where it was seen
// to the CNI error, the log and the metric.
type Reason string

// The reasons.
const (
	// ReasonAgentStarting: the agent has not yet seen its ENIs.
	ReasonAgentStarting Reason = "agent-starting"
	// ReasonAgentStopping: the agent is shutting down.
	ReasonAgentStopping Reason = "agent-stopping"
	// ReasonRefilling: addresses are on their way and did not come in time.
	ReasonRefilling Reason = "refilling"
	// ReasonCooling: the only free addresses were released too recently.
	ReasonCooling Reason = "cooling"
	// ReasonAllInUse: every address is in use, and nobody said that more come.
	ReasonAllInUse Reason = "all-in-use"
	// ReasonPoolLimit: the node holds as many attachments as it may.
	ReasonPoolLimit Reason = "pool-limit"
	// ReasonENILimit: the instance takes no more ENIs, and those it has are full.
	ReasonENILimit Reason = "eni-limit"
	// ReasonSlotLimit: the ENI takes no more addresses.
	ReasonSlotLimit Reason = "slot-limit"
	// ReasonQuota: the account's quota of ENIs is used up.
	ReasonQuota Reason = "quota"
	// ReasonSubnetFull: the subnet has no free address.
	ReasonSubnetFull Reason = "subnet-full"
	// ReasonNoFreePrefix: the subnet has free addresses but no whole free prefix.
	ReasonNoFreePrefix Reason = "no-free-prefix"
	// ReasonThrottled: EC2 asked for fewer calls.
	ReasonThrottled Reason = "throttled"
	// ReasonUnauthorized: the node's IAM role lacks a permission.
	ReasonUnauthorized Reason = "unauthorized"
	// ReasonEC2Unreachable: EC2 did not answer.
	ReasonEC2Unreachable Reason = "ec2-unreachable"
	// ReasonNoMetadata: the instance metadata service did not answer.
	ReasonNoMetadata Reason = "no-metadata"
	// ReasonSafeMode: an operator or a trip has forbidden changes.
	ReasonSafeMode Reason = "safe-mode"
	// ReasonInFlight: an earlier operation on the same ENI has not ended yet.
	ReasonInFlight Reason = "in-flight"
	// ReasonInUse: an ENI or address that an operation concerns is in use, or may be.
	ReasonInUse Reason = "in-use"
	// ReasonNotFound: an ENI that an operation concerns is not there.
	ReasonNotFound Reason = "not-found"
	// ReasonNotManaged: the node may not change the ENI.
	ReasonNotManaged Reason = "not-managed"
	// ReasonLinkNotReady: an ENI has addresses, but its link, table or routes
	// on the node are not verified.
	ReasonLinkNotReady Reason = "link-not-ready"
	// ReasonNoBlocks: nobody has given the pool a block of that family and card.
	ReasonNoBlocks Reason = "no-blocks"
	// ReasonEC2Refused: EC2 refused for a cause that has no name in this list;
	// the evidence has its words.
	ReasonEC2Refused Reason = "ec2-refused"
)

// Reasons returns all reasons, in the order of their definition.
func Reasons() []Reason {
	return []Reason{
		ReasonAgentStarting, ReasonAgentStopping, ReasonRefilling, ReasonCooling, ReasonAllInUse, ReasonPoolLimit,
		ReasonENILimit, ReasonSlotLimit, ReasonQuota, ReasonSubnetFull, ReasonNoFreePrefix, ReasonThrottled,
		ReasonUnauthorized, ReasonEC2Unreachable, ReasonNoMetadata, ReasonSafeMode,
		ReasonInFlight, ReasonInUse, ReasonNotFound, ReasonNotManaged, ReasonLinkNotReady,
		ReasonNoBlocks, ReasonEC2Refused,
	}
}

// Sentinels for errors.Is.
var (
	// ErrExhausted is every refusal for want of an address; errors.As finds the
	// *ExhaustedError with its reason.
	ErrExhausted = errors.New("no address available")
	// ErrNotAllocated: the attachment holds nothing.
	ErrNotAllocated = errors.New("attachment holds no address")
	// ErrInUse: a block or ENI has addresses in use or cooling.
	ErrInUse = errors.New("addresses in use or cooling")
	// ErrUnknown: the pool knows no such ENI or block.
	ErrUnknown = errors.New("unknown to the pool")
	// ErrConflict: the request contradicts what the pool holds.
	ErrConflict = errors.New("conflicts with the pool")
	// ErrInvalid: a value is malformed.
	ErrInvalid = errors.New("invalid")
	// ErrWitness: the Witness could not answer; nothing was given away.
	ErrWitness = errors.New("use of addresses not known")
	// ErrJournal: the journal could not be read or written; what was asked for
	// has not happened.
	ErrJournal = errors.New("journal")
)

// ExhaustedError says why no address could be allocated. It is ErrExhausted
// to errors.Is, and wraps the context's error when waiting came to its end.
type ExhaustedError struct {
	Attachment Attachment
	Family     Family
	Card       int
	Reason     Reason
	// Evidence is what the reason was concluded from, for a person.
	Evidence string
	// RetryAfter is when it makes sense to ask again. Zero means unknown.
	RetryAfter time.Duration
	// Waited is how long the request stood in the queue.
	Waited time.Duration
	// Err is the context's error if the caller's time ran out. May be nil.
	Err error
}

// Error names the reason first and the evidence after it.
func (e *ExhaustedError) Error() string {
	s := fmt.Sprintf("no %v address on card %d for %v: %s", e.Family, e.Card, e.Attachment, e.Reason)
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
	if e.Err == nil {
		return []error{ErrExhausted}
	}
	return []error{ErrExhausted, e.Err}
}
