// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/internal/patience"
)

// defaultEvery is the default of [WatchConfig.Every].
const defaultEvery = time.Minute

// WatchConfig is the configuration of [Keeper.Watch].
type WatchConfig struct {
	// Subject is what the log calls the content of the table.
	Subject string
	// Desired returns what the table must hold, and false as long as there is nothing to
	// keep. It is called before each comparison.
	Desired func() (Table, bool)
	// Differences returns the parts of the table that differ, and what differs in words.
	Differences func(have, want Table) (parts, texts []string)
	// Repaired is called after each repair. Optional.
	Repaired func(Repair)
	// Logger gets a line for each repair. Optional.
	Logger *slog.Logger
	// Every is the time after which Watch reads the table although the kernel reported no
	// change; 0 is one minute.
	Every time.Duration
	// Exclusive calls check, which reads the table and repairs it, while the caller does
	// nothing that check must not meet. It returns the error of check, or the reason why it
	// did not call it. Optional.
	Exclusive func(ctx context.Context, check func() error) error
}

// Repair describes a repair by [Keeper.Watch].
type Repair struct {
	// Changes are the texts of the differences.
	Changes []string
	// Took is the time from the kernel's report to the end of the repair, or from the
	// beginning of the comparison if there was no report.
	Took time.Duration
	// By names the programs that changed the table, as "nft (pid 7)", if the kernel told.
	By []string
	// Fighting means that another program changed a part so often that Watch waits before it
	// repairs that part again.
	Fighting bool
	// Err is why the table could not be repaired; Watch tries again.
	Err error
}

// Watch keeps the table as desired, until ctx ends, and returns the error of ctx. It reads the
// table after the kernel has reported a change of it, or has lost reports, and replaces it in
// one transaction if it differs. What the keeper itself has changed it neither reports nor
// undoes. If other programs change the same part again and again, repairs of it become rare.
// At most one Watch runs for a keeper.
func (k *Keeper) Watch(ctx context.Context, cfg WatchConfig) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	if cfg.Exclusive == nil {
		cfg.Exclusive = func(_ context.Context, check func() error) error { return check() }
	}
	var monitor *Monitor
	err := k.Exclusively(ctx, k.cfg.Table, func(*Held) (err error) {
		monitor, err = NewMonitor(k.file, k.cfg.Table)
		return err
	})
	if err != nil {
		return err
	}
	defer monitor.Close()
	w := &watcher{k: k, cfg: cfg, monitor: monitor}
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
	k        *Keeper
	cfg      WatchConfig
	monitor  *Monitor
	patience patience.Patience
	// reportedAt is the time of the report that caused the next check.
	reportedAt time.Time
	// reports are the reports since the table last was as desired.
	reports Report
}

// outcome is the result of a check.
type outcome int

const (
	asDesired outcome = iota // the table is as desired
	replaced                 // it was replaced, and may have been changed again
	overtaken                // the keeper changed it between Desired and the comparison
	delayed                  // it differs, and is repaired after a wait
)

// maxChecks bounds the number of checks without a wait between them.
const maxChecks = 2 * patience.Burst

// pause is the time until the next check.
type pause struct {
	longest time.Duration // a report ends it earlier
	deaf    time.Duration // but not in this time
}

// repair checks the table until it is as desired or its repair has to wait. It returns the
// pause until the next check.
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
		case errors.Is(err, ErrTorn):
			w.cfg.Logger.WarnContext(ctx, w.cfg.Subject+" not observed: other programs change the table without pause", "err", err)
			return pause{patience.First, patience.First}, nil
		case err != nil:
			return pause{}, err
		case found == asDesired:
			w.reports = Report{}
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
		w.reports.add(r)
		if r.Changed {
			w.reportedAt = time.Now()
			return nil
		}
		if !time.Now().Before(end) {
			return nil
		}
	}
}

// check compares the table with the desired one, and replaces it if it differs. With the
// outcome delayed it returns the time until the repair.
func (w *watcher) check(ctx context.Context) (found outcome, delay time.Duration, err error) {
	if w.reportedAt.IsZero() {
		w.reportedAt = time.Now()
	}
	before := w.k.recorded()
	want, ok := w.cfg.Desired()
	if !ok {
		return asDesired, 0, nil
	}
	var r Repair
	err = w.k.Exclusively(ctx, w.k.cfg.Table, func(h *Held) error {
		if w.k.count != before {
			found = overtaken
			return nil
		}
		have, err := h.Read(ctx, w.k.cfg.Table)
		if err != nil {
			return err
		}
		if have.Equal(want) {
			h.Record(want)
			return nil
		}
		if applied, ok := h.Applied(); !ok || applied.Equal(have) { // no other program has changed it
			found = replaced
			return h.Replace(have, want)
		}
		parts, texts := w.cfg.Differences(have, want)
		// All parts are repaired together, so one part that may be repaired is enough.
		var due []bool
		if due, delay, r.Fighting = w.patience.Grant(parts, time.Now()); !slices.Contains(due, true) {
			found = delayed
			return nil
		}
		found, r.Changes = replaced, texts
		if r.Err = h.Replace(have, want); r.Err != nil {
			found, delay = delayed, patience.First
		}
		return nil
	})
	if err == nil && len(r.Changes) > 0 {
		err = w.report(ctx, r)
	}
	return found, delay, err
}

// recorded returns the number of times that the keeper made the table hold something.
func (k *Keeper) recorded() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count
}

// report logs a repair and passes it to Repaired. By now the kernel has reported the changes
// that the repair undid.
func (w *watcher) report(ctx context.Context, r Repair) error {
	r.Took = time.Since(w.reportedAt)
	pending, err := w.monitor.Pending()
	if err != nil {
		return err
	}
	w.reports.add(pending)
	r.By = w.reports.By
	w.reportedAt, w.reports = time.Time{}, Report{}
	level := slog.LevelInfo
	if r.Fighting || r.Err != nil {
		level = slog.LevelWarn
	}
	w.cfg.Logger.Log(ctx, level, w.cfg.Subject+" repaired", "changes", r.Changes, "took", r.Took, "by", r.By, "fighting", r.Fighting, "err", r.Err)
	if w.cfg.Repaired != nil {
		w.cfg.Repaired(r)
	}
	return nil
}
