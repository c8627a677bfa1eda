// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/internal/nft"
	"github.com/vpcnet/vpcnet/internal/patience"
)

// defaultEvery is the default of [WatchConfig.Every].
const defaultEvery = time.Minute

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
	var monitor *nft.Monitor
	err := n.exclusively(ctx, tableName, func() (err error) {
		monitor, err = nft.NewMonitor(n.file, tableName)
		return err
	})
	if err != nil {
		return err
	}
	defer monitor.Close()
	w := &watcher{n: n, cfg: cfg, monitor: monitor}
	for {
		p, err := w.repair(ctx)
		if err == nil {
			err = w.wait(ctx, p)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// watcher is the state of one Watch.
type watcher struct {
	n        *namespace
	cfg      WatchConfig
	monitor  *nft.Monitor
	patience patience.Patience
	// reportedAt is the time of the report that caused the next check.
	reportedAt time.Time
	// reports are the reports since the table last was as desired.
	reports nft.Report
}

// outcome is the result of a check.
type outcome int

const (
	asDesired outcome = iota // the table is as desired
	replaced                 // it was replaced, and may have been changed again
	overtaken                // an Apply came between Desired and the comparison
	delayed                  // it differs, and is repaired after a wait
)

// maxChecks bounds the number of checks without a wait between them.
const maxChecks = 2 * patience.Burst

// pause is the time until the next check.
type pause struct {
	longest time.Duration // a report ends it earlier
	deaf    time.Duration // but not in this time
}

// repair checks the table until it is as desired or its repair has to wait. It
// returns the pause until the next check.
func (w *watcher) repair(ctx context.Context) (pause, error) {
	for range maxChecks {
		var (
			found outcome
			delay time.Duration
		)
		err := w.cfg.Exclusive(ctx, func() (err error) {
			found, delay, err = w.check(ctx)
			return err
		})
		switch {
		case errors.Is(err, nft.ErrTorn):
			w.cfg.Logger.WarnContext(ctx, "translation not observed: other programs change it without pause", "err", err)
			return pause{patience.First, patience.First}, nil
		case err != nil:
			return pause{}, err
		case found == asDesired:
			w.reports = nft.Report{}
			return pause{longest: w.cfg.Every}, nil
		case found == delayed:
			return pause{delay, min(delay, patience.First)}, nil
		}
	}
	return pause{patience.First, patience.First}, nil
}

// wait returns when the next check is due.
func (w *watcher) wait(ctx context.Context, p pause) error {
	w.reportedAt = time.Time{}
	end := time.Now().Add(p.longest)
	if p.deaf > 0 {
		t := time.NewTimer(p.deaf)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		r, err := w.monitor.Wait(ctx, max(time.Until(end), 0))
		if err != nil {
			return err
		}
		w.reports.Add(r)
		if r.Changed {
			w.reportedAt = time.Now()
			return nil
		}
		if !time.Now().Before(end) {
			return nil
		}
	}
}

// check compares the table with the desired rules, and replaces it if it differs. With
// the outcome delayed it returns the time until the repair.
func (w *watcher) check(ctx context.Context) (found outcome, delay time.Duration, err error) {
	if w.reportedAt.IsZero() {
		w.reportedAt = time.Now()
	}
	before := w.n.appliedCount()
	want, ok := w.cfg.Desired()
	if !ok {
		return asDesired, 0, nil
	}
	var r Repair
	err = w.n.exclusively(ctx, tableName, func() error {
		if w.n.applied.count != before {
			found = overtaken
			return nil
		}
		have, err := w.n.read(ctx)
		if err != nil {
			return err
		}
		if have.Equal(want) {
			w.n.applied.record(want)
			return nil
		}
		if w.n.applied.matches(have) { // no other program has changed it
			found = replaced
			return w.n.replace(have, want)
		}
		all := differences(have.table, want.table)
		// All parts are repaired together, so one part that may be repaired is enough.
		var due []bool
		if due, delay, r.Fighting = w.patience.Grant(partsOf(all), time.Now()); !slices.Contains(due, true) {
			found = delayed
			return nil
		}
		found, r.Changes = replaced, textsOf(all)
		if r.Err = w.n.replace(have, want); r.Err != nil {
			found, delay = delayed, patience.First
		}
		return nil
	})
	if err == nil && len(r.Changes) > 0 {
		err = w.report(ctx, r)
	}
	return found, delay, err
}

// report logs a repair and passes it to Repaired. By now the kernel has reported the
// changes that the repair undid.
func (w *watcher) report(ctx context.Context, r Repair) error {
	r.Took = time.Since(w.reportedAt)
	pending, err := w.monitor.Pending()
	if err != nil {
		return err
	}
	w.reports.Add(pending)
	r.By = w.reports.By
	w.reportedAt, w.reports = time.Time{}, nft.Report{}
	level := slog.LevelInfo
	if r.Fighting || r.Err != nil {
		level = slog.LevelWarn
	}
	w.cfg.Logger.Log(ctx, level, "translation repaired", "changes", r.Changes, "took", r.Took, "by", r.By, "fighting", r.Fighting, "err", r.Err)
	if w.cfg.Repaired != nil {
		w.cfg.Repaired(r)
	}
	return nil
}
