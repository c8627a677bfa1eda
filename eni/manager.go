// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Config configures a Manager. Client is required; the rest has defaults.
type Config struct {
	// Client makes the calls. Required.
	Client *Client
	// Intents is the journal. Optional; nil keeps intents in memory, so that
	// a crash can leak an ENI until it is swept.
	Intents Intents
	// Known is the inventory of an earlier process of this boot of this
	// instance, which the program has kept as JSON. Optional. With it the Manager
	// knows its instance and its ENIs without a call: Inventory shows it, with the
	// times it has, until the first Discover, which weighs what it finds against
	// it, so that what was managed stays managed, and slots stay sure, while one
	// of the sources is away. What the journal of intents tells of the time after
	// it is added when the journal is read, by Open, Resume or Discover; until
	// then an ENI may look usable that is on its way out. A Trip in it does not
	// count, and nothing is taken away by its word alone.
	Known Inventory
	// Owner is the value of the owner tag. Optional; default "vpcnet".
	Owner string
	// Cluster is the cluster's name for the tags. Optional.
	Cluster string
	// Tags are further tags for new ENIs. Optional.
	Tags map[string]string
	// Subnets chooses the subnets of new ENIs. Optional; default PrimarySubnet.
	Subnets SubnetSelector
	// Groups chooses security groups. Optional; default PrimaryGroups.
	Groups GroupSelector
	// InUse says whether a pod uses an address of the block. The Manager asks
	// right before every call that unassigns, detaches, disassociates or deletes,
	// each try of it and also after a restart, for every block that it or EC2
	// knows of on the ENI. An error means that it is not known, and forbids the
	// call as a true does: the operation fails with ErrInUse, which wraps the
	// error. It is called without locks held, possibly from several goroutines
	// at once. Optional; nil means that nothing is in use.
	InUse func(ctx context.Context, eni string, block netip.Prefix) (bool, error)
	// MaxENIs caps the ENIs of each network card. Optional; 0 means as many as
	// the instance type takes.
	MaxENIs int
	// ReserveENIs keeps that many ENI slots of the default card free for
	// others, for example a trunk ENI. Optional.
	ReserveENIs int
	// Mode is the safe mode to start in. Optional; default ModeFull.
	Mode Mode
	// TripShare is the share of known slots which, if one view denies it,
	// trips the safe mode. Optional; default 0.5. 1 or more never trips.
	TripShare float64
	// Lag is how long EC2 and the metadata service may go on showing a state
	// from before a change. Optional; default 2 minutes.
	Lag time.Duration
	// AttachTimeout is how long an attachment may take before it is undone.
	// Optional; default 3 minutes.
	AttachTimeout time.Duration
	// BranchCooldown is how long a branch ENI rests between its pod's end and
	// its deletion. Optional; default 60 seconds.
	BranchCooldown time.Duration
	// NewToken returns a new unique string of at most 59 ASCII characters.
	// Optional; default random.
	NewToken func() string
}

func (c Config) withDefaults() Config {
	if c.Intents == nil {
		c.Intents = NewMemory()
	}
	if c.Subnets == nil {
		c.Subnets = PrimarySubnet{}
	}
	if c.Groups == nil {
		c.Groups = PrimaryGroups{}
	}
	if c.InUse == nil {
		c.InUse = func(context.Context, string, netip.Prefix) (bool, error) { return false, nil }
	}
	if c.NewToken == nil {
		c.NewToken = rand.Text
	}
	c.Owner = cmp.Or(c.Owner, "vpcnet")
	c.TripShare = cmp.Or(c.TripShare, 0.5)
	c.Lag = cmp.Or(c.Lag, 2*time.Minute)
	c.AttachTimeout = cmp.Or(c.AttachTimeout, 3*time.Minute)
	c.BranchCooldown = cmp.Or(c.BranchCooldown, time.Minute)
	return c
}

// Manager looks after the ENIs of the instance it runs on. It is safe for
// concurrent use; of two operations on one ENI at a time, one gets ErrInFlight.
type Manager struct {
	cfg Config
	ec2 *Client

	mu      sync.Mutex
	read    time.Time         // when the journal was read; zero before
	intents map[string]Intent // open ones, and those done lately
	busy    map[string]bool   // intents and ENIs that an operation works on
	inv     Inventory
	looked  bool      // whether inv is of a Discover, and not Config.Known
	missed  int       // how many Discovers in a row did not hear both sources
	asked   time.Time // when the sources of inv were asked
	shown   string    // what the metadata service showed at the last Discover
	limits  Limits
	limited time.Time // when limits were learnt
	mode    Mode
	refused map[int]refusal         // ENIs, by card
	others  map[place]time.Time     // places that EC2 said somebody has, and when
	packed  map[slotsOf]refusal     // slots, by ENI
	rests   map[string]rest         // by subnet
	last    string                  // the subnet that served last
	vlans   map[string]map[int]bool // VLAN IDs in use, by trunk
	subnets []Subnet
	listed  time.Time // when subnets was filled
}

