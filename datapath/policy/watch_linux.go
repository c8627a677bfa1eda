// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"log/slog"
	"strings"
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
	var monitor *nft.Monitor
	err := n.exclusively(ctx, func() (err error) {
		monitor, err = nft.NewMonitor(n.file, tableName)
		return err
	})
	if err != nil {
		return err
	}
	defer monitor.Close()
	w := &watcher{n: n, cfg: cfg, monitor: monitor}
	for {
		p, err := w.check(ctx)
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
	// reports are the reports since the table last was as applied.
	reports nft.Report
}

// pause is the time until the next check.
type pause struct {
	longest time.Duration // a report ends it earlier
	deaf    time.Duration // but not in this time
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

// check compares the table with the applied one, and repairs it if it differs. It returns
// the pause until the next check.
func (w *watcher) check(ctx context.Context) (p pause, err error) {
	if w.reportedAt.IsZero() {
		w.reportedAt = time.Now()
	}
	var r Repair
	p = pause{longest: w.cfg.Every}
	err = w.n.exclusively(ctx, func() error {
		if w.n.applied == nil {
			return nil
		}
		have, err := w.n.socket.Table(ctx, tableName)
		if err != nil {
			return err
		}
		want := *w.n.applied
		if have.Equal(want) {
			w.reports = nft.Report{}
			return nil
		}
		due, delay, fighting := w.patience.Grant([]string{tableName}, time.Now())
		if !due[0] {
			p = pause{delay, min(delay, patience.First)}
			return nil
		}
		p = pause{} // to check again, for the table may have been changed again
		r.Fighting, r.Changes = fighting, shortened(nft.Diff(have, want))
		if r.Err = explainChange(w.n.socket.Change(have, want)); r.Err != nil {
			p = pause{patience.First, patience.First}
		}
		return nil
	})
	if errors.Is(err, nft.ErrTorn) {
		w.cfg.Logger.WarnContext(ctx, "policies not observed: other programs change them without pause", "err", err)
		return pause{patience.First, patience.First}, nil
	}
	if err == nil && r.Changes != "" {
		err = w.report(ctx, r)
	}
	return p, err
}

// shortened returns the first commands of a script.
func shortened(script string) string {
	const most = 400
	if len(script) <= most {
		return strings.TrimSpace(script)
	}
	return strings.TrimSpace(script[:most]) + " …"
}

// report logs a repair and passes it to Repaired. By now the kernel has reported the changes
// that the repair undid.
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
	w.cfg.Logger.Log(ctx, level, "policies repaired", "changes", r.Changes, "took", r.Took, "by", r.By, "fighting", r.Fighting, "err", r.Err)
	if w.cfg.Repaired != nil {
		w.cfg.Repaired(r)
	}
	return nil
}
