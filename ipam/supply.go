// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
)

// SetENI adds an ENI, which is not ready at first. Repeating it is safe, and
// cancels a DrainENI.
func (p *Pool) SetENI(e ENI) error {
	return p.submit(func(t *tx) error {
		if old := t.st.enis[e.ID]; old != nil && old.ENI == e && !old.draining {
			return nil
		}
		return t.do(Event{Kind: EventENISet, ENI: e.ID, Card: e.Card, Device: e.Device})
	})
}

// SetReady records whether link, route table and routes of an ENI are verified.
// The pool allocates only from blocks of ENIs that are ready.
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

// AddBlocks adds blocks to the pool, all or none. A block that the pool already
// has on the same ENI is ignored. A block that overlaps another one, or that is
// on another ENI, is ErrConflict. The ENI must be in the pool.
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

// DrainBlocks is the first step of giving blocks back: the pool allocates no
// more of their addresses, also after a restart. If an address of a block is in
// use or cooling according to the pool, or in use according to the witness,
// DrainBlocks changes nothing and returns ErrInUse. If the witness fails it
// returns ErrWitness.
func (p *Pool) DrainBlocks(prefixes ...netip.Prefix) error {
	uses, err := p.queryWitness(prefixes)
	if err != nil {
		return err
	}
	if err := checkUnused(uses, prefixes); err != nil {
		return err
	}
	return p.submit(func(t *tx) error {
		for _, prefix := range prefixes {
			b := t.st.blocks[prefix]
			if b == nil {
				return fmt.Errorf("block %v: %w", prefix, ErrUnknown)
			}
			if err := t.checkIdle(b); err != nil {
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

// RemoveBlocks removes blocks from the pool and remembers the removal for ten
// minutes (see View.Removed). If any of them has addresses in use or cooling it
// changes nothing and returns ErrInUse. Unknown blocks are ignored.
func (p *Pool) RemoveBlocks(prefixes ...netip.Prefix) error {
	return p.submit(func(t *tx) error {
		for _, prefix := range prefixes {
			b := t.st.blocks[prefix]
			if b == nil {
				continue
			}
			if err := t.checkIdle(b); err != nil {
				return err
			}
			if err := t.do(Event{Kind: EventBlockRemoved, Block: prefix}); err != nil {
				return err
			}
		}
		return nil
	})
}

// DoubtBlocks marks blocks as doubted, because an observation contradicts the
// pool about them, or removes the mark. The pool does not allocate from doubted
// blocks, and attachments keep the addresses that they hold. The mark ends with
// the process; the next process observes EC2 when it starts.
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

// DrainENI is the first step of giving an ENI back: the pool allocates no more
// of its addresses, also after a restart. If one of its addresses is in use or
// cooling according to the pool, or in use according to the witness, DrainENI
// changes nothing and returns ErrInUse. If the witness fails it returns
// ErrWitness.
func (p *Pool) DrainENI(eni string) error {
	prefixes := p.blocksOf(eni)
	uses, err := p.queryWitness(prefixes)
	if err != nil {
		return err
	}
	if err := checkUnused(uses, prefixes); err != nil {
		return err
	}
	return p.submit(func(t *tx) error {
		n := t.st.enis[eni]
		if n == nil {
			return fmt.Errorf("%s: %w", eni, ErrUnknown)
		}
		if err := t.checkIdleENI(n); err != nil || n.draining {
			return err
		}
		return t.do(Event{Kind: EventENIDraining, ENI: eni})
	})
}

// RemoveENI removes an ENI and its blocks from the pool and remembers the
// removal for ten minutes (see View.Removed). If the ENI has addresses in use or
// cooling it changes nothing and returns ErrInUse. An unknown ENI is ignored.
func (p *Pool) RemoveENI(eni string) error {
	return p.submit(func(t *tx) error {
		n := t.st.enis[eni]
		if n == nil {
			return nil
		}
		if err := t.checkIdleENI(n); err != nil {
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

// checkUnused returns ErrInUse if one of the uses is in prefixes. It does not
// quarantine the address, because a refused call changes nothing; the next audit
// does.
func checkUnused(uses []Use, prefixes []netip.Prefix) error {
	for _, u := range uses {
		for _, p := range prefixes {
			if p.Contains(u.Addr) {
				return fmt.Errorf("address %v of block %v is used by %s: %w", u.Addr, p, u.By, ErrInUse)
			}
		}
	}
	return nil
}

// checkIdle returns ErrInUse if addresses of the block are used or cooling. A
// neighbour may still send to the previous pod of a cooling address.
func (t *tx) checkIdle(b *block) error {
	used, cooling := len(b.used), b.cooling(t.st.at(t.now))
	if used+cooling > 0 {
		return fmt.Errorf("block %v on %s: %d used, %d cooling: %w", b.Prefix, b.ENI, used, cooling, ErrInUse)
	}
	return nil
}

func (t *tx) checkIdleENI(n *eni) error {
	for _, b := range n.blocks {
		if err := t.checkIdle(b); err != nil {
			return err
		}
	}
	return nil
}
