// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"encoding/json"
	"errors"
	"time"
)

// remembered is what to take over of the inventory of an earlier process: what
// instance this is, which ENIs it had, and which of them are managed.
//
// A Trip is not taken over. It says that a view of the earlier process was too
// strange to act on; what that view denied is among the doubtful slots, so that
// the first view of this process is judged by the same measure, and its clock
// starts anew. Gone was news to the earlier process only. InFlight holds until
// the journal of intents is read, which tells what has begun or ended since, see
// replay.
func remembered(inv Inventory) Inventory {
	if inv.Instance.ID == "" {
		return Inventory{}
	}
	inv.Trip, inv.Gone = nil, nil
	enis := make([]ENI, len(inv.ENIs))
	for i, e := range inv.ENIs {
		enis[i] = e.clone()
	}
	inv.ENIs = enis
	return inv
}

// replay brings an inventory of an earlier process up to date with the journal:
// what that process did after it, and what it left open. The sources are not
// asked.
func (m *Manager) replay(inv Inventory, intents []Intent) Inventory {
	prev := inv
	prev.At = rebase(inv.At, m.read)
	inv.ENIs = Merge(MergeInput{
		Prev: prev, Instance: inv.Instance, Intents: intents,
		Owner: m.cfg.Owner, Lag: m.cfg.Lag, TripShare: 1, Loaded: m.read,
	}).ENIs
	return inv
}

// storedError is an error in JSON.
type storedError struct {
	Op    string        `json:",omitempty"`
	ENI   string        `json:",omitempty"`
	Code  string        `json:",omitempty"`
	Why   Reason        `json:",omitempty"`
	After time.Duration `json:",omitempty"`
	Text  string        `json:",omitempty"`
}

func storeError(err error) *storedError {
	if err == nil {
		return nil
	}
	op, ok := err.(*OpError) //nolint:errorlint // a wrapped one has more to say
	if !ok {
		return &storedError{Why: reasonOf(err), Text: err.Error()}
	}
	out := &storedError{Op: op.Op, ENI: op.ENI, Code: op.Code, Why: op.Why, After: op.After}
	if op.Err != nil {
		out.Text = op.Err.Error()
	}
	return out
}

func (s *storedError) error() error {
	switch {
	case s == nil:
		return nil
	case s.Op == "":
		return errors.New(s.Text)
	}
	e := &OpError{Op: s.Op, ENI: s.ENI, Code: s.Code, Why: s.Why, After: s.After}
	if s.Text != "" {
		e.Err = errors.New(s.Text)
	}
	return e
}

// storedInventory is an Inventory whose errors can be read again.
type storedInventory struct {
	plainInventory
	EC2Err      *storedError `json:",omitempty"`
	MetadataErr *storedError `json:",omitempty"`
}

type plainInventory Inventory

// MarshalJSON encodes everything, for Config.Known of a later process. Of the
// errors it keeps the text and what an *OpError tells.
func (inv Inventory) MarshalJSON() ([]byte, error) {
	return json.Marshal(storedInventory{
		plainInventory: plainInventory(inv), EC2Err: storeError(inv.EC2Err), MetadataErr: storeError(inv.MetadataErr),
	})
}

// UnmarshalJSON decodes what MarshalJSON made.
func (inv *Inventory) UnmarshalJSON(data []byte) error {
	var s storedInventory
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	*inv = Inventory(s.plainInventory)
	inv.EC2Err, inv.MetadataErr = s.EC2Err.error(), s.MetadataErr.error()
	return nil
}
