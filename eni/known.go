// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"encoding/json"
	"errors"
	"time"
)

// restoreInventory returns the parts of an earlier process's inventory that this
// process can use: the instance, its ENIs, and which of them are managed.
//
// It drops the Trip, which says that a view of the earlier process was too unlikely
// to act on. The slots that were missing from that view are among the doubtful
// ones, so that the first view of this process is judged by the same standard, with
// a time of its own. It drops Gone, which reported changes to the earlier process.
// InFlight stays valid until the Manager reads the journal of intents and applies
// the later changes, see replay.
func restoreInventory(inv Inventory) Inventory {
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

// replay applies the journal to the inventory of an earlier process: the later
// changes by that process, and the operations that it left unfinished. It does not
// ask the sources.
func (m *Manager) replay(inv Inventory, intents []Intent) Inventory {
	prev := inv
	prev.At = rebase(inv.At, m.journalRead)
	inv.ENIs = merge(mergeInput{
		Prev: prev, Instance: inv.Instance, Intents: intents,
		Owner: m.cfg.Owner, Lag: m.cfg.Lag, TripShare: 1, Loaded: m.journalRead,
	}).ENIs
	return inv
}

// storedError is the JSON form of an error.
type storedError struct {
	Op    string        `json:",omitempty"`
	ENI   string        `json:",omitempty"`
	Code  string        `json:",omitempty"`
	Why   Reason        `json:",omitempty"`
	After time.Duration `json:",omitempty"`
	Text  string        `json:",omitempty"`
}

// storeError converts an error for JSON.
func storeError(err error) *storedError {
	if err == nil {
		return nil
	}
	op, ok := err.(*OpError) //nolint:errorlint // the text of a wrapped one contains more
	if !ok {
		return &storedError{Why: reasonOf(err), Text: err.Error()}
	}
	out := &storedError{Op: op.Op, ENI: op.ENI, Code: op.Code, Why: op.reason, After: op.retryAfter}
	if op.Err != nil {
		out.Text = op.Err.Error()
	}
	return out
}

// error converts a stored error back: to an *OpError if it was one.
func (s *storedError) error() error {
	switch {
	case s == nil:
		return nil
	case s.Op == "":
		return errors.New(s.Text)
	}
	e := &OpError{Op: s.Op, ENI: s.ENI, Code: s.Code, reason: s.Why, retryAfter: s.After}
	if s.Text != "" {
		e.Err = errors.New(s.Text)
	}
	return e
}

// storedInventory is the JSON form of an Inventory.
type storedInventory struct {
	plainInventory
	EC2Err      *storedError `json:",omitempty"`
	MetadataErr *storedError `json:",omitempty"`
}

type plainInventory Inventory

// MarshalJSON encodes the inventory for Config.Known of a later process. It encodes
// the text of an error, and all fields of an *OpError.
func (inv Inventory) MarshalJSON() ([]byte, error) {
	return json.Marshal(storedInventory{
		plainInventory: plainInventory(inv), EC2Err: storeError(inv.EC2Err), MetadataErr: storeError(inv.MetadataErr),
	})
}

// UnmarshalJSON decodes the output of MarshalJSON.
func (inv *Inventory) UnmarshalJSON(data []byte) error {
	var s storedInventory
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	*inv = Inventory(s.plainInventory)
	inv.EC2Err, inv.MetadataErr = s.EC2Err.error(), s.MetadataErr.error()
	return nil
}
