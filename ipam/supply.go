// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
)

// SetENI makes an ENI known, not ready at first. Repeating it is harmless, and
// calls off a DrainENI.
func (p *Pool) SetENI(e ENI) error {
	return p.submit(func(t *tx) error {
		if old := t.st.enis[e.ID]; old != nil && old.ENI == e && !old.draining {
			return nil
		}
		return t.do(Event{Kind: EventENISet, ENI: e.ID, Card: e.Card, Device: e.Device})
	})
}

// SetReady says whether link, table and routes of an ENI are verified. Only
// blocks of ENIs that are ready are allocated from.
func (p *Pool) SetReady(eni string, ready bool) error {
	return p.submit(func(t *tx) error {
		kind := EventENINotReady
		if ready {
			kind = EventENIReady
		}
		if n := t.st.enis[eni]; n != nil && n.ready == ready {
			return nil
		}
		return t.do(Event{Kind: kind, ENI: eni})
	})
}

// AddBlocks puts blocks into the pool, all or none. A block that is there
// already is left alone; one that overlaps another, or is on another ENI, is
// ErrConflict. The ENI must be known.
func (p *Pool) AddBlocks(blocks ...Block) error {
	return p.submit(func(t *tx) error {
		for _, b := range blocks {
			if old := t.st.blocks[b.Prefix]; old != nil && old.ENI == b.ENI && !old.draining {
				continue
			}
			if err := t.do(Event{Kind: EventBlockAdded, ENI: b.ENI, Block: b.Prefix}); err != nil {
				return err
			}
		}
		return nil
	})
}

// DrainBlocks is the first step of giving blocks back: nothing of them is
// allocated any more, and that is remembered over restarts. If any of them has
// addresses in use or cooling, by the pool's word or by the witness's, it does
// nothing and returns ErrInUse; without an answer of the witness ErrWitness.
func (p *Pool) DrainBlocks(prefixes ...netip.Prefix) error {
	uses, err := p.ask(prefixes)
	if err != nil {
		return err
	}
	if err := notIn(uses, prefixes); err != nil {
		return err
	}
	return p.submit(func(t *tx) error {
		for _, prefix := range prefixes {
			b := t.st.blocks[prefix]
			if b == nil {
				return fmt.Errorf("block %v: %w", prefix, ErrUnknown)
			}
			if err := t.idle(b); err != nil {
				return err
			}
			if b.draining {
				continue
			}
			if err := t.do(Event{Kind: EventBlockDraining, Block: prefix}); err != nil {
				return err
			}
		}
		return nil
	})
}

// RemoveBlocks forgets blocks, and remembers for a while that they went. If
// any has addresses in use or cooling it does nothing and returns ErrInUse.
// Unknown blocks are ignored.
func (p *Pool) RemoveBlocks(prefixes ...netip.Prefix) error {
	return p.submit(func(t *tx) error {
		for _, prefix := range prefixes {
			b := t.st.blocks[prefix]
			if b == nil {
				continue
			}
			if err := t.idle(b); err != nil {
				return err
			}
			if err := t.do(Event{Kind: EventBlockRemoved, Block: prefix}); err != nil {
				return err
			}
		}
		return nil
	})
}

// DoubtBlocks says whether the pool's word about blocks is in doubt, because
// an observation contradicts it. Doubted blocks are not allocated from; what
// is allocated of them stays so. Doubt does not outlive the process, which
// observes anew when it starts.
func (p *Pool) DoubtBlocks(doubted bool, prefixes ...netip.Prefix) error {
	return p.submit(func(t *tx) error {
		kind := EventBlockTrusted
		if doubted {
			kind = EventBlockDoubted
		}
		for _, prefix := range prefixes {
			if b := t.st.blocks[prefix]; b != nil && b.doubted == doubted {
				continue
			}
			if err := t.do(Event{Kind: kind, Block: prefix}); err != nil {
				return err
			}
		}
		return nil
	})
}

// DrainENI is the first step of giving an ENI back: nothing of it is allocated
// any more, and that is remembered over restarts. If it has addresses in use or
// cooling, by the pool's word or by the witness's, it does nothing and returns
// ErrInUse; without an answer of the witness ErrWitness.
func (p *Pool) DrainENI(eni string) error {
	prefixes := p.blocksOf(eni)
	uses, err := p.ask(prefixes)
	if err != nil {
		return err
	}
	if err := notIn(uses, prefixes); err != nil {
		return err
	}
	return p.submit(func(t *tx) error {
		n := t.st.enis[eni]
		if n == nil {
			return fmt.Errorf("%s: %w", eni, ErrUnknown)
		}
		if err := t.idleENI(n); err != nil || n.draining {
			return err
		}
		return t.do(Event{Kind: EventENIDraining, ENI: eni})
	})
}

// RemoveENI forgets an ENI and its blocks, and remembers for a while that they
// went. If it has addresses in use or cooling it does nothing and returns
// ErrInUse. An unknown ENI is ignored.
func (p *Pool) RemoveENI(eni string) error {
	return p.submit(func(t *tx) error {
		n := t.st.enis[eni]
		if n == nil {
			return nil
		}
		if err := t.idleENI(n); err != nil {
			return err
		}
		return t.do(Event{Kind: EventENIRemoved, ENI: eni})
	})
}

// blocksOf returns the blocks of an ENI.
func (p *Pool) blocksOf(eni string) (out []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.st.enis[eni]; n != nil {
		for _, b := range n.blocks {
			out = append(out, b.Prefix)
		}
	}
	return out
}

// notIn refuses to go on if one of the uses that were seen is in prefixes. The
// use is not quarantined here, because a refusal changes nothing; the next look
// of the pool's keeper shows it.
func notIn(uses []Use, prefixes []netip.Prefix) error {
	for _, u := range uses {
		for _, p := range prefixes {
			if p.Contains(u.Addr) {
				return fmt.Errorf("address %v of block %v is used by %s: %w", u.Addr, p, u.By, ErrInUse)
			}
		}
	}
	return nil
}

// idle refuses what would take an address from a pod, or from a neighbour that
// still believes in the pod that had it.
func (t *tx) idle(b *block) error {
	used, cooling := len(b.used), b.cooling(t.st.at(t.now))
	if used+cooling > 0 {
		return fmt.Errorf("block %v on %s: %d used, %d cooling: %w", b.Prefix, b.ENI, used, cooling, ErrInUse)
	}
	return nil
}

func (t *tx) idleENI(n *eni) error {
	for _, b := range n.blocks {
		if err := t.idle(b); err != nil {
			return err
		}
	}
	return nil
}
