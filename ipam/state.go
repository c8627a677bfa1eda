// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// removedMemory is how long a pool remembers that a block or ENI was removed. It
// must exceed the lag of every observation behind EC2.
const removedMemory = 10 * time.Minute

// resource is a kind of address that requests compete for.
type resource struct {
	card   int
	family Family
}

// state is the state of a pool. Only events change it. It has no clock, no
// journal and no lock.
type state struct {
	cooldown     time.Duration
	coolingSince time.Time
	enis         map[string]*eni
	blocks       map[netip.Prefix]*block
	// bits counts the blocks of each prefix length. blockOf tries these lengths.
	bits map[int]int
	// byResource lists the blocks of each resource, by device and address.
	byResource map[resource][]*block
	held       map[Attachment]*grant
	// returning are the addresses that attachments have released last. Some of them
	// may have cooled, or belong to other attachments by now.
	returning map[Attachment][]released
	removed   map[string]time.Time
	// uses are the addresses in use that no attachment holds, inside and outside
	// of the pool's blocks.
	uses map[netip.Addr]Quarantined
}

// at returns the moment of s at the given time.
func (s *state) at(now time.Time) moment { return moment{now, s.cooldown, s.coolingSince} }

// grant is the set of addresses that an attachment holds.
type grant struct {
	attachment  Attachment
	addrs       []netip.Addr
	pod         PodRef
	netns       string
	sandbox     uint64
	mac         string
	at          time.Time
	requestedAt time.Time // in this process
}

func newState(cooldown time.Duration) *state {
	return &state{
		cooldown: cooldown, enis: map[string]*eni{}, blocks: map[netip.Prefix]*block{}, bits: map[int]int{},
		byResource: map[resource][]*block{}, held: map[Attachment]*grant{}, returning: map[Attachment][]released{}, removed: map[string]time.Time{},
		uses: map[netip.Addr]Quarantined{},
	}
}

// apply changes the state by e and returns a function that undoes the change.
// If e contradicts the state, apply changes nothing and returns an error.
// Therefore, if all events of a journal apply, each address has at most one
// owner and is in a block of the pool.
func (s *state) apply(e Event) (undo func(), err error) {
	if err := e.validate(); err != nil {
		return nil, err
	}
	switch e.Kind {
	case EventENISet:
		return s.setENI(e)
	case EventENIDraining, EventENIReady, EventENINotReady:
		return s.flagENI(e)
	case EventENIRemoved:
		return s.removeENI(e)
	case EventBlockAdded:
		return s.addBlock(e)
	case EventBlockDraining, EventBlockDoubted, EventBlockTrusted:
		return s.flagBlock(e)
	case EventBlockRemoved:
		return s.removeBlock(e)
	case EventAllocated:
		return s.allocate(e)
	case EventMoved:
		return s.move(e)
	case EventReleased:
		return s.release(e)
	case EventAddrsReleased:
		return s.noteReleased(e)
	case EventQuarantined, EventUnquarantined:
		return s.setQuarantine(e)
	default:
		return nil, fmt.Errorf("event %q: %w", e.Kind, ErrInvalid)
	}
}

func (s *state) setENI(e Event) (func(), error) {
	if old := s.enis[e.ENI]; old != nil {
		if old.Card != e.Card || old.Device != e.Device {
			return nil, fmt.Errorf("%s is at card %d device %d, not at card %d device %d: %w",
				e.ENI, old.Card, old.Device, e.Card, e.Device, ErrConflict)
		}
		was := *old
		old.draining = false
		return func() { *old = was }, nil
	}
	at, gone := s.removed[e.ENI]
	delete(s.removed, e.ENI)
	s.enis[e.ENI] = &eni{ENI: ENI{e.ENI, e.Card, e.Device}, since: e.At}
	return func() {
		delete(s.enis, e.ENI)
		s.restoreRemoved(e.ENI, at, gone)
	}, nil
}

func (s *state) flagENI(e Event) (func(), error) {
	n := s.enis[e.ENI]
	if n == nil {
		return nil, fmt.Errorf("%s: %w", e.ENI, ErrUnknown)
	}
	ready, draining := n.ready, n.draining
	switch e.Kind {
	case EventENIReady:
		n.ready = true
	case EventENINotReady:
		n.ready = false
	default:
		n.draining = true
	}
	return func() { n.ready, n.draining = ready, draining }, nil
}

