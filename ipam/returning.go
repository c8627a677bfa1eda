// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"slices"
	"time"
)

// A container may be deleted from the network and added again while it runs, as
// `podman network reload` does. It then gets its addresses back while they cool:
// no other attachment may have them yet, and the caches that the cooldown is for
// lead to the right container.

// remember stores the addresses that the attachment of g has just released, and
// forgets those that have cooled. It returns a function that undoes the former.
func (s *state) remember(g *grant, at time.Time) (undo func()) {
	for a, addrs := range s.returning {
		addrs = slices.DeleteFunc(addrs, func(r released) bool { return s.at(at).free(r.at) })
		if s.returning[a] = addrs; len(addrs) == 0 {
			delete(s.returning, a)
		}
	}
	was := s.returning[g.attachment]
	var now []released
	for _, a := range g.addrs {
		now = append(now, released{a, at})
	}
	s.returning[g.attachment] = now
	return func() {
		s.returning[g.attachment] = was
		if was == nil {
			delete(s.returning, g.attachment)
		}
	}
}

// returned returns the address of a family that the attachment of r has released
// and that is still cooling, the zero Addr if there is none or r wants another one.
func (s *state) returned(r Request, f Family, m moment) netip.Addr {
	for _, last := range s.returning[r.Attachment] {
		b := s.blockOf(last.addr)
		if want := r.wanted(f); want.IsValid() && want != last.addr {
			continue
		}
		if FamilyOf(last.addr) == f && b != nil && b.eni.Card == r.Card && b.allocatable() && !m.free(last.at) && b.rests(last) {
			return last.addr
		}
	}
	return netip.Addr{}
}

// returnsAll reports whether a request gets no other addresses than those that its
// attachment has released. No older request could have them.
func (s *state) returnsAll(r Request, now time.Time) bool {
	return !slices.ContainsFunc(r.Families, func(f Family) bool { return !s.returned(r, f, s.at(now)).IsValid() })
}

// rests reports whether the address of r was not used since its release.
func (b *block) rests(r released) bool {
	return slices.ContainsFunc(b.released, func(o released) bool { return o.addr == r.addr && o.at.Equal(r.at) })
}

// lastHolders returns the attachments of the addresses that may return to them.
func (s *state) lastHolders() map[released]Attachment {
	holders := map[released]Attachment{}
	for a, addrs := range s.returning {
		for _, r := range addrs {
			holders[r] = a
		}
	}
	return holders
}
