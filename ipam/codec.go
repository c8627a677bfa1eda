// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// durable reports whether events of this kind are written to the journal. The
// agent verifies the kernel and observes EC2 again after each start, so events
// that record such results are not written.
func (k Kind) durable() bool {
	switch k {
	case EventENIReady, EventENINotReady, EventBlockDoubted, EventBlockTrusted, EventQuarantined, EventUnquarantined:
		return false
	default:
		return true
	}
}

// validate checks the fields of an event, without the state of a pool.
func (e Event) validate() error {
	bad := ""
	switch e.Kind {
	case EventENISet, EventENIDraining, EventENIRemoved, EventENIReady, EventENINotReady:
		if !validENI(e.ENI) || e.Card < 0 || e.Device < 0 {
			bad = "needs an ENI with card and device"
		}
	case EventBlockAdded:
		if !validENI(e.ENI) || !validBlock(e.Block) {
			bad = "needs an ENI and a block"
		}
		if e.Next.IsValid() && (e.Next.Zone() != "" || e.Next.BitLen() != e.Block.Addr().BitLen()) {
			bad = "has a next address of another family"
		}
	case EventBlockDraining, EventBlockRemoved, EventBlockDoubted, EventBlockTrusted:
		if !validBlock(e.Block) {
			bad = "needs a block"
		}
	case EventAllocated:
		if !e.Attachment.valid() || len(e.Addrs) == 0 || !slices.ContainsFunc(e.Addrs, validAddr) {
			bad = "needs an attachment and addresses"
		}
	case EventReleased, EventMoved:
		if !e.Attachment.valid() {
			bad = "needs an attachment"
		}
	case EventAddrsReleased:
	case EventQuarantined, EventUnquarantined:
		if len(e.Addrs) != 1 {
			bad = "needs one address"
		}
	default:
		bad = "is unknown; a newer version may have written it"
	}
	if bad == "" && slices.ContainsFunc(e.Addrs, func(a netip.Addr) bool { return !validAddr(a) }) {
		bad = "has a malformed address"
	}
	if bad != "" {
		return fmt.Errorf("event %q %s: %w", e.Kind, bad, ErrInvalid)
	}
	return nil
}

func (a Attachment) valid() bool { return a.Network != "" && a.ContainerID != "" && a.IfName != "" }

// validENI reports whether id may be an ENI ID. It contains no slash, so that
// it differs from the text of every prefix.
func validENI(id string) bool { return id != "" && !strings.Contains(id, "/") }

func validAddr(a netip.Addr) bool { return a.IsValid() && !a.Is4In6() && a.Zone() == "" }

func validBlock(p netip.Prefix) bool {
	return p.IsValid() && validAddr(p.Addr()) && p == p.Masked()
}

// EncodeEvent returns an event as one line of JSON without a newline, for a
// Journal to store.
func EncodeEvent(e Event) ([]byte, error) {
	if err := e.validate(); err != nil {
		return nil, err
	}
	return json.Marshal(e)
}

// DecodeEvent is the inverse of EncodeEvent. It ignores unknown fields, so that
// a newer version can add some. An unknown kind is ErrInvalid, because ignoring
// such an event could lose an allocation.
func DecodeEvent(data []byte) (Event, error) {
	e, plain := decodePlain(data)
	if !plain {
		e = Event{}
		if err := json.Unmarshal(data, &e); err != nil {
			return Event{}, fmt.Errorf("event: %w: %w", ErrInvalid, err)
		}
	}
	if err := e.validate(); err != nil {
		return Event{}, err
	}
	return e, nil
}
