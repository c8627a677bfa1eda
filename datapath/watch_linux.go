// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/nft"
	"github.com/vpcnet/vpcnet/internal/patience"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// defaultEvery is how often Watch looks when the kernel reports nothing.
const defaultEvery = time.Minute

// freshPause is the time from the end of an ADD to the look after which the event filter knows
// the pod. One look serves all pods of that time.
const freshPause = time.Second

// reportBuffer is the size of the buffer for reports: enough for some thousand of them.
// The kernel drops the others, and says that it did.
const reportBuffer = 4 << 20

// Watch: see [Handle.Watch].
func (h *kernel) Watch(ctx context.Context, cfg WatchConfig) error {
	if cfg.Desired == nil {
		return errNoDesired
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	m, err := rtnl.NewMonitor(h.ns, reportBuffer)
	if err != nil {
		return err
	}
	defer m.Close()
	w := newWatcher(h, cfg)
	for {
		next, err := w.lookExclusively(ctx)
		if err != nil {
			return err
		}
		if err := w.idle(ctx, m, next); err != nil {
			return err
		}
	}
}

// watcher is the state of one Watch.
type watcher struct {
	h        *kernel
	cfg      WatchConfig
	patience patience.Patience
	filter   eventFilter
	// reported is when the first report arrived that is a reason for the next look.
	reported time.Time
	// accelerated means that the node accelerates flows, as of the latest look.
	accelerated bool
	// by names the programs that caused the reports.
	by map[string]bool
}

func newWatcher(h *kernel, cfg WatchConfig) *watcher {
	w := &watcher{h: h, cfg: cfg}
	// The first look may fail, and then Watch waits for reports before it has seen
	// anything.
	w.filter.reset(Desired{}, rtnl.Observation{})
	return w
}

// idle waits until there is a reason to look: a report that the filter selects, a lost
// report, a pod that was added freshPause ago, or the end of d.
func (w *watcher) idle(ctx context.Context, m *rtnl.Monitor, d time.Duration) error {
	w.reported, w.by = time.Time{}, map[string]bool{}
	end := time.Now().Add(d)
	for {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		if err := m.Wait(ctx, left); err != nil {
			return err
		}
		arrived := time.Now()
		look, fresh := false, w.filter.fresh
		lost, err := m.Read(w.filter.names, func(e rtnl.Event) {
			look = w.filter.concerns(e) || look
			if name := programOf(e); look && name != "" {
				w.by[name] = true
			}
		})
		if err != nil {
			return err
		}
		if look || lost {
			w.reported = arrived
			return nil
		}
		if latest := arrived.Add(freshPause); w.filter.fresh && !fresh && latest.Before(end) {
			end = latest
		}
	}
}

// lookExclusively looks while nothing else in the process changes the node.
func (w *watcher) lookExclusively(ctx context.Context) (next time.Duration, err error) {
	if w.cfg.Exclusive == nil {
		return w.look(ctx)
	}
	err = w.cfg.Exclusive(ctx, func() (err error) {
		next, err = w.look(ctx)
		return err
	})
	return next, err
}

// look compares the network with the desired one, repairs the differences that two looks
// agree on, and looks again until there is none. It returns the time until the next look.
func (w *watcher) look(ctx context.Context) (time.Duration, error) {
	if w.reported.IsZero() {
		w.reported = time.Now()
	}
	wait := patience.First
	for range rounds {
		changes, err := w.drift(ctx)
		if err != nil {
			return w.unobserved(ctx, err)
		}
		if len(changes) == 0 {
			return w.cfg.Every, w.accelerate(ctx)
		}
		second, err := w.drift(ctx)
		if err != nil {
			return w.unobserved(ctx, err)
		}
		if changes = confirmed(changes, second); len(changes) == 0 {
			wait = disagreementPause
			continue
		}
		wait = patience.First
		due, next, fighting := dueChanges(&w.patience, changes, time.Now())
		if len(due) == 0 {
			return next, nil
		}
		err = w.h.confirmChanges(ctx, w.cfg.Desired(), due, func(changes []netstate.Change) error {
			w.repair(ctx, changes, fighting)
			return nil
		})
		if err != nil {
			return w.unobserved(ctx, err)
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
	return wait, nil
}

// accelerate adds the links of new pods to the table of accelerated flows. The kernel may
// refuse it; the next look tries it again.
func (w *watcher) accelerate(ctx context.Context) error {
	if !w.accelerated {
		return nil
	}
	if err := w.h.acceleratePods(ctx, w.cfg.Desired); err != nil && ctx.Err() == nil {
		w.cfg.Logger.WarnContext(ctx, "flows of pods are not accelerated", "err", err)
	}
	return ctx.Err()
}

// disagreementPause is the time until the next look after two looks that disagree.
const disagreementPause = 2 * time.Millisecond

// unobserved returns the time until the next look after one that failed for a reason
// that passes, or else the error.
func (w *watcher) unobserved(ctx context.Context, err error) (time.Duration, error) {
	if errors.Is(err, rtnl.ErrInterrupted) || errors.Is(err, nft.ErrTorn) {
		w.cfg.Logger.WarnContext(ctx, "network not observed: other programs change it all the time", "err", err)
		return patience.First, nil
	}
	return 0, err
}

// drift observes the network and returns the changes that make it the desired one.
func (w *watcher) drift(ctx context.Context) ([]netstate.Change, error) {
	have, unsettled, err := w.h.observeSettled(ctx)
	if err != nil {
		return nil, err
	}
	d := w.cfg.Desired().resolved(have.Links)
	w.accelerated = d.Node.Accelerate
	w.filter.reset(d, have)
	return d.without(unsettled).Drift(have.State), nil
}

// repair makes changes, one by one if not all of them can be made, and reports them.
func (w *watcher) repair(ctx context.Context, changes []netstate.Change, fighting bool) {
	if len(changes) == 0 {
		return
	}
	err := w.h.Apply(ctx, changes)
	if err != nil {
		var errs []error
		for _, c := range changes {
			// A link that was deleted needs no repair any more.
			if err := w.h.Apply(ctx, []netstate.Change{c}); err != nil && !errors.Is(err, unix.ENODEV) {
				errs = append(errs, err)
			}
		}
		err = errors.Join(errs...)
	}
	r := Repair{
		Changes: changes, Took: time.Since(w.reported),
		By: slices.Sorted(maps.Keys(w.by)), Fighting: fighting, Err: err,
	}
	var words []string
	for _, c := range changes {
		words = append(words, strings.SplitN(c.String(), "\n", 2)[0])
	}
	level := slog.LevelInfo
	if fighting || err != nil {
		level = slog.LevelWarn
	}
	w.cfg.Logger.Log(ctx, level, "network repaired", "changes", words, "took", r.Took, "by", r.By, "fighting", fighting, "err", err)
	if w.cfg.Repaired != nil {
		w.cfg.Repaired(r)
	}
}

// programOf names the program that caused an event, as far as the kernel reports it, or
// returns "" for this program and for the kernel. The port of a process's first netlink
// socket is the ID of the process; its further sockets have other ports. Nftables
// reports the program at the end of each transaction.
func programOf(e rtnl.Event) string {
	if s, ok := e.Subject.(rtnl.Transaction); ok {
		if own, err := os.ReadFile("/proc/self/comm"); s.Program == "" || err == nil && strings.TrimSpace(string(own)) == s.Program {
			return ""
		}
		return fmt.Sprintf("%s (pid %d)", s.Program, s.PID)
	}
	pid := int(int32(e.Port))
	if pid <= 0 || pid == os.Getpid() {
		return ""
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("pid %d", pid)
	}
	return fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(comm)), pid)
}
