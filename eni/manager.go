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

	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// Config configures a Manager. Client is required. The other fields have defaults.
type Config struct {
	// Client makes the calls. Required.
	Client *Client
	// Intents is the journal. Optional; nil keeps intents in memory, so that a
	// crash can leak an ENI until [Sweep] deletes it.
	Intents Intents
	// Known is the inventory of an earlier process of this boot of this
	// instance, which the program has stored as JSON. Optional. With it the
	// Manager knows its instance and its ENIs without a call. Inventory returns
	// it, with its own times, until the first Discover. That Discover merges the
	// answers of the sources with it, so that managed ENIs stay managed and
	// slots are not in doubt while one source does not answer.
	//
	// Unfinished, Resume and Discover read the journal of intents and apply its
	// later changes to the inventory. Until then an ENI that is being removed may
	// look usable. The Manager ignores a Trip in Known, and removes nothing on
	// the evidence of Known alone.
	Known Inventory
	// Owner is the value of the owner tag. Optional; default "vpcnet".
	Owner string
	// Cluster is the cluster's name for the tags. Optional.
	Cluster string
	// Tags are further tags for new ENIs. Optional.
	Tags map[string]string
	// Subnets chooses the subnets of new ENIs. Optional; default the primary ENI's
	// subnet.
	Subnets SubnetSelector
	// Groups chooses security groups. Optional; default those of the primary ENI.
	Groups GroupSelector
	// InUse reports whether a pod uses an address of the block. The Manager calls
	// it right before each try of a call that unassigns, detaches, disassociates
	// or deletes, also after a restart, for every block that the Manager or EC2
	// knows on the ENI. An error means that the answer is not known. It forbids
	// the call as true does: the operation then fails with ErrInUse and wraps the
	// error. The Manager holds no locks during InUse and may call it from several
	// goroutines at once. Optional; nil means that no block is in use.
	InUse func(ctx context.Context, eni string, block netip.Prefix) (bool, error)
	// MaxENIs caps the number of ENIs on each network card. Optional; 0 means
	// the limit of the instance type.
	MaxENIs int
	// ReserveENIs is the number of ENIs that the Manager leaves free on the
	// default card for other programs, for example for a trunk ENI. Optional.
	ReserveENIs int
	// Mode is the initial safe mode. Optional; default ModeFull.
	Mode Mode
	// TripShare is the share of known slots that must be missing from one view
	// to trip the safe mode. Optional; default 0.5. With 1 or more it never trips.
	TripShare float64
	// Lag is how long after a change EC2 and the metadata service may still show
	// the state before it. Optional; default 2 minutes.
	Lag time.Duration
	// AttachTimeout is how long an attachment may take before the Manager undoes
	// it. Optional; default 3 minutes.
	AttachTimeout time.Duration
	// BranchCooldown is how long the Manager keeps a branch ENI after
	// RetireBranch before it deletes it. Optional; default 60 seconds.
	BranchCooldown time.Duration
	// NewToken returns a new unique string of at most 59 ASCII characters.
	// Optional; default random text.
	NewToken func() string
}