func (s *state) removeENI(e Event) (func(), error) {
	n := s.enis[e.ENI]
	if n == nil {
		return s.noteRemoved(e.ENI, e.At), nil
	}
	for _, b := range n.blocks {
		if len(b.used) > 0 {
			return nil, fmt.Errorf("%s: %d addresses of block %v are used: %w", e.ENI, len(b.used), b.Prefix, ErrInUse)
		}
	}
	undos := []func(){s.noteRemoved(e.ENI, e.At)}
	blocks := slices.Clone(n.blocks)
	for _, b := range blocks {
		undos = append(undos, s.noteRemoved(b.Prefix.String(), e.At))
		s.unindexBlock(b)
	}
	delete(s.enis, e.ENI)
	return func() {
		s.enis[e.ENI] = n
		for _, b := range blocks {
			s.indexBlock(b)
		}
		for _, undo := range slices.Backward(undos) {
			undo()
		}
	}, nil
}

func (s *state) addBlock(e Event) (func(), error) {
	n := s.enis[e.ENI]
	if n == nil {
		return nil, fmt.Errorf("block %v on %s: %w", e.Block, e.ENI, ErrUnknown)
	}
	if other := s.overlapping(e.Block); other != nil {
		return nil, fmt.Errorf("block %v on %s overlaps %v on %s: %w", e.Block, e.ENI, other.Prefix, other.ENI, ErrConflict)
	}
	key := e.Block.String()
	at, gone := s.removed[key]
	delete(s.removed, key)
	b := newBlock(Block{e.Block, e.ENI}, n, e.At)
	if e.Next.IsValid() {
		if prev := e.Next.Prev(); e.Block.Contains(prev) && !prev.Less(b.next) {
			b.skipTo(prev)
			if b.small() {
				b.addReleased(released{addr: prev})
			}
		}
	}
	for a := range s.uses {
		if b.Prefix.Contains(a) {
			b.take(a, Attachment{})
		}
	}
	s.indexBlock(b)
	return func() {
		s.unindexBlock(b)
		s.restoreRemoved(key, at, gone)
	}, nil
}

func (s *state) flagBlock(e Event) (func(), error) {
	b := s.blocks[e.Block]
	if b == nil {
		return nil, fmt.Errorf("block %v: %w", e.Block, ErrUnknown)
	}
	draining, doubted := b.draining, b.doubted
	switch e.Kind {
	case EventBlockDoubted:
		b.doubted = true
	case EventBlockTrusted:
		b.doubted = false
	default:
		b.draining = true
	}
	return func() { b.draining, b.doubted = draining, doubted }, nil
}

func (s *state) removeBlock(e Event) (func(), error) {
	b := s.blocks[e.Block]
	if b == nil {
		return s.noteRemoved(e.Block.String(), e.At), nil
	}
	if len(b.used) > 0 {
		return nil, fmt.Errorf("%d addresses of block %v are used: %w", len(b.used), e.Block, ErrInUse)
	}
	undo := s.noteRemoved(e.Block.String(), e.At)
	s.unindexBlock(b)
	return func() {
		s.indexBlock(b)
		undo()
	}, nil
}

func (s *state) allocate(e Event) (func(), error) {
	if s.held[e.Attachment] != nil {
		return nil, fmt.Errorf("%v already holds addresses: %w", e.Attachment, ErrConflict)
	}
	for i, a := range e.Addrs {
		b := s.blockOf(a)
		if b == nil {
			return nil, fmt.Errorf("address %v: %w", a, ErrUnknown)
		}
		if owner, taken := b.used.owner(a); taken && owner != (Attachment{}) {
			return nil, fmt.Errorf("address %v belongs to %v: %w", a, owner, ErrConflict)
		} else if taken {
			return nil, fmt.Errorf("address %v is quarantined: %w", a, ErrConflict)
		}
		if slices.ContainsFunc(e.Addrs[:i], func(o netip.Addr) bool { return FamilyOf(o) == FamilyOf(a) }) {
			return nil, fmt.Errorf("address %v for %v: want one address of each family: %w", a, e.Attachment, ErrInvalid)
		}
	}
	undos := make([]func(), 0, len(e.Addrs))
	for _, a := range e.Addrs {
		undos = append(undos, s.blockOf(a).take(a, e.Attachment))
	}
	s.held[e.Attachment] = &grant{
		attachment: e.Attachment, addrs: slices.Clone(e.Addrs), pod: e.Pod, netns: e.Netns, sandbox: e.Sandbox, mac: e.MAC, at: e.At,
	}
	return func() {
		delete(s.held, e.Attachment)
		for _, undo := range undos {
			undo()
		}
	}, nil
}

