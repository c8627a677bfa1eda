// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

// AutoBackend is nftables, or iptables on a kernel that lacks the parts of nftables that
// the translation needs.
const AutoBackend snat.Backend = "auto"

// translator puts the rules of a source translation into the kernel.
type translator interface {
	// name is what the status shows.
	name() string
	// apply fails with a waitedError once the bound of a change has passed since the caller
	// began to wait.
	apply(ctx context.Context, cfg snat.Config, since time.Time) error
	// watch repairs the rules until ctx ends.
	watch(ctx context.Context, cfg watchConfig) error
	Close() error
}

// watchConfig is the configuration of a translator's watch.
type watchConfig struct {
	// desired returns the translation to keep, and false as long as there is none.
	desired   func() (snat.Config, bool)
	repaired  func(snat.Repair)
	log       *slog.Logger
	exclusive func(context.Context, func() error) error
}

// openTranslator opens the backend of that name in a network namespace. AutoBackend opens
// nftables, see [Links.translate].
func openTranslator(ctx context.Context, netns string, b snat.Backend) (translator, error) {
	table, err := snat.Open(netns)
	if err != nil {
		return nil, err
	}
	if b != snat.Iptables {
		return &nftablesTranslator{Handle: table, netns: netns}, nil
	}
	chains, err := iptables.Open(ctx, iptables.Config{Netns: netns, Within: changeWithin})
	if err != nil {
		return nil, errors.Join(err, table.Close())
	}
	return &iptablesTranslator{Handle: chains, table: table}, nil
}

// nftablesTranslator puts the rules into nftables.
type nftablesTranslator struct {
	*snat.Handle
	netns string
}

func (t *nftablesTranslator) name() string { return string(snat.Nftables) }

func (t *nftablesTranslator) apply(ctx context.Context, cfg snat.Config, _ time.Time) error {
	rules, err := cfg.Ruleset()
	if err != nil {
		return err
	}
	_, err = t.Apply(ctx, rules)
	return err
}

// clearAgain is how often watch tries to remove the rules of an earlier agent that used
// iptables.
const clearAgain = 15 * time.Second

// watch first removes the rules that an earlier agent has left in iptables. That may have to
// wait for the xtables lock, and no pod waits for watch.
func (t *nftablesTranslator) watch(ctx context.Context, cfg watchConfig) error {
	for {
		cleared := iptables.Clear(ctx, iptables.Config{Netns: t.netns})
		err := t.watchFor(ctx, cfg, cleared == nil)
		if cleared == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		cfg.log.Warn("rules of an earlier agent in iptables cannot be removed yet", "err", cleared)
	}
}

// watchFor repairs the rules for clearAgain, or with forever until ctx ends.
func (t *nftablesTranslator) watchFor(ctx context.Context, cfg watchConfig, forever bool) error {
	if !forever {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, clearAgain)
		defer cancel()
	}
	return t.Watch(ctx, snat.WatchConfig{
		Desired:  rulesOf(cfg, snat.Config.Ruleset),
		Repaired: cfg.repaired, Logger: cfg.log, Exclusive: cfg.exclusive,
	})
}

// iptablesTranslator puts the rules into iptables.
type iptablesTranslator struct {
	*iptables.Handle
	table *snat.Handle
}

func (t *iptablesTranslator) name() string {
	return string(snat.Iptables) + "-" + string(t.Variant())
}

// changeWithin bounds how long a pod waits for changes of iptables: its own one, and one that
// is under way when it comes.
const changeWithin = 10 * time.Second

// waitedError is the error of a change of iptables that has waited for the xtables lock for all
// of changeWithin. Pods that need the change wait no longer, see [agent.Links].
type waitedError struct{ error }

func (waitedError) Final() bool     { return true }
func (e waitedError) Unwrap() error { return e.error }

// markWaited makes err a waitedError if the bound has passed, and not ctx ended.
func markWaited(ctx context.Context, err error) error {
	if ctx.Err() == nil && (errors.Is(err, iptables.ErrLocked) || errors.Is(err, context.DeadlineExceeded)) {
		return waitedError{err}
	}
	return err
}

// apply also removes the rules that an earlier agent has left in nftables.
func (t *iptablesTranslator) apply(ctx context.Context, cfg snat.Config, since time.Time) error {
	rules, err := cfg.Iptables()
	if err != nil {
		return err
	}
	bounded, cancel := context.WithDeadline(ctx, since.Add(changeWithin))
	defer cancel()
	if _, err := t.Apply(bounded, rules); err != nil {
		return markWaited(ctx, err)
	}
	return t.table.Remove(ctx)
}

// watch first logs what iptables cannot do.
func (t *iptablesTranslator) watch(ctx context.Context, cfg watchConfig) error {
	err := cfg.exclusive(ctx, func() error {
		rules, _ := rulesOf(cfg, snat.Config.Iptables)() // without rules there are no limits
		for _, limit := range rules.Limits() {
			cfg.log.Warn("iptables limits the translation", "backend", t.name(), "limit", limit)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.Watch(ctx, iptables.WatchConfig{
		Desired:  rulesOf(cfg, snat.Config.Iptables),
		Repaired: cfg.repaired, Logger: cfg.log, Exclusive: cfg.exclusive,
	})
}

func (t *iptablesTranslator) Close() error { return errors.Join(t.Handle.Close(), t.table.Close()) }

// rulesOf returns a function that computes the desired rules of a backend. The translation
// was applied, so there are rules for it.
func rulesOf[R any](cfg watchConfig, compute func(snat.Config) (R, error)) func() (R, bool) {
	return func() (R, bool) {
		want, ok := cfg.desired()
		if !ok {
			var none R
			return none, false
		}
		rules, err := compute(want)
		return rules, err == nil
	}
}
