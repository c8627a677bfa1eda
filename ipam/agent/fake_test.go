// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// cloud is a fake of EC2 for one instance: ENIs with a limited number of slots, a
// subnet with a limited number of addresses, slow answers, lost answers, and a
// metadata service that lags behind. It outlives the agents under test.
type cloud struct {
	maxENIs, slots int
	prefixes       bool          // slots are /28 instead of /32
	latency        time.Duration // of each call that changes something
	lag            time.Duration // of Observe

	mu      sync.Mutex
	free    int // blocks left in the subnet
	next    netip.Addr
	next6   netip.Addr
	nextENI int
	enis    []agent.ENI
	history []inventoryAt
	calls   map[string]int
	faults  map[string][]error // of the next calls of an operation
	// inUse reports whether a pod has an address of a block.
	inUse  func(netip.Prefix) bool
	broken []string // invariants that were broken
	// creating counts the ENIs that are being created now, mostCreating the most at one time.
	creating, mostCreating int
	// visible makes CreateENI take three times the latency, of which observations show
	// the ENI for the last two as one that pods may not use.
	visible bool
}

// inventoryAt is the list of ENIs from a time on.
type inventoryAt struct {
	at   time.Time
	enis []agent.ENI
}

// errLost makes a call have its effect and then lose its answer.
var errLost = errors.New("connection reset")

// refusal is an error of a provider, with its reason.
type refusal struct {
	reason string
	after  time.Duration
}

func (r refusal) Error() string             { return "EC2 says " + r.reason }
func (r refusal) Reason() string            { return r.reason }
func (r refusal) RetryAfter() time.Duration { return r.after }

