// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"net/netip"
	"time"
)

// Op is the operation of an intent.
type Op string

// The operations that are journalled.
const (
	OpProvision    Op = "provision"     // create an ENI and attach it
	OpRetire       Op = "retire"        // detach an ENI and delete it
	OpAssign       Op = "assign"        // assign addresses or prefixes to an ENI
	OpUnassign     Op = "unassign"      // unassign addresses or prefixes from an ENI
	OpBranch       Op = "branch"        // create a branch ENI and associate it with a trunk
	OpRetireBranch Op = "retire-branch" // disassociate a branch ENI from its trunk and delete it
)

// Records that the journal keeps beside the operations. They are always Done, and not
// needed to finish or undo an operation.
const (
	OpLearned Op = "learned" // what refusals of EC2 have shown about the instance type
	OpOwned   Op = "owned"   // EC2 has shown that this node manages the ENI
)

// Intent is the journal record of one operation. The Manager journals it before
// the operation's first external call, and again after each step. It holds
// everything that is needed to finish or undo the operation after a crash. Fields
// that do not apply to the Op are zero.
type Intent struct {
	// ID is unique and identifies the intent in its journal.
	ID string
	Op Op
	// Start is the time when the operation began, Changed the time of EC2's last
	// answer to one of its calls.
	Start, Changed time.Time
	// Done says that the operation is complete, or undone. The journal keeps the
	// intent for a while, as evidence against views from before the operation.
	Done bool
	// Undo says that the operation failed and is being undone.
	Undo bool
	// Why is the reason for Undo.
	Why Reason `json:",omitempty"`

	// ENI and Attachment are known once EC2 has answered; Made is what the
	// create call returned.
	ENI        string `json:",omitempty"`
	Attachment string `json:",omitempty"`
	Made       *ENI   `json:",omitempty"`
	// Token is the client token of the create call. While it is set and ENI is
	// not, an ENI may have been created. A repeated create call with the same
	// token and the same fields below returns the same ENI.
	Token  string   `json:",omitempty"`
	Subnet string   `json:",omitempty"`
	Groups []string `json:",omitempty"`
	Kind   Kind     `json:",omitempty"`
	// OnePod says that the ENI is for one pod alone.
	OnePod bool `json:",omitempty"`
	Card   int  `json:",omitempty"`
	Device int  `json:",omitempty"`
	// Addrs, Prefixes, Addrs6 and Prefixes6 are the numbers of slots of each sort
	// that the create or assign call requests.
	Addrs     int `json:",omitempty"`
	Prefixes  int `json:",omitempty"`
	Addrs6    int `json:",omitempty"`
	Prefixes6 int `json:",omitempty"`
	// Created is the creation time written into the tags.
	Created time.Time
	// Attached and DeleteOnTermination say that EC2 accepted the attach call and
	// the call that sets delete-on-termination. Ready says that a source has
	// shown the ENI attached. In JSON the second is called Kept, as in the
	// journals of earlier versions.
	Attached            bool `json:",omitempty"`
	DeleteOnTermination bool `json:"Kept,omitempty"`
	Ready               bool `json:",omitempty"`
	// Detached says that EC2 accepted the detach call. Doubt says that EC2 may
	// have executed a call without an answer: a detach, or an unassign that
	// continues after an interruption.
	Detached bool `json:",omitempty"`
	Doubt    bool `json:",omitempty"`

	// Blocks are the blocks to unassign (unassign), or those that EC2 assigned
	// (assign, provision).
	Blocks []netip.Prefix `json:",omitempty"`
	// Before are the blocks that the ENI had when an assign began, or when EC2
	// last described an ENI that is being attached or removed. For a branch ENI
	// they include its own addresses.
	Before []netip.Prefix `json:",omitempty"`

	// Trunk, VLANID and Association belong to branch ENIs; NotBefore is the end
	// of a branch's cooldown.
	Trunk       string `json:",omitempty"`
	VLANID      int    `json:",omitempty"`
	Association string `json:",omitempty"`
	NotBefore   time.Time

	// Learned belongs to OpLearned.
	Learned *LearnedLimits `json:",omitempty"`
}

// Intents is a durable journal of intents. It is safe for concurrent use. When a
// call returns nil, its effect is durable. [NewMemory] returns a journal without
// durability; package eni/waljournal keeps one in a file.
type Intents interface {
	// Put stores the intent under its ID and replaces an earlier version of it.
	Put(ctx context.Context, in Intent) error
	// Remove deletes an intent. It returns nil if there is no such intent.
	Remove(ctx context.Context, id string) error
	// All returns all stored intents in no particular order.
	All(ctx context.Context) ([]Intent, error)
}
