// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"fmt"
	"time"
)

// Policy says what a pool should become. Decide is a pure function: the same
// snapshot gives the same decision, without clock, randomness, I/O or state of
// its own; what it must remember goes through Memory. It is safe for
// concurrent use. Run policies through [Plan], which enforces what no policy
// may break; package warmpooltest checks the rest.
type Policy interface {
	Decide(Snapshot) Decision
}

// Decision is a policy's answer.
type Decision struct {
	// Short and Over count the slots that the policy misses or has too many,
	// by its own formula, before limits. At most one of them is positive.
	Short, Over int
	// Actions are to be carried out in order.
	Actions []Action
	// Reason says why the decision is what it is, also when there is nothing to do.
	Reason Reason
	// Capped, when not zero, says which limit made Plan cut or drop an action.
	Capped Reason
	// Memory goes into the next Snapshot.
	Memory Memory
	// Next asks for another look after that time even if nothing changes; zero
	// means only on change.
	Next time.Duration
	// Beside is what the second policy of a Shadow would have done.
	Beside *Decision
}

// Action is one step, which is one or a few EC2 calls.
type Action struct {
	Op Op
	// ENI is the interface to act on; empty for OpCreate.
	ENI string
	// N counts slots: to assign or unassign, or the ones that a new ENI starts
	// with. For OpDelete it is what the ENI held.
	N int
	// Reason names the rule that fired and the numbers it saw.
	Reason Reason
}

// Op is what an Action does.
type Op string

// The operations.
const (
	// OpAssign assigns N more slots to an ENI.
	OpAssign Op = "assign"
	// OpCreate creates an ENI with N slots and attaches it.
	OpCreate Op = "create"
	// OpUnassign gives N slots of an ENI back. The executor picks slots that
	// are wholly free and do not cool.
	OpUnassign Op = "unassign"
	// OpDelete detaches and deletes an ENI that has no assigned and no cooling
	// address.
	OpDelete Op = "delete"
)

// String returns the operation's name as used in JSON and logs.
func (o Op) String() string { return string(o) }

// grows reports whether the operation adds slots.
func (o Op) grows() bool { return o == OpAssign || o == OpCreate }

// Reason is a sentence with the numbers that led to it. It is formatted only
// when somebody reads it, so that deciding allocates nothing.
type Reason struct {
	rule string
	args [8]int
	n    int
}

// Because makes a Reason from a format with one %d for each of at most eight
// numbers.
func Because(rule string, args ...int) Reason {
	r := Reason{rule: rule}
	r.n = copy(r.args[:], args)
	return r
}

// Rule returns the sentence without its numbers: a stable name of the rule.
func (r Reason) Rule() string { return r.rule }

// IsZero reports whether there is no reason.
func (r Reason) IsZero() bool { return r.rule == "" }

// String returns the sentence.
func (r Reason) String() string {
	if r.n == 0 {
		return r.rule
	}
	args := make([]any, r.n)
	for i := range args {
		args[i] = r.args[i]
	}
	return fmt.Sprintf(r.rule, args...)
}

// MarshalText implements encoding.TextMarshaler, so that JSON and structured
// logs show the sentence.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Memory is what a policy remembers from one decision to the next: a few
// times and counters whose meaning is the policy's own. It is a plain value,
// so that it can be stored and a decision be replayed exactly.
type Memory struct {
	Times  [3]time.Time `json:"times"`
	Counts [16]int      `json:"counts"`
	// Inner holds the memories of the policies that a wrapper runs.
	Inner []Memory `json:"inner,omitempty"`
}

// inner returns the memory of the i-th wrapped policy.
func (m Memory) inner(i int) Memory {
	if i < len(m.Inner) {
		return m.Inner[i]
	}
	return Memory{}
}

// sooner is the smaller of two waits, of which zero means none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
