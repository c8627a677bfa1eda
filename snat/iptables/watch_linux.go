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
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	if cfg.Exclusive == nil {
		cfg.Exclusive = func(_ context.Context, check func() error) error { return check() }
	}
	w := &watcher{n: n, cfg: cfg}
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
	patience patience.Patience
}

// check compares our chains with the desired rules, and replaces those that differ. It
// returns the time until the next check.
func (w *watcher) check(ctx context.Context) (pause time.Duration, err error) {
	began := time.Now()
	_, before := w.n.recorded()
	want, ok := w.cfg.Desired()
	if !ok {
		return w.cfg.Every, nil
	}
	pause = w.cfg.Every
	var r snat.Repair
	err = w.n.inTurn(ctx, func(ctx context.Context) error {
		applied, count := w.n.recorded()
		if count != before { // an Apply came between Desired and this check
			pause = 0
			return nil
		}
		have, err := w.n.read(ctx, w.n.use, want)
		if err != nil {
			return err
		}
		if have.Equal(want) {
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
			pause = max(delay, w.cfg.Every)
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