// New returns a Manager. It makes no calls.
func New(cfg Config) (*Manager, error) {
	if cfg.Client == nil {
		return nil, errors.New("eni: Config.Client is required")
	}
	cfg = cfg.withDefaults()
	return &Manager{
		cfg: cfg, ec2: cfg.Client, mode: cfg.Mode,
		inv:     remembered(cfg.Known),
		intents: map[string]Intent{},
		busy:    map[string]bool{},
		refused: map[int]refusal{},
		others:  map[place]time.Time{},
		packed:  map[slotsOf]refusal{},
		rests:   map[string]rest{},
		vlans:   map[string]map[int]bool{},
	}, nil
}

// Inventory is what the last Discover found, and what has changed through this
// Manager since. It makes no calls.
func (m *Manager) Inventory() Inventory {
	m.mu.Lock()
	defer m.mu.Unlock()
	inv := m.inv
	inv.ENIs = make([]ENI, len(m.inv.ENIs))
	for i, e := range m.inv.ENIs {
		inv.ENIs[i] = e.clone()
	}
	return inv
}

// Mode is the safe mode in force.
func (m *Manager) Mode() Mode {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.modeLocked()
}

func (m *Manager) modeLocked() Mode {
	if m.inv.Trip != nil {
		return max(m.mode, ModeNoRelease)
	}
	return m.mode
}

// SetMode sets the safe mode. A trip can make the mode in force stricter.
func (m *Manager) SetMode(mode Mode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mode = mode
}

// permit refuses an operation that the safe mode forbids: any in ModeFrozen,
// those that take away in ModeNoRelease.
func (m *Manager) permit(op Op, id string, takesAway bool) error {
	mode := m.Mode()
	if mode == ModeFrozen || takesAway && mode == ModeNoRelease {
		return &OpError{Op: string(op), ENI: id, Why: ReasonMode, Err: fmt.Errorf("mode %s", mode)}
	}
	return nil
}

// load reads the journal once.
func (m *Manager) load(ctx context.Context) error {
	m.mu.Lock()
	loaded := !m.read.IsZero()
	m.mu.Unlock()
	if loaded {
		return nil
	}
	all, err := m.cfg.Intents.All(ctx)
	if err != nil {
		return fmt.Errorf("read the journal of intents: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.read.IsZero() {
		return nil
	}
	m.read = time.Now()
	for _, in := range all {
		m.intents[in.ID] = in.rebase(m.read, m.cfg.BranchCooldown)
	}
	if !m.inv.At.IsZero() {
		m.inv = m.replay(m.inv, slices.Collect(maps.Values(m.intents)))
	}
	return nil
}

// put journals an intent. It is not stopped by the end of ctx: what EC2 has
// done must be written down.
func (m *Manager) put(ctx context.Context, in Intent) error {
	if err := m.cfg.Intents.Put(context.WithoutCancel(ctx), in); err != nil {
		return fmt.Errorf("journal %s: %w", in.Op, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.intents[in.ID] = in
	return nil
}

// forget removes an intent that had no effect, or whose effect every source
// has had time to show.
func (m *Manager) forget(ctx context.Context, id string) error {
	m.mu.Lock()
	delete(m.intents, id)
	m.mu.Unlock()
	return m.cfg.Intents.Remove(context.WithoutCancel(ctx), id)
}

// openIntents lists the operations under way, oldest first.
func (m *Manager) openIntents() []Intent {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Intent
	for _, in := range m.intents {
		if !in.Done {
			out = append(out, in)
		}
	}
	slices.SortFunc(out, func(a, b Intent) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID)) })
	return out
}

// hold claims an intent or an ENI for one operation.
func (m *Manager) hold(key string) (release func(), ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy[key] {
		return nil, false
	}
	m.busy[key] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.busy, key)
	}, true
}

// start makes an intent of an operation that begins now.
func (m *Manager) start(op Op) Intent {
	now := time.Now()
	return Intent{ID: string(op) + "-" + m.cfg.NewToken(), Op: op, Start: now, Changed: now}
}

// known returns an ENI of the inventory, after a Discover if there was none.
func (m *Manager) known(ctx context.Context, op Op, id string) (ENI, error) {
	if err := m.discovered(ctx); err != nil {
		return ENI{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.inv.ENI(id)
	if !ok {
		return ENI{}, &OpError{Op: string(op), ENI: id, Why: ReasonNotFound}
	}
	return e.clone(), nil
}

// inventoryAge is how old an inventory may be to choose a free place by it:
// others can attach ENIs too, but to ask each time would cost a call an ENI.
const inventoryAge = 5 * time.Minute

// discovered makes sure of an inventory of this process.
func (m *Manager) discovered(ctx context.Context) error {
	m.mu.Lock()
	have := m.looked
	m.mu.Unlock()
	if have {
		return nil
	}
	_, err := m.Discover(ctx)
	return err
}

// change alters the inventory under the lock.
func (m *Manager) change(f func(inv *Inventory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inv.ENIs = slices.Clone(m.inv.ENIs)
	f(&m.inv)
}

// alter changes one ENI of the inventory.
func (m *Manager) alter(id string, f func(e *ENI)) {
	m.change(func(inv *Inventory) {
		if e := find(inv.ENIs, id); e != nil {
			*e = e.clone()
			f(e)
			e.sortBlocks()
		}
	})
}
