// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// normalizeWanted checks the wanted addresses and the MAC of r, and sets the MAC to
// its usual form.
func (r *Request) normalizeWanted() error {
	for i, a := range r.Addrs {
		if !validAddr(a) || slices.ContainsFunc(r.Addrs[:i], func(o netip.Addr) bool { return FamilyOf(o) == FamilyOf(a) }) {
			return fmt.Errorf("addresses are %v, want at most one of each family, without zone: %w", r.Addrs, ErrInvalid)
		}
	}
	r.Addrs = slices.Clone(r.Addrs)
	if r.MAC == "" {
		return nil
	}
	mac, err := net.ParseMAC(r.MAC)
	const length = 6
	if err != nil || len(mac) != length {
		return fmt.Errorf("MAC is %.64q, want %d bytes in hexadecimal such as 02:00:00:00:00:01: %w", r.MAC, length, ErrInvalid)
	}
	r.MAC = mac.String()
	return nil
}

// wanted returns the address of a family that r wants. The zero Addr means that the
// pool chooses it.
func (r Request) wanted(f Family) netip.Addr {
	for _, a := range r.Addrs {
		if FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}

// checkWanted returns ErrConflict if q wants another address or MAC than g has.
func (g *grant) checkWanted(q Request) error {
	for _, a := range q.Addrs {
		if !slices.Contains(g.addrs, a) {
			return fmt.Errorf("%v holds %v from its first request, not %v: %w", q.Attachment, g.addrs, a, ErrConflict)
		}
	}
	if g.mac != q.MAC {
		return fmt.Errorf("%v has the MAC %q from its first request, not %q: %w", q.Attachment, g.mac, q.MAC, ErrConflict)
	}
	return nil
}

// judgeWanted returns why an address that r wants cannot be allocated now. It returns
// nil if there is no obstacle that concerns this address alone. With
// ReasonLinkNotReady the request may wait.
func (s *state) judgeWanted(r Request, now time.Time) *ExhaustedError {
	for _, a := range r.Addrs {
		e := &ExhaustedError{Attachment: r.Attachment, Family: FamilyOf(a), Card: r.Card, Addr: a}
		if s.judge(r, e, s.at(now)); e.Reason != "" {
			return e
		}
	}
	return nil
}

// judge sets the reason, evidence and retry of e, if e.Addr cannot be allocated.
func (s *state) judge(r Request, e *ExhaustedError, m moment) {
	b := s.blockOf(e.Addr)
	refuse := func(reason Reason, format string, args ...any) {
		e.Reason, e.Evidence = reason, fmt.Sprintf(format, args...)
	}
	switch {
	case !slices.Contains(r.Families, e.Family):
		refuse(ReasonNoBlocks, "pods get no %v addresses here, only %v", e.Family, r.Families)
	case b == nil && len(s.byResource[resource{r.Card, e.Family}]) == 0:
		// The pool is still empty: the request waits like any other.
	case b == nil:
		refuse(ReasonNoSuchAddress, "no ENI of this node has it")
	case b.eni.Card != r.Card:
		refuse(ReasonNoSuchAddress, "it is on network card %d, not on %d", b.eni.Card, r.Card)
	case e.Addr.Less(firstAddr(b.Prefix)):
		refuse(ReasonNoSuchAddress, "the lowest address for pods in %v is %v", b.Prefix, firstAddr(b.Prefix))
	case b.draining || b.eni.draining:
		refuse(ReasonInFlight, "%v on %s is being given back to EC2", b.Prefix, b.ENI)
	case b.doubted:
		refuse(ReasonNoSuchAddress, "EC2 no longer lists %v on %s", b.Prefix, b.ENI)
	default:
		s.judgeUse(r, b, e, m, refuse)
	}
}

// judgeUse is judge for an address of a block that pods may use.
func (s *state) judgeUse(r Request, b *block, e *ExhaustedError, m moment, refuse func(Reason, string, ...any)) {
	owner, used := b.used.owner(e.Addr)
	var releasedAt time.Time
	if i := slices.IndexFunc(b.released, func(r released) bool { return r.addr == e.Addr }); i >= 0 {
		releasedAt = b.released[i].at
	}
	switch {
	case used && owner == (Attachment{}):
		refuse(ReasonInUse, "%s uses it", s.uses[e.Addr].By)
	case used:
		refuse(ReasonInUse, "%s holds it", s.held[owner].holder())
	case !b.eni.ready:
		refuse(ReasonLinkNotReady, "the link of %s is not verified", b.ENI)
	case !m.free(releasedAt) && s.returned(r, e.Family, m) != e.Addr:
		refuse(ReasonCooling, "another pod may have had it until %s ago", m.now.Sub(m.freeAt(releasedAt).Add(-m.cooldown)).Round(time.Millisecond))
		e.RetryAfter = m.freeAt(releasedAt).Sub(m.now)
	}
}

// holder returns the name of the pod of g or, if that is unknown, the beginning of its
// container's ID.
func (g *grant) holder() string {
	const shown = 12
	switch {
	case g.pod.Namespace != "" && g.pod.Name != "":
		return g.pod.Namespace + "/" + g.pod.Name
	case g.pod.Name != "":
		return g.pod.Name
	}
	return fmt.Sprintf("container %.*s", shown, g.attachment.ContainerID)
}
