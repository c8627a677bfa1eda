// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"iter"
	"maps"
	"slices"
	"time"
)

// View is a copy of the pool's state at one moment. The caller owns it.
type View struct {
	At time.Time
	// ENIs are ordered by card and device.
	ENIs []ENIView
	// Waiting lists the requests in the queue, oldest first.
	Waiting []Waiting
	// Attachments is the number of attachments that hold addresses.
	Attachments int
	// OtherPods is the number of pods without addresses of the pool, see
	// Pool.SetOtherPods.
	OtherPods int
	// NextFree is when the next cooldown ends. Zero means that no address is
	// cooling.
	NextFree time.Time
	// Quarantined lists the addresses of the pool's blocks that are in use and
	// that no attachment holds, in order.
	Quarantined []Quarantined
	// Removed has the time at which each block (by prefix) or ENI (by ID) was
	// removed, for removals within the last ten minutes. An observation that is
	// complete only up to an earlier time may still show it.
	Removed map[string]time.Time
}

// ENIView is an ENI with its blocks.
type ENIView struct {
	ENI
	// Ready means that link, route table and routes are verified.
	Ready bool
	// Draining means that DrainENI was called.
	Draining bool
	// Since is when the ENI was added to the pool.
	Since time.Time
	// Blocks are ordered by address, IPv4 first.
	Blocks []BlockView
}

// BlockView is a block with its counts of addresses.
type BlockView struct {
	Block
	// Used, Cooling and Free add up to the number of addresses in the block, or
	// to math.MaxInt32 for an IPv6 prefix.
	Used, Cooling, Free int
	// Quarantined is how many of Used are quarantined; see Quarantine.
	Quarantined int
	// Draining means that DrainBlocks was called.
	Draining bool
	// Doubted means that an observation contradicts the pool about the block.
	Doubted bool
	// Since is when the block was added to the pool.
	Since time.Time
}

// Waiting is a request in the queue.
type Waiting struct {
	Request Request
	Since   time.Time
}

// View returns a copy of the pool's present state.
func (p *Pool) View() View {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.st.view(time.Now())
	v.OtherPods = p.otherPods
	for _, w := range p.waiters {
		v.Waiting = append(v.Waiting, Waiting{w.request, w.since})
	}
	return v
}

func (s *state) view(now time.Time) View {
	v := View{At: now, ENIs: make([]ENIView, 0, len(s.enis)), Attachments: len(s.held), Removed: maps.Clone(s.removed)}
	m := s.at(now)
	for _, n := range s.sortedENIs() {
		e := ENIView{ENI: n.ENI, Ready: n.ready, Draining: n.draining, Since: n.since, Blocks: make([]BlockView, 0, len(n.blocks))}
		for _, b := range n.blocks {
			used, cooling := len(b.used), b.cooling(m)
			e.Blocks = append(e.Blocks, BlockView{
				Block: b.Block, Used: used, Cooling: cooling, Free: b.size() - used - cooling,
				Quarantined: b.quarantined(), Draining: b.draining, Doubted: b.doubted, Since: b.since,
			})
			if t := b.nextFree(m); !t.IsZero() && (v.NextFree.IsZero() || t.Before(v.NextFree)) {
				v.NextFree = t
			}
		}
		v.ENIs = append(v.ENIs, e)
	}
	v.Quarantined = s.listQuarantined()
	return v
}

// Lookup returns the allocations that a holds; nil if it holds none.
func (p *Pool) Lookup(a Attachment) []Allocation {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.st.allocations(p.st.held[a])
}

// Allocations returns an iterator over the allocations at the time of the call,
// oldest first.
func (p *Pool) Allocations() iter.Seq[Allocation] {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]Allocation, 0, len(p.st.held))
	for _, g := range p.st.sortedGrants() {
		all = append(all, p.st.allocations(g)...)
	}
	return slices.Values(all)
}
