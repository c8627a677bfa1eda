// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/internal/patience"
	"github.com/vpcnet/vpcnet/snat"
)

func (n *namespace) Watch(ctx context.Context, cfg WatchConfig) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	share := time.Duration(0)
	if cfg.Every == 0 {
		cfg.Every, share = defaultEvery[n.use.variant], defaultShare
	}
	if cfg.Exclusive == nil {
		cfg.Exclusive = func(_ context.Context, check func() error) error { return check() }
	}
	w := &watcher{n: n, cfg: cfg, share: share}
	for {
		var pause time.Duration
		err := cfg.Exclusive(ctx, func() (err error) {
			pause, err = w.check(ctx)
			return err
		})
		if err != nil && ctx.Err() == nil {
			cfg.Logger.WarnContext(ctx, "translation not observed", "err", err)
			pause = cfg.Every
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watcher is the state of one Watch.
type watcher struct {
	n        *namespace
	cfg      WatchConfig
	share    time.Duration // a factor, 0 if the caller has set Every
	patience patience.Patience
	// generation is that of the tables of nftables before kept was read in them.
	generation uint32
	kept       snat.IptablesRuleset
}

// defaultShare says for which part of the time Watch may read: one in defaultShare. With many
// Services a program needs up to a second to print them.
const defaultShare = 20

// check compares our chains with the desired rules, and replaces those that differ. It
// returns the time until the next check.
func (w *watcher) check(ctx context.Context) (pause time.Duration, err error) {
	began := time.Now()
	_, before := w.n.recorded()
	want, ok := w.cfg.Desired()
	if !ok {
		return w.cfg.Every, nil
	}
	var r snat.Repair
	// Callers of Apply that wait for this check have half of their time left after it.
	err = w.n.inTurnWithin(ctx, max(w.n.within/2, leastWithin), func(ctx context.Context) error {
		applied, count := w.n.recorded()
		if count != before { // an Apply came between Desired and this check
			return nil
		}
		generation := w.changed()
		if generation != 0 && generation == w.generation && w.n.cleared && want.Equal(w.kept) {
			pause = w.cfg.Every
			return nil
		}
		w.generation = 0
		unlock, err := w.n.lock(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		have, err := w.n.read(ctx, w.n.use, want)
		if err != nil {
			return err
		}
		pause = max(w.cfg.Every, w.share*time.Since(began))
		if have.Equal(want) {
			w.generation, w.kept = generation, want
			w.n.record(want)
			return w.n.clear(ctx)
		}
		if count == 0 || have.Equal(applied) { // no other program has changed them
			err = w.n.restore(ctx, w.n.use, have, want)
			if err == nil {
				w.n.record(want)
				pause = 0
			}
			return err
		}
		var due []bool
		var delay time.Duration
		if due, delay, r.Fighting = w.patience.Grant(have.Parts(want), time.Now()); !slices.Contains(due, true) {
			pause = max(delay, pause)
			return nil
		}
		r.Changes = have.Changes(want)
		if r.Err = w.n.restore(ctx, w.n.use, have, want); r.Err == nil {
			w.n.record(want)
		}
		return nil
	})
	if len(r.Changes) > 0 {
		r.Took = time.Since(began)
		w.report(ctx, r)
	}
	return pause, err
}

// changed returns the number of the last change of nftables, 0 if it is not known whether
// there was one since.
func (w *watcher) changed() uint32 {
	if w.n.use.variant != NFT {
		return 0
	}
	generation, err := w.n.socket.Generation()
	if err != nil {
		return 0
	}
	return generation
}

// report logs a repair and passes it to Repaired.
func (w *watcher) report(ctx context.Context, r snat.Repair) {
	level := slog.LevelInfo
	if r.Fighting || r.Err != nil {
		level = slog.LevelWarn
	}
	w.cfg.Logger.Log(ctx, level, "translation repaired", "changes", r.Changes, "took", r.Took, "fighting", r.Fighting, "err", r.Err)
	if w.cfg.Repaired != nil {
		w.cfg.Repaired(r)
	}
}