func (c Config) withDefaults() Config {
	if c.Intents == nil {
		c.Intents = NewMemory()
	}
	if c.Subnets == nil {
		c.Subnets = primarySubnet{}
	}
	if c.Groups == nil {
		c.Groups = primaryGroups{}
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

// Manager manages the ENIs of the instance it runs on. It is safe for concurrent
// use. If two operations on one ENI overlap, one of them fails with ErrInFlight.
type Manager struct {
	cfg Config
	ec2 *Client

	mu               sync.Mutex
	journalRead      time.Time         // when the journal was read; zero before
	intents          map[string]Intent // the unfinished ones, and those done lately
	busy             map[string]bool   // intents and ENIs claimed by an operation
	inv              Inventory
	everDiscovered   bool                // inv is of a Discover, and not Config.Known
	partialDiscovers int                 // how many Discovers in a row lacked an answer of a source
	observedAt       time.Time           // when the sources of inv were asked
	lastMetadata     string              // the signature of the metadata at the last Discover
	shown            map[string]shownENI // by MAC
	limits           instancetype.Limits
	limitsAt         time.Time               // when limits was set
	learned          learnedLimits           // what refusals of EC2 add to limits
	mode             Mode                    // the mode that was set; a trip can restrict it
	cardRefusals     map[int]refusal         // refused ENIs, by card
	foreignPlaces    map[place]time.Time     // places that EC2 reported as taken, and when
	slotRefusals     map[slotKey]refusal     // refused slots, by ENI and family
	exhausted        map[string]exhaustion   // by subnet
	sourceUnchecked  bool                    // whether RoutePrefix has switched off the check of the primary ENI
	elsewhereSince   time.Time               // when Assign first left a prefix to another subnet
	rests            map[restKey]rest        // operations that EC2 has denied
	lastSubnet       string                  // the subnet of the last new ENI
	vlans            map[string]map[int]bool // VLAN IDs in use, by trunk
	placement        placement
	subnets          []Subnet
	subnetsQuery     SubnetQuery // the query that subnets is the answer to
	subnetsAt        time.Time   // when subnets was set
}

// New returns a Manager. It makes no calls. It returns an error for a configuration
// without a Client, and for tags and security groups that EC2 would refuse at every new
// ENI, whatever the quotas of the account are.
func New(cfg Config) (*Manager, error) {
	if cfg.Client == nil {
		return nil, errors.New("eni: Config.Client is required")
	}
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("eni: %w", err)
	}
	return &Manager{
		cfg: cfg, ec2: cfg.Client, mode: cfg.Mode,
		placement:     placement{cfg.Subnets, cfg.Groups, cfg.MaxENIs},
		inv:           restoreInventory(cfg.Known),
		intents:       map[string]Intent{},
		busy:          map[string]bool{},
		cardRefusals:  map[int]refusal{},
		foreignPlaces: map[place]time.Time{},
		slotRefusals:  map[slotKey]refusal{}, shown: map[string]shownENI{},
		exhausted: map[string]exhaustion{},
		rests:     map[restKey]rest{},
		vlans:     map[string]map[int]bool{},
	}, nil
}

// Inventory returns the result of the last Discover with the later changes by
// this Manager. It makes no calls.
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

// Mode returns the safe mode in force.
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

// SetMode sets the safe mode. A trip can still make the mode in force stricter.
func (m *Manager) SetMode(mode Mode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mode = mode
}

// permit returns an error for an operation that the safe mode forbids: every
// operation in ModeFrozen, and those that remove something in ModeNoRelease.
func (m *Manager) permit(op Op, id string, removes bool) error {
	mode := m.Mode()
	if mode == ModeFrozen || removes && mode == ModeNoRelease {
		return &OpError{Op: string(op), ENI: id, reason: ReasonMode, Err: fmt.Errorf("mode %s", mode)}
	}
	return nil
}

// loadJournal reads the journal once.
func (m *Manager) loadJournal(ctx context.Context) error {
	m.mu.Lock()
	loaded := !m.journalRead.IsZero()
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
	if !m.journalRead.IsZero() {
		return nil
	}
	m.journalRead = time.Now()
	for _, in := range all {
		m.intents[in.ID] = in.rebase(m.journalRead, m.cfg.BranchCooldown)
	}
	m.learned = restoreLearned(m.intents[learnedID].Learned)
	if !m.inv.At.IsZero() {
		m.inv = m.replay(m.inv, slices.Collect(maps.Values(m.intents)))
	}
	return nil
}

// putIntent journals an intent. It ignores the cancellation of ctx, because the
// journal must record everything that EC2 has done.
func (m *Manager) putIntent(ctx context.Context, in Intent) error {
	if err := m.storeIntent(ctx, in); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.intents[in.ID] = in
	return nil
}

// storeIntent writes an intent to the journal only.
func (m *Manager) storeIntent(ctx context.Context, in Intent) error {
	if err := m.cfg.Intents.Put(context.WithoutCancel(ctx), in); err != nil {
		return fmt.Errorf("journal %s: %w", in.Op, err)
	}
	return nil
}

// removeIntent deletes an intent that had no effect, or with an effect that every
// source has had time to show.
func (m *Manager) removeIntent(ctx context.Context, id string) error {
	m.mu.Lock()
	delete(m.intents, id)
	m.mu.Unlock()
	return m.cfg.Intents.Remove(context.WithoutCancel(ctx), id)
}

// unfinishedIntents lists the intents that are not done, oldest first.
func (m *Manager) unfinishedIntents() []Intent {
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

// claim reserves an intent or an ENI for one operation. It reports false if
// another operation has it.
func (m *Manager) claim(key string) (release func(), ok bool) {
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

// newIntent returns the intent of an operation that begins now.
func (m *Manager) newIntent(op Op) Intent {
	now := time.Now()
	return Intent{ID: string(op) + "-" + m.cfg.NewToken(), Op: op, Start: now, Changed: now}
}

// knownENI returns an ENI of the inventory. It calls Discover first if this
// process has not yet done so.
func (m *Manager) knownENI(ctx context.Context, op Op, id string) (ENI, error) {
	if err := m.ensureDiscovered(ctx); err != nil {
		return ENI{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.inv.ENI(id)
	if !ok {
		return ENI{}, &OpError{Op: string(op), ENI: id, reason: ReasonNotFound}
	}
	return e.clone(), nil
}

// inventoryAge is the maximum age of an inventory that serves to choose a free
// place. Other programs can attach ENIs too, but asking EC2 each time would cost
// one call for each ENI.
const inventoryAge = 5 * time.Minute

// ensureDiscovered calls Discover if this process has not yet done so.
func (m *Manager) ensureDiscovered(ctx context.Context) error {
	m.mu.Lock()
	have := m.everDiscovered
	m.mu.Unlock()
	if have {
		return nil
	}
	_, err := m.Discover(ctx)
	return err
}

// changeInventory changes the inventory under the lock.
func (m *Manager) changeInventory(f func(inv *Inventory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inv.ENIs = slices.Clone(m.inv.ENIs)
	f(&m.inv)
}

// changeENI changes one ENI of the inventory, if it is there.
func (m *Manager) changeENI(id string, f func(e *ENI)) {
	m.changeInventory(func(inv *Inventory) {
		if e := findENI(inv.ENIs, id); e != nil {
			*e = e.clone()
			f(e)
			e.sortBlocks()
		}
	})
}
