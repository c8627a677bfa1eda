// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// Config configures a Manager. Client is required; the rest has defaults.
type Config struct {
	// Client makes the calls. Required.
	Client *Client
	// Intents is the journal. Optional; nil keeps intents in memory, so that
	// a crash can leak an ENI until it is swept.
	Intents Intents
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
	// InUse says whether anyone uses an address of the block. It is asked right
	// before every call that takes addresses away, also when an operation goes
	// on after a restart. Optional; nil means that nothing is in use.
	InUse func(eni string, block netip.Prefix) bool
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
	// NewToken returns a new unique string of at most 64 ASCII characters.
	// Optional; default random.
	NewToken func() string
}

// ProvisionInput describes the ENI to make.
type ProvisionInput struct {
	// Card is the network card index.
	Card int
	// Slots is how many IPv4 slots to fill at once: secondary addresses, or
	// /28 prefixes if Prefixes is set. More than the type allows means all.
	Slots int
	// Prefixes asks for prefixes.
	Prefixes bool
	// Singles is how many secondary addresses to assign instead if no subnet
	// has a free prefix; 0 means to fail with ErrNoFreePrefix.
	Singles int
	// Slots6 is how many /80 prefixes to delegate; 1 is enough for a node.
	Slots6 int
	// Kind is the kind of ENI. Optional; default KindInterface.
	Kind Kind
}

// AssignInput says what to put on an ENI.
type AssignInput struct {
	ENI string
	// Slots is how many slots to fill, 1 or more. More than are free means all
	// that are.
	Slots int
	// Prefixes asks for prefixes instead of single addresses. IPv6 slots are
	// always /80 prefixes when it is set, single addresses when not.
	Prefixes bool
	// Singles is how many single addresses to assign instead if the subnet has
	// no free prefix; 0 means to fail with ErrNoFreePrefix.
	Singles int
	// Family is the IP version. Optional; default IPv4.
	Family Family
}

// UnassignInput says what to take off an ENI. Single addresses are given as
// /32 or /128.
type UnassignInput struct {
	ENI    string
	Blocks []netip.Prefix
}

// Manager looks after the ENIs of the instance it runs on. It is safe for
// concurrent use; of two operations on one ENI at a time, one gets ErrInFlight.
type Manager struct {
	cfg Config
}

var errNotYet = errors.New("not implemented")

// New returns a Manager. It makes no calls.
func New(cfg Config) (*Manager, error) { return &Manager{cfg: cfg}, nil }

// Resume finishes or undoes every operation that an earlier process left open.
// Call it before the first Discover. Operations that cannot go on now (EC2
// throttles, say) stay in the journal; Resume can be called again.
func (m *Manager) Resume(ctx context.Context) error { return errNotYet }

// Discover asks the metadata service and EC2 what ENIs the instance has. It
// fails only if neither answers, or the instance cannot be identified; with one
// of them it answers as well as it can, see Inventory.
func (m *Manager) Discover(ctx context.Context) (Inventory, error) { return Inventory{}, errNotYet }

// Inventory is what the last Discover found, and what has changed through this
// Manager since. It makes no calls.
func (m *Manager) Inventory() Inventory { return Inventory{} }

// Check compares the metadata service with what is known and reports whether a
// Discover is due. It makes no EC2 calls.
func (m *Manager) Check(ctx context.Context) (due bool, err error) { return false, errNotYet }

// Provision makes an ENI, attaches it, and waits until it is there.
func (m *Manager) Provision(ctx context.Context, in ProvisionInput) (ENI, error) {
	return ENI{}, errNotYet
}

// Retire detaches and deletes an ENI. One that is gone already is no error.
func (m *Manager) Retire(ctx context.Context, id string) error { return errNotYet }

// Assign puts addresses or prefixes on an ENI and returns those that came,
// which can be fewer than asked for.
func (m *Manager) Assign(ctx context.Context, in AssignInput) ([]netip.Prefix, error) {
	return nil, errNotYet
}

// Unassign takes addresses or prefixes off an ENI. Those that are off already
// are no error.
func (m *Manager) Unassign(ctx context.Context, in UnassignInput) error { return errNotYet }

// Limits is what the instance can carry: from the built-in table, from EC2 for
// types it does not know, or safe defaults.
func (m *Manager) Limits(ctx context.Context) (Limits, error) { return Limits{}, errNotYet }

// Mode is the safe mode in force.
func (m *Manager) Mode() Mode { return m.cfg.Mode }

// SetMode sets the safe mode. A trip can make the mode in force stricter.
func (m *Manager) SetMode(mode Mode) {}
