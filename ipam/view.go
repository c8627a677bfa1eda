// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// ENI is what the pool knows of an ENI.
type ENI struct {
	ID           string
	Card, Device int
}

// Block is a run of addresses that EC2 assigned to an ENI as one unit, that is
// one slot: a single address (/32, /128) or a delegated prefix (/28, /80).
type Block struct {
	Prefix netip.Prefix
	ENI    string
}

// View is the pool at one moment, as values that the caller owns.
type View struct {
	At time.Time
	// ENIs in the order of card and device.
	ENIs []ENIView
	// Waiting lists the requests in the queue, oldest first.
	Waiting []Waiting
	// Attachments is how many attachments hold addresses.
	Attachments int
	// NextFree is when the next cooling address has rested enough. Zero if none
	// is cooling.
	NextFree time.Time
	// Quarantined lists the addresses of the pool that something uses which the
	// pool does not know, in order.
	Quarantined []Quarantined
	// Removed says which blocks and ENIs went lately, and when: an observation
	// that is older than that is wrong about them.
	Removed map[string]time.Time
}

// ENIView is an ENI with its blocks.
type ENIView struct {
	ENI
	// Ready means that link, table and routes are verified.
	Ready bool
	// Draining means that the ENI is on its way out.
	Draining bool
	// Since is when the pool learned of the ENI.
	Since time.Time
	// Blocks in the order of their addresses, IPv4 first.
	Blocks []BlockView
}

// BlockView is a block with its counts, in addresses.
type BlockView struct {
	Block
	// Used, Cooling and Free add up to the size of the block (or to a very
	// large number, for an IPv6 prefix).
	Used, Cooling, Free int
	// Quarantined is how many of Used belong to no attachment; see Quarantine.
	Quarantined int
	// Draining means that the block is on its way out.
	Draining bool
	// Doubted means that an observation contradicts the pool about the block.
	Doubted bool
	// Since is when the pool learned of the block.
	Since time.Time
}

// Waiting is a request in the queue.
type Waiting struct {
	Request Request
	Since   time.Time
}

// View returns the pool as it is now.
func (p *Pool) View() View {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.st.view(time.Now())
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
	v.Quarantined = s.quarantine()
	return v
}

// Lookup returns what a holds, and nil if it holds nothing.
func (p *Pool) Lookup(a Attachment) []Allocation {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.st.allocations(p.st.held[a])
}

// Allocations yields all allocations as they are at the call, oldest first.
func (p *Pool) Allocations() iter.Seq[Allocation] {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Allocation
	for _, g := range p.st.sortedGrants() {
		all = append(all, p.st.allocations(g)...)
	}
	return slices.Values(all)
}
