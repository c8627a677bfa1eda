// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"net/netip"
	"time"
)

// Op is what an intent is about.
type Op string

// The operations that are journalled.
const (
	OpProvision    Op = "provision"     // create an ENI and attach it
	OpRetire       Op = "retire"        // detach an ENI and delete it
	OpAssign       Op = "assign"        // put addresses or prefixes on an ENI
	OpUnassign     Op = "unassign"      // take addresses or prefixes off an ENI
	OpBranch       Op = "branch"        // create a branch ENI and join it to a trunk
	OpRetireBranch Op = "retire-branch" // take a branch ENI from its trunk and delete it
)

// Intent is one operation written down before its first external call, and
// again whenever it has come further. It holds all that is needed to go on, or
// back, after a crash. Fields that do not concern the Op are zero.
type Intent struct {
	// ID is unique and names the intent in its journal.
	ID string
	Op Op
	// Start is when the operation began, Changed when EC2 last answered to a
	// call of it.
	Start, Changed time.Time
	// Done says that the operation is complete, or undone. The intent is kept
	// for a while as the evidence that weighs against views from before it.
	Done bool
	// Undo says that the operation failed and is on its way back.
	Undo bool
	// Why is the reason for Undo.
	Why Reason `json:",omitempty"`

	// ENI and Attachment are known once EC2 has answered; Made is what the
	// create call returned.
	ENI        string `json:",omitempty"`
	Attachment string `json:",omitempty"`
	Made       *ENI   `json:",omitempty"`
	// Token is the client token of the create call. While it is set and ENI is
	// not, an ENI may have been created; the same token with the same fields
	// below gives the same ENI, however often it is sent.
	Token  string   `json:",omitempty"`
	Subnet string   `json:",omitempty"`
	Groups []string `json:",omitempty"`
	Kind   Kind     `json:",omitempty"`
	Card   int      `json:",omitempty"`
	Device int      `json:",omitempty"`
	// Addrs, Prefixes, Addrs6 and Prefixes6 are how many slots of each sort the
	// create or assign call asks for.
	Addrs     int `json:",omitempty"`
	Prefixes  int `json:",omitempty"`
	Addrs6    int `json:",omitempty"`
	Prefixes6 int `json:",omitempty"`
	// Created is the creation time written into the tags.
	Created time.Time
	// Attached and Kept say that EC2 accepted the attach call and the
	// delete-on-termination call, Ready that the ENI has been seen attached.
	Attached bool `json:",omitempty"`
	Kept     bool `json:",omitempty"`
	Ready    bool `json:",omitempty"`
	// Detached says that EC2 accepted the detach call. Doubt says that a call
	// may have had its effect although no answer tells: a detach, or an
	// unassign that goes on after an interruption.
	Detached bool `json:",omitempty"`
	Doubt    bool `json:",omitempty"`

	// Blocks are those to take off (unassign), or those that came (assign,
	// provision).
	Blocks []netip.Prefix `json:",omitempty"`
	// Before are the blocks the ENI had when an assign began, or when EC2 was
	// last asked about an ENI on its way in or out. For a branch ENI its own
	// addresses are among them.
	Before []netip.Prefix `json:",omitempty"`

	// Trunk, VLANID and Association belong to branch ENIs; NotBefore is the end
	// of a branch's cooldown.
	Trunk       string `json:",omitempty"`
	VLANID      int    `json:",omitempty"`
	Association string `json:",omitempty"`
	NotBefore   time.Time
}

// Intents is a durable journal of intents. It is safe for concurrent use, and a
// call that returns nil has made its effect durable. [NewMemory] is one without
// durability, package eni/waljournal one in a file.
type Intents interface {
	// Put stores the intent under its ID, over what was there.
	Put(ctx context.Context, in Intent) error
	// Remove forgets an intent; one that is not there is no error.
	Remove(ctx context.Context, id string) error
	// All returns what is stored, in no particular order.
	All(ctx context.Context) ([]Intent, error)
}
