// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vpcnet/vpcnet/snat"
)

var (
	// ErrNoProgram means that the system has no iptables, or not the wanted variant.
	ErrNoProgram = errors.New("snat/iptables: no program found")
	// ErrLocked means that another program held the xtables lock for all the time that a
	// program waited for it.
	ErrLocked = errors.New("another program holds the xtables lock")
	// ErrNotSupported is returned on every system but Linux.
	ErrNotSupported = fmt.Errorf("snat/iptables: iptables needs Linux: %w", errors.ErrUnsupported)
)

// Variant is a variant of the iptables programs.
type Variant string

// The variants.
const (
	// NFT puts rules into nftables: iptables-nft, or xtables-nft-multi.
	NFT Variant = "nft"
	// Legacy uses the kernel's ip_tables: iptables-legacy, or xtables-legacy-multi.
	Legacy Variant = "legacy"
)

// Config configures a [Handle].
type Config struct {
	// Netns is the path of a network namespace. Empty means that of the process.
	Netns string
	// Variant is the variant of the programs. Empty means the one in which kubelet or
	// kube-proxy have chains, otherwise that of the program iptables, otherwise NFT.
	Variant Variant
	// Within bounds each call of a Handle, and half of it each check of Watch, and what they
	// wait for the xtables lock: at the end the running program is killed, and no further one starts.
	// The programs wait for whole seconds, and end before. Zero means 10 s; the least is 2 s.
	Within time.Duration
}

const (
	defaultWithin = 10 * time.Second
	leastWithin   = 2 * time.Second
)

// Handle works on our chains in one network namespace. It needs CAP_NET_ADMIN there, and
// CAP_SYS_ADMIN to enter another namespace. It is safe for concurrent use.
type Handle struct{ sys system }

// system is the operating system's part of a [Handle]. Only Linux has one.
type system interface {
	Close() error
	Variant() Variant
	Apply(ctx context.Context, r snat.IptablesRuleset) (changed bool, err error)
	Observe(ctx context.Context) (snat.IptablesRuleset, error)
	Remove(ctx context.Context) error
	Watch(ctx context.Context, cfg WatchConfig) error
	Save(ctx context.Context) (map[Variant]string, error)
	Restore(ctx context.Context, v Variant, text string) error
}

// Open finds the programs and returns a handle. The caller closes it. Without programs the
// error is [ErrNoProgram]; on every system but Linux it is [ErrNotSupported].
func Open(ctx context.Context, cfg Config) (*Handle, error) {
	if cfg.Within == 0 {
		cfg.Within = defaultWithin
	}
	switch {
	case cfg.Variant != "" && cfg.Variant != NFT && cfg.Variant != Legacy:
		return nil, fmt.Errorf("snat/iptables: variant %q, want %s or %s", cfg.Variant, NFT, Legacy)
	case cfg.Within < leastWithin:
		return nil, fmt.Errorf("snat/iptables: Within is %v, want at least %v", cfg.Within, leastWithin)
	}
	sys, err := open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Handle{sys: sys}, nil
}

// Close releases the namespace and leaves the rules as they are.
func (h *Handle) Close() error { return h.sys.Close() }

// Variant returns the variant that the handle uses.
func (h *Handle) Variant() Variant { return h.sys.Variant() }

// Apply makes our chains hold r, and reports whether it changed them. Each table changes in
// one step, mangle before nat, and IPv4 before IPv6; after an error some of these may
// have changed, and the call can be repeated. Existing flows keep their translation and
// their mark. The first time it also removes our chains in the other variant, after r is in
// place. The error is [ErrLocked] if the lock was held for too long.
func (h *Handle) Apply(ctx context.Context, r snat.IptablesRuleset) (changed bool, err error) {
	return h.sys.Apply(ctx, r)
}

// Observe reads our chains. Without chains the ruleset is empty. It does not wait for
// the xtables lock.
func (h *Handle) Observe(ctx context.Context) (snat.IptablesRuleset, error) {
	return h.sys.Observe(ctx)
}

// Remove removes our chains from both variants. Absent chains are not an error.
func (h *Handle) Remove(ctx context.Context) error { return h.sys.Remove(ctx) }

// Save returns all tables of IPv4 of both variants, whichever program made the rules, as
// iptables-save prints them. It leaves out a variant that the system or the kernel lacks.
func (h *Handle) Save(ctx context.Context) (map[Variant]string, error) { return h.sys.Save(ctx) }

// Restore gives a text to iptables-restore of a variant, which changes what the text names
// and leaves everything else. It is for rules of other programs that a caller takes over or
// leaves behind; our chains are the business of Apply. The error is [ErrLocked] if the lock
// was held for too long.
func (h *Handle) Restore(ctx context.Context, v Variant, text string) error {
	return h.sys.Restore(ctx, v, text)
}

// Watch keeps our chains equal to what cfg.Desired returns, until ctx ends, and returns the
// error of ctx. The kernel does not report changes, so Watch reads the tables every
// cfg.Every. Existing flows keep their translation. If another program keeps changing the
// same part, Watch waits longer before each further repair.
//
// Apply and Remove of the same Handle are not changes by other programs. Run at most one
// Watch for each Handle.
func (h *Handle) Watch(ctx context.Context, cfg WatchConfig) error { return h.sys.Watch(ctx, cfg) }

// Clear removes our chains from all variants, for a node on which another backend is in
// use. Without programs it does nothing: then no chains can have been made. cfg.Variant has
// no meaning. If there are no chains it does not wait for the xtables lock.
func Clear(ctx context.Context, cfg Config) error {
	h, err := Open(ctx, Config{Netns: cfg.Netns, Within: cfg.Within})
	if errors.Is(err, ErrNoProgram) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(h.Remove(ctx), h.Close())
}

// WatchConfig is the configuration of [Handle.Watch]. Desired is needed. The fields have the
// meaning of those of [snat.WatchConfig].
type WatchConfig struct {
	Desired  func() (snat.IptablesRuleset, bool)
	Repaired func(snat.Repair)
	Logger   *slog.Logger
	// Every is the time from one check to the next; 0 is 1 s for NFT and 10 s for Legacy, or
	// twenty times as long as the check took. A check starts one program for each family;
	// with NFT it starts none unless any table of nftables has changed.
	Every     time.Duration
	Exclusive func(ctx context.Context, check func() error) error
}

// defaultEvery has the defaults of [WatchConfig.Every]. kube-proxy looks for flushed rules
// every 30 s.
var defaultEvery = map[Variant]time.Duration{NFT: time.Second, Legacy: 10 * time.Second}
