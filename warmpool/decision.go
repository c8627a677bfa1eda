// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"fmt"
	"time"
)

// Policy decides how a pool grows and shrinks. Decide is a pure function: the
// same snapshot gives the same decision. It uses no clock, no randomness, no I/O
// and no state other than Memory, and it is safe for concurrent use. Callers run
// policies through [Plan], which enforces the limits of the card. Package
// warmpooltest checks the other rules.
type Policy interface {
	Decide(Snapshot) Decision
}

// Decision is a policy's answer.
type Decision struct {
	// Short is the number of slots missing, Over the number of surplus slots, by
	// the policy's formula and before limits. At most one of them is positive.
	Short, Over int
	// Actions lists the actions in the order in which to carry them out.
	Actions []Action
	// Explanation gives the rule and the numbers behind the decision, also when
	// there are no actions.
	Explanation Explanation
	// Capped, when not zero, names the limit that made Plan cut or drop an action.
	Capped Explanation
	// Memory is the Memory for the next Snapshot.
	Memory Memory
	// Next is the time after which to decide again even if nothing has changed.
	// Zero means to decide again only after a change.
	Next time.Duration
	// Other is the decision of the second policy of a Shadow, otherwise nil.
	Other *Decision
}

// Action is one step of a decision. It takes one EC2 call or a few.
type Action struct {
	Op Op
	// ENI is the ID of the ENI to change; empty for OpCreate.
	ENI string
	// N is the number of slots to assign or unassign, or to create the ENI with.
	// For OpDelete it is the number of slots that the ENI has.
	N int
	// Explanation gives the rule and the numbers behind the action.
	Explanation Explanation
}

// Op is the operation of an Action.
type Op string

// The operations.
const (
	// OpAssign assigns N more slots to an ENI.
	OpAssign Op = "assign"
	// OpCreate creates an ENI with N slots and attaches it.
	OpCreate Op = "create"
	// OpUnassign unassigns N slots of an ENI. The caller chooses slots without
	// an assigned or cooling address.
	OpUnassign Op = "unassign"
	// OpDelete detaches and deletes an ENI without assigned or cooling addresses.
	OpDelete Op = "delete"
)

// String returns the operation's name as used in JSON and logs.
func (o Op) String() string { return string(o) }

// grows reports whether the operation adds slots.
func (o Op) grows() bool { return o == OpAssign || o == OpCreate }

// Explanation is a sentence with numbers that explains a decision. String formats
// it, so that a decision that no caller prints allocates nothing.
type Explanation struct {
	rule string
	args [8]int
	n    int
}

// Because returns an Explanation. The rule is a format with one %d for each of at
// most eight numbers.
func Because(rule string, args ...int) Explanation {
	r := Explanation{rule: rule}
	r.n = copy(r.args[:], args)
	return r
}

// Rule returns the format without the numbers. It identifies the rule.
func (r Explanation) Rule() string { return r.rule }

// IsZero reports whether the explanation is empty.
func (r Explanation) IsZero() bool { return r.rule == "" }

// String returns the sentence.
func (r Explanation) String() string {
	if r.n == 0 {
		return r.rule
	}
	args := make([]any, r.n)
	for i := range args {
		args[i] = r.args[i]
	}
	return fmt.Sprintf(r.rule, args...)
}

// MarshalText implements encoding.TextMarshaler with the sentence, for JSON and
// structured logs.
func (r Explanation) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// sooner returns the shorter of two waits. A wait of zero means no wait.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
