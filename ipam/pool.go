// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"time"
)

// Config configures a Pool. The zero value is a pool in memory.
type Config struct {
	// Journal keeps the pool over restarts. Nil keeps nothing.
	Journal Journal
	// Cooldown is how long a released address rests before it is allocated
	// again. Zero means DefaultCooldown, a negative value none.
	Cooldown time.Duration
	// MaxPods bounds the number of attachments that hold addresses. Zero
	// means no bound.
	MaxPods int
}

// DefaultCooldown is the cooldown of amazon-vpc-cni-k8s: time enough for
// kube-proxy on other nodes to forget an endpoint that went.
const DefaultCooldown = 30 * time.Second

// Outlook is what the keeper of a pool says about more addresses of one family
// on one card. It becomes the reason of requests that go unserved.
type Outlook struct {
	Reason     Reason
	Evidence   string
	RetryAfter time.Duration
	// Final means that waiting is useless. Requests are then refused at once,
	// unless a cooling address comes free before their deadline.
	Final bool
}

// Pool is a pool of addresses. All methods are safe for concurrent use.
type Pool struct{}

var errSoon = errors.New("not yet")

// Open makes a pool and replays its journal. ENIs that the journal knows are
// not ready until SetReady says so; what was allocated stays allocated.
func Open(cfg Config) (*Pool, error) { return &Pool{}, nil }

// Allocate returns the addresses of r's attachment. If it holds none yet it
// gets one of each family, all or none. Asking again returns the same answer.
// If there is no address it waits for its turn, oldest request first, until
// ctx ends; the error is then an *ExhaustedError.
func (p *Pool) Allocate(ctx context.Context, r Request) ([]Allocation, error) { return nil, errSoon }

// Release takes the addresses of a back and returns them. They rest for
// Config.Cooldown before anyone gets them again. If a holds nothing it
// returns ErrNotAllocated, which a CNI DEL may ignore.
func (p *Pool) Release(ctx context.Context, a Attachment) ([]Allocation, error) { return nil, errSoon }

// ReleaseIf releases every attachment one of whose allocations satisfies gone,
// in one step, and returns what was released.
func (p *Pool) ReleaseIf(ctx context.Context, gone func(Allocation) bool) ([]Allocation, error) {
	return nil, errSoon
}

// SetENI makes an ENI known, not ready at first. Repeating it is harmless.
func (p *Pool) SetENI(e ENI) error { return errSoon }

// SetReady says whether link, table and routes of an ENI are verified. Only
// blocks of ENIs that are ready are allocated from.
func (p *Pool) SetReady(eni string, ready bool) error { return errSoon }

// AddBlocks puts blocks into the pool. A block that is there already is left
// alone; one that overlaps another or is on another ENI is ErrConflict.
func (p *Pool) AddBlocks(blocks ...Block) error { return errSoon }

// DrainBlocks is the first step of giving blocks back: nothing of them is
// allocated any more, and that is remembered over restarts. If any of them has
// addresses in use or cooling it does nothing and returns ErrInUse.
func (p *Pool) DrainBlocks(prefixes ...netip.Prefix) error { return errSoon }

// RemoveBlocks forgets blocks. If any has addresses in use or cooling it does
// nothing and returns ErrInUse. Unknown blocks are ignored.
func (p *Pool) RemoveBlocks(prefixes ...netip.Prefix) error { return errSoon }

// DoubtBlocks says whether the pool's word about blocks is in doubt. Doubted
// blocks are not allocated from.
func (p *Pool) DoubtBlocks(doubted bool, prefixes ...netip.Prefix) error { return errSoon }

// DrainENI is the first step of giving an ENI back, as DrainBlocks for all of
// its blocks.
func (p *Pool) DrainENI(eni string) error { return errSoon }

// RemoveENI forgets an ENI and its blocks. If it has addresses in use or
// cooling it does nothing and returns ErrInUse. An unknown ENI is ignored.
func (p *Pool) RemoveENI(eni string) error { return errSoon }

// SetOutlook says what to expect for one family on one card, and nil that
// there is nothing to say.
func (p *Pool) SetOutlook(card int, f Family, o *Outlook) {}

// Changed returns a channel that receives after the pool changed. It holds one
// value, so that several changes are one; it has one reader.
func (p *Pool) Changed() <-chan struct{} { return nil }

// View returns the pool as it is now.
func (p *Pool) View() View { return View{} }

// Lookup returns what a holds, and nil if it holds nothing.
func (p *Pool) Lookup(a Attachment) []Allocation { return nil }

// Allocations yields all allocations as they are at the call, oldest first.
func (p *Pool) Allocations() iter.Seq[Allocation] { return func(func(Allocation) bool) {} }