func newCloud() *cloud {
	c := &cloud{
		maxENIs: 3, slots: 5, latency: 500 * time.Millisecond, free: 1000,
		next: netip.MustParseAddr("10.0.1.0"), next6: netip.MustParseAddr("2001:db8:0:1:1::"),
		calls: map[string]int{}, faults: map[string][]error{}, inUse: func(netip.Prefix) bool { return false },
	}
	c.enis = append(c.enis, agent.ENI{ID: "eni-0", Primary: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.10/16")}})
	c.record()
	return c
}

func (c *cloud) copyENIs() []agent.ENI {
	out := slices.Clone(c.enis)
	for i := range out {
		out[i].Blocks = slices.Clone(out[i].Blocks)
	}
	return out
}

func (c *cloud) record() { c.history = append(c.history, inventoryAt{time.Now(), c.copyENIs()}) }

func (c *cloud) violated(format string, args ...any) {
	c.broken = append(c.broken, fmt.Sprintf(format, args...))
}

// call counts a call and waits for the latency of EC2. It returns the fault that
// is planned for the call, if any.
func (c *cloud) call(ctx context.Context, op string) (planned error) {
	c.mu.Lock()
	c.calls[op]++
	if q := c.faults[op]; len(q) > 0 {
		planned, c.faults[op] = q[0], q[1:]
	}
	latency := c.latency
	c.mu.Unlock()
	select {
	case <-time.After(latency):
		return planned
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *cloud) Observe(ctx context.Context) (agent.Observation, error) {
	at := time.Now()
	if err := c.call(ctx, "observe"); err != nil {
		return agent.Observation{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o := agent.Observation{Source: "fake", At: at, Lag: c.lag, FreeAddrs: &c.free}
	o.FreeAddrs = new(int)
	*o.FreeAddrs = c.free
	for _, p := range c.history {
		if o.ENIs == nil || !p.at.After(at.Add(-c.lag)) {
			o.ENIs = p.enis
		}
	}
	return o, nil
}

func (c *cloud) find(id string) *agent.ENI {
	for i := range c.enis {
		if c.enis[i].ID == id {
			return &c.enis[i]
		}
	}
	return nil
}

// blocks takes n blocks from the subnet.
func (c *cloud) blocks(n int) (out []netip.Prefix, err error) {
	for range n {
		if c.free == 0 {
			return out, refusal{reason: "subnet-full"}
		}
		c.free--
		bits, step := 32, 1
		if c.prefixes {
			bits, step = 28, 16
		}
		out = append(out, netip.PrefixFrom(c.next, bits))
		for range step {
			c.next = c.next.Next()
		}
	}
	return out, nil
}

func (c *cloud) block6() netip.Prefix {
	p := netip.PrefixFrom(c.next6, 80)
	a := c.next6.As16()
	a[9]++
	c.next6 = netip.AddrFrom16(a)
	return p
}

func count4(blocks []netip.Prefix) (n int) {
	for _, b := range blocks {
		if b.Addr().Is4() {
			n++
		}
	}
	return n
}

func (c *cloud) CreateENI(ctx context.Context, in agent.CreateInput) (agent.ENI, error) {
	c.mu.Lock()
	c.creating++
	c.mostCreating = max(c.mostCreating, c.creating)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.creating--
	}()
	planned := c.call(ctx, "create")
	if planned != nil && !errors.Is(planned, errLost) {
		return agent.ENI{}, planned
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.enis) >= c.maxENIs {
		return agent.ENI{}, refusal{reason: "eni-limit"}
	}
	blocks, err := c.blocks(min(in.Slots, c.slots))
	if err != nil {
		c.free += len(blocks)
		return agent.ENI{}, err
	}
	if slices.Contains(in.Families, ipam.IPv6) {
		blocks = append(blocks, c.block6())
	}
	device := 1
	for slices.ContainsFunc(c.enis, func(e agent.ENI) bool { return e.Device == device }) {
		device++
	}
	c.nextENI++
	e := agent.ENI{ID: fmt.Sprint("eni-", c.nextENI), Card: in.Card, Device: device, Blocks: blocks, NoPods: c.visible}
	c.enis = append(c.enis, e)
	c.record()
	if c.visible {
		c.mu.Unlock()
		time.Sleep(2 * c.latency)
		c.mu.Lock()
		e.NoPods, c.find(e.ID).NoPods = false, false
		c.record()
	}
	e.Blocks = slices.Clone(blocks)
	return e, planned
}

func (c *cloud) Assign(ctx context.Context, in agent.AssignInput) ([]netip.Prefix, error) {
	planned := c.call(ctx, "assign")
	if planned != nil && !errors.Is(planned, errLost) {
		return nil, planned
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.find(in.ENI)
	if e == nil {
		return nil, refusal{reason: "not-found"}
	}
	var got []netip.Prefix
	var err error
	if in.Family == ipam.IPv6 {
		got = []netip.Prefix{c.block6()}
	} else {
		if count4(e.Blocks)+in.Slots > c.slots {
			return nil, refusal{reason: "slot-limit"}
		}
		got, err = c.blocks(in.Slots)
	}
	e.Blocks = append(e.Blocks, got...)
	c.record()
	if planned != nil {
		return nil, planned
	}
	return got, err
}

func (c *cloud) Unassign(ctx context.Context, id string, blocks []netip.Prefix) error {
	planned := c.call(ctx, "unassign")
	if planned != nil && !errors.Is(planned, errLost) {
		return planned
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.find(id)
	if e == nil {
		return nil
	}
	for _, b := range blocks {
		if c.inUse(b) {
			c.violated("unassign of %v while a pod uses it", b)
		}
		if i := slices.Index(e.Blocks, b); i >= 0 {
			e.Blocks = slices.Delete(e.Blocks, i, i+1)
			c.free++
		}
	}
	c.record()
	return planned
}

func (c *cloud) DeleteENI(ctx context.Context, id string) error {
	planned := c.call(ctx, "delete")
	if planned != nil && !errors.Is(planned, errLost) {
		return planned
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.find(id)
	if e == nil {
		return planned
	}
	for _, b := range e.Blocks {
		if c.inUse(b) {
			c.violated("delete of %s while a pod uses its block %v", id, b)
		}
	}
	if e.Primary {
		c.violated("delete of the primary ENI")
	}
	c.free += count4(e.Blocks)
	c.enis = slices.DeleteFunc(c.enis, func(o agent.ENI) bool { return o.ID == id })
	c.record()
	return planned
}

// kernel is a fake of Links. Ensure fails as often as failing says.
type kernel struct {
	latency time.Duration

	mu      sync.Mutex
	links   map[string][]netip.Prefix
	failing map[string]int
	err     error // of failing ENIs
	calls   int
}

func newKernel() *kernel {
	return &kernel{latency: 5 * time.Millisecond, links: map[string][]netip.Prefix{}, failing: map[string]int{}, err: errors.New("no link with that MAC")}
}

func (k *kernel) Ensure(ctx context.Context, e agent.ENI) error {
	k.mu.Lock()
	latency := k.latency
	k.mu.Unlock()
	select {
	case <-time.After(latency):
	case <-ctx.Done():
		return ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.failing[e.ID] > 0 {
		k.failing[e.ID]--
		return k.err
	}
	k.links[e.ID] = slices.Clone(e.Blocks)
	return nil
}

func (k *kernel) Remove(_ context.Context, eni string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.links, eni)
	return nil
}

// carries reports whether an address is routed over its ENI.
func (k *kernel) carries(eni string, a netip.Addr) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.ContainsFunc(k.links[eni], func(p netip.Prefix) bool { return p.Contains(a) })
}

// disk is a journal in memory that outlives pools.
type disk struct {
	mu     sync.Mutex
	events []ipam.Event
}

func (d *disk) Load() ([]ipam.Event, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.events), nil
}

func (d *disk) Append(events []ipam.Event) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, events...)
	return nil
}

func (d *disk) Replace(events []ipam.Event) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = slices.Clone(events)
	return nil
}

// killSwitch ends one process at its killAt-th step: later calls of the process
// have no effect. Steps are the moments before and after each call and each
// write.
type killSwitch struct {
	mu     sync.Mutex
	steps  int
	killAt int // 0: never
	died   chan struct{}
}

var errDead = errors.New("killed")

func newKillSwitch(killAt int) *killSwitch {
	return &killSwitch{killAt: killAt, died: make(chan struct{})}
}

// step counts a step and reports whether the process is still alive.
func (k *killSwitch) step() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.steps++
	if k.killAt != 0 && k.steps == k.killAt {
		close(k.died)
	}
	return k.killAt == 0 || k.steps < k.killAt
}

// killable runs f between two steps of a process.
func killable[T any](k *killSwitch, f func() (T, error)) (T, error) {
	var none T
	if !k.step() {
		return none, errDead
	}
	v, err := f()
	if !k.step() {
		return none, errDead
	}
	return v, err
}

func killable0(k *killSwitch, f func() error) error {
	_, err := killable(k, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

type killableProvider struct {
	*killSwitch
	agent.Provider
}

func (m killableProvider) Observe(ctx context.Context) (agent.Observation, error) {
	return killable(m.killSwitch, func() (agent.Observation, error) { return m.Provider.Observe(ctx) })
}

func (m killableProvider) CreateENI(ctx context.Context, in agent.CreateInput) (agent.ENI, error) {
	return killable(m.killSwitch, func() (agent.ENI, error) { return m.Provider.CreateENI(ctx, in) })
}

func (m killableProvider) Assign(ctx context.Context, in agent.AssignInput) ([]netip.Prefix, error) {
	return killable(m.killSwitch, func() ([]netip.Prefix, error) { return m.Provider.Assign(ctx, in) })
}

func (m killableProvider) Unassign(ctx context.Context, eni string, blocks []netip.Prefix) error {
	return killable0(m.killSwitch, func() error { return m.Provider.Unassign(ctx, eni, blocks) })
}

func (m killableProvider) DeleteENI(ctx context.Context, eni string) error {
	return killable0(m.killSwitch, func() error { return m.Provider.DeleteENI(ctx, eni) })
}

type killableLinks struct {
	*killSwitch
	agent.Links
}

func (m killableLinks) Ensure(ctx context.Context, e agent.ENI) error {
	return killable0(m.killSwitch, func() error { return m.Links.Ensure(ctx, e) })
}

func (m killableLinks) Remove(ctx context.Context, eni string) error {
	return killable0(m.killSwitch, func() error { return m.Links.Remove(ctx, eni) })
}

type killableJournal struct {
	*killSwitch
	ipam.Journal
}

func (m killableJournal) Append(events []ipam.Event) error {
	return killable0(m.killSwitch, func() error { return m.Journal.Append(events) })
}

func (m killableJournal) Replace(events []ipam.Event) error {
	return killable0(m.killSwitch, func() error { return m.Journal.Replace(events) })
}
