// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"encoding/binary"
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

// everyDefault is how often Watch looks without a report.
const everyDefault = time.Minute

// Watch keeps the namespace as cfg.Desired wants it until ctx ends, whose error
// it returns. The kernel reports each change of links, addresses, routes, rules,
// neighbours and nftables; Watch looks only when a report is about something that
// is ours, and repairs what differs, usually within a few milliseconds. What others
// have on the node, and the insides of sandboxes, it never touches. Run one Watch
// for a namespace; AddPod, DelPod and EnsureNode may run beside it.
func (h *Handle) Watch(ctx context.Context, cfg WatchConfig) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Every == 0 {
		cfg.Every = everyDefault
	}
	m, err := rtnl.NewMonitor(h.ns)
	if err != nil {
		return err
	}
	defer m.Close()
	w := &watcher{h: h, cfg: cfg}
	for {
		next, err := w.alone(ctx)
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
	h        *Handle
	cfg      WatchConfig
	patience patience.Patience
	filter   eventFilter
	// reported is when the first report came that asked for the next look.
	reported time.Time
	// by names the programs behind the reports.
	by map[string]bool
}

// idle waits until there is a reason to look: a report about something of ours,
// or the end of d.
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
		came := time.Now()
		look := false
		lost, err := m.Read(func(e rtnl.Event) {
			look = w.filter.concerns(e) || look
			if name := culprit(e); look && name != "" {
				w.by[name] = true
			}
		})
		if err != nil {
			return err
		}
		if look || lost {
			w.reported = came
			return nil
		}
	}
}

// alone looks while nothing else in the process changes the node.
func (w *watcher) alone(ctx context.Context) (next time.Duration, err error) {
	if w.cfg.Exclusive == nil {
		return w.look(ctx)
	}
	err = w.cfg.Exclusive(ctx, func() (err error) {
		next, err = w.look(ctx)
		return err
	})
	return next, err
}

// look compares what is with what should be, repairs the difference that two looks
// agree on, and looks again until there is none. It returns when to look next.
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
			return w.cfg.Every, nil
		}
		second, err := w.drift(ctx)
		if err != nil {
			return w.unobserved(ctx, err)
		}
		if changes = confirmed(changes, second); len(changes) == 0 {
			wait = againWait
			continue
		}
		wait = patience.First
		due, next, fighting := grant(&w.patience, changes, time.Now())
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

// againWait is how long after looks that do not agree the next one comes.
const againWait = 2 * time.Millisecond

// unobserved says when to look again if a look has failed for a reason that passes.
func (w *watcher) unobserved(ctx context.Context, err error) (time.Duration, error) {
	if errors.Is(err, rtnl.ErrInterrupted) || errors.Is(err, nft.ErrTorn) {
		w.cfg.Logger.WarnContext(ctx, "network not observed: others change it without pause", "err", err)
		return patience.First, nil
	}
	return 0, err
}

// drift observes and compares.
func (w *watcher) drift(ctx context.Context) ([]netstate.Change, error) {
	have, unsettled, err := w.h.observeSettled(ctx)
	if err != nil {
		return nil, err
	}
	d := w.cfg.Desired()
	w.filter.learn(d, have)
	return d.without(unsettled).Drift(have.State), nil
}

// repair makes changes, one by one if not all can be made, and tells of it.
func (w *watcher) repair(ctx context.Context, changes []netstate.Change, fighting bool) {
	if len(changes) == 0 {
		return
	}
	err := w.h.Apply(ctx, changes)
	if err != nil {
		var errs []error
		for _, c := range changes {
			// A link that is gone has taken along what was to be repaired on it.
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

// culprit names the program that caused an event, as far as it can be known. A
// socket's port is by default the ID of the process that opened it, though a
// process's further sockets get others; nftables tells the program's name, at the
// end of each transaction.
func culprit(e rtnl.Event) string {
	if e.Nft {
		return generationBy(e)
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

// generationBy returns the program behind an nftables transaction, unless it has
// the name of this one.
func generationBy(e rtnl.Event) string {
	if e.Kind != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN || len(e.Body) < 4 {
		return ""
	}
	var name string
	var pid uint32
	for kind, v := range rtnl.Attributes(e.Body[4:]) {
		switch {
		case kind == unix.NFTA_GEN_PROC_NAME:
			name = rtnl.Text(v)
		case kind == unix.NFTA_GEN_PROC_PID && len(v) == 4:
			pid = binary.BigEndian.Uint32(v)
		}
	}
	if own, err := os.ReadFile("/proc/self/comm"); name == "" || err == nil && strings.TrimSpace(string(own)) == name {
		return ""
	}
	return fmt.Sprintf("%s (pid %d)", name, pid)
}