// take marks one address as used by owner.
func (b *block) take(a netip.Addr, owner Attachment) (undo func()) {
	next := b.next
	b.used.set(a, owner)
	if r, ok := b.removeReleased(a); ok {
		return func() {
			b.used.remove(a)
			b.addReleased(r)
		}
	}
	if !next.IsValid() || a.Less(next) || b.ahead(a) {
		return func() { b.used.remove(a) }
	}
	skipped := next != a
	b.skipTo(a)
	return func() {
		b.used.remove(a)
		b.next = next
		if skipped && b.small() {
			b.released = slices.DeleteFunc(b.released, func(r released) bool { return !r.addr.Less(next) })
		}
	}
}

func (s *state) move(e Event) (func(), error) {
	g := s.held[e.Attachment]
	if g == nil {
		return nil, fmt.Errorf("%v: %w", e.Attachment, ErrNotAllocated)
	}
	netns, sandbox := g.netns, g.sandbox
	g.netns, g.sandbox = e.Netns, e.Sandbox
	return func() { g.netns, g.sandbox = netns, sandbox }, nil
}

func (s *state) release(e Event) (func(), error) {
	g := s.held[e.Attachment]
	if g == nil {
		return nil, fmt.Errorf("%v: %w", e.Attachment, ErrNotAllocated)
	}
	for _, a := range g.addrs {
		b := s.blockOf(a)
		b.used.remove(a)
		b.forgetCooled(s.at(e.At))
		if !a.Less(firstAddr(b.Prefix)) {
			b.addReleased(released{a, e.At})
		}
	}
	delete(s.held, e.Attachment)
	forget := s.remember(g, e.At)
	return func() {
		forget()
		s.held[e.Attachment] = g
		for _, a := range g.addrs {
			b := s.blockOf(a)
			b.removeReleased(a)
			b.used.set(a, e.Attachment)
		}
	}, nil
}

// noteReleased applies EventAddrsReleased. The event occurs only in a digest,
// which is never undone.
func (s *state) noteReleased(e Event) (func(), error) {
	for _, a := range e.Addrs {
		b := s.blockOf(a)
		if b == nil || a.Less(firstAddr(b.Prefix)) {
			return nil, fmt.Errorf("address %v: %w", a, ErrUnknown)
		}
		if _, used := b.used.find(a); used {
			return nil, fmt.Errorf("address %v is used, want released: %w", a, ErrConflict)
		}
	}
	for _, a := range e.Addrs {
		b := s.blockOf(a)
		if b.next.IsValid() && !a.Less(b.next) && !b.ahead(a) {
			b.skipTo(a)
		}
		b.removeReleased(a)
		b.addReleased(released{a, e.At})
		if e.Attachment.valid() {
			s.returning[e.Attachment] = append(s.returning[e.Attachment], released{a, e.At})
		}
	}
	return func() {}, nil
}

// noteRemoved remembers that an ENI or block was removed, and forgets removals
// that are older than removedMemory.
func (s *state) noteRemoved(key string, at time.Time) (undo func()) {
	for k, t := range s.removed {
		if at.Sub(t) > removedMemory {
			delete(s.removed, k)
		}
	}
	was, had := s.removed[key]
	s.removed[key] = at
	return func() {
		delete(s.removed, key)
		s.restoreRemoved(key, was, had)
	}
}

func (s *state) restoreRemoved(key string, at time.Time, had bool) {
	if had {
		s.removed[key] = at
	}
}
