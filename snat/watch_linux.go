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

// everyDefault is how often Watch looks without a report.
const everyDefault = time.Minute

// Watch keeps the table as cfg.Desired wants it until ctx ends, whose error it
// returns. The kernel reports each change of nftables; Watch looks only when a
// report is about our table or when reports were lost, and replaces a table that
// differs in one transaction, within a few milliseconds. Flows that exist keep
// their translation. Other tables it never touches.
//
// What Apply and Remove of the same Handle do is no change by others: Watch
// neither reports it nor undoes it, unless Desired wants something else by then.
// Run one Watch for a Handle.
func (h *Handle) Watch(ctx context.Context, cfg WatchConfig) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Every == 0 {
		cfg.Every = everyDefault
	}
	if cfg.Exclusive == nil {
		cfg.Exclusive = func(_ context.Context, look func() error) error { return look() }
	}
	var monitor *nft.Monitor
	err := h.use(ctx, func() (err error) {
		monitor, err = nft.NewMonitor(h.ns, Table)
		return err
	})
	if err != nil {
		return err
	}
	defer monitor.Close()
	w := &watcher{h: h, cfg: cfg, monitor: monitor}
	for {
		p, err := w.settle(ctx)
		if err == nil {
			err = w.idle(ctx, p)
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
	h        *Handle
	cfg      WatchConfig
	monitor  *nft.Monitor
	patience patience.Patience
	// reported is when the report came that is the reason for the next look.
	reported time.Time
	// seen is what was reported since the table was last as it should be.
	seen nft.Report
}

// outcome is what a look has come to.
type outcome int

const (
	settled   outcome = iota // the table is as it should be
	replaced                 // it was not, and may have been changed again
	overtaken                // an Apply came between Desired and the look
	delayed                  // it differs, and is repaired after a wait
)

// rounds bounds how often the watcher looks again at once.
const rounds = 2 * patience.Burst

// pause is how long the watcher waits before it looks again.
type pause struct {
	longest time.Duration // a report ends it earlier
	deaf    time.Duration // but not in this time
}

// settle looks until the table is as it should be, or until its repair has to
// wait. It returns when to look next.
func (w *watcher) settle(ctx context.Context) (pause, error) {
	for range rounds {
		var (
			found outcome
			next  time.Duration
		)
		err := w.cfg.Exclusive(ctx, func() (err error) {
			found, next, err = w.look(ctx)
			return err
		})
		switch {
		case errors.Is(err, nft.ErrTorn):
			w.cfg.Logger.WarnContext(ctx, "translation not observed: others change it without pause", "err", err)
			return pause{patience.First, patience.First}, nil
		case err != nil:
			return pause{}, err
		case found == settled:
			w.seen = nft.Report{}
			return pause{longest: w.cfg.Every}, nil
		case found == delayed:
			return pause{next, min(next, patience.First)}, nil
		}
	}
	return pause{patience.First, patience.First}, nil
}

// idle waits until there is a reason to look.
func (w *watcher) idle(ctx context.Context, p pause) error {
	w.reported = time.Time{}
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
		w.seen.Add(r)
		if r.Changed {
			w.reported = time.Now()
			return nil
		}
		if !time.Now().Before(end) {
			return nil
		}
	}
}

// look compares the table with what is wanted, and replaces it if it differs.
// With delayed it returns the time until that.
func (w *watcher) look(ctx context.Context) (found outcome, next time.Duration, err error) {
	if w.reported.IsZero() {
		w.reported = time.Now()
	}
	before := w.h.applied()
	want, ok := w.cfg.Desired()
	if !ok {
		return settled, 0, nil
	}
	var r Repair
	err = w.h.use(ctx, func() error {
		if w.h.own.count != before {
			found = overtaken
			return nil
		}
		have, err := nft.Read(ctx, w.h.nft, Ruleset.Equal, read)
		if err != nil {
			return err
		}
		if have.Equal(want) {
			w.h.own.put(want)
			return nil
		}
		if w.h.own.is(have) { // no other program is behind it
			found = replaced
			return w.h.replace(want)
		}
		all := differences(have, want)
		// One part that may be repaired is enough, since all are repaired with it.
		var due []bool
		if due, next, r.Fighting = w.patience.Grant(parts(all), time.Now()); !slices.Contains(due, true) {
			found = delayed
			return nil
		}
		found, r.Changes = replaced, words(all)
		if r.Err = w.h.replace(want); r.Err != nil {
			found, next = delayed, patience.First
		}
		return nil
	})
	if err == nil && len(r.Changes) > 0 {
		err = w.tell(ctx, r)
	}
	return found, next, err
}

// tell reports a repair. The kernel has reported by now whatever it undid.
func (w *watcher) tell(ctx context.Context, r Repair) error {
	r.Took = time.Since(w.reported)
	pending, err := w.monitor.Pending()
	if err != nil {
		return err
	}
	w.seen.Add(pending)
	r.By = w.seen.By
	w.reported, w.seen = time.Time{}, nft.Report{}
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
