// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	enijournal "github.com/vpcnet/vpcnet/eni/waljournal"
	"github.com/vpcnet/vpcnet/ipam"
	ipamjournal "github.com/vpcnet/vpcnet/ipam/waljournal"
)

// journalWait is how long a start waits for its predecessor to let go of the
// state directory.
const journalWait = 20 * time.Second

// journals are what the agent keeps over restarts.
type journals struct {
	pool    *ipamjournal.Journal
	intents *enijournal.Journal
}

// openJournals opens both journals in dir, and logs what was lost.
func openJournals(ctx context.Context, dir string, log *slog.Logger) (*journals, error) {
	id, at, err := boot()
	if err != nil {
		return nil, fmt.Errorf("find out when the machine booted: %w", err)
	}
	pool, report, err := ipamjournal.Open(ctx, dir, ipamjournal.Config{BootID: id, BootTime: at, Wait: journalWait})
	if errors.Is(err, ipamjournal.ErrInUse) {
		return nil, fmt.Errorf("does another agent use %s? %w", dir, err)
	}
	if err != nil {
		return nil, err
	}
	if report.Rebooted || report.Migrated || report.Why != nil {
		log.Warn("journal of the pool", "rebooted", report.Rebooted, "migrated", report.Migrated,
			"set aside", report.SetAside, "readable", report.Readable, "err", report.Why)
	}
	intents, found, err := enijournal.Open(ctx, dir, enijournal.Config{Wait: journalWait})
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	if found.Migrated || found.Why != nil {
		log.Warn("journal of ENI operations", "migrated", found.Migrated,
			"set aside", found.SetAside, "readable", found.Readable, "err", found.Why)
	}
	return &journals{pool: pool, intents: intents}, nil
}

// openPool makes the pool from its journal. A journal whose events contradict
// each other, although each is as it was written, is set aside: the pool is
// empty then.
func (j *journals) openPool(cfg ipam.Config, log *slog.Logger) (*ipam.Pool, error) {
	cfg.Journal = j.pool
	pool, err := ipam.Open(cfg)
	if !errors.Is(err, ipam.ErrJournal) {
		return pool, err
	}
	names, aside := j.pool.Discard()
	if aside != nil {
		return nil, errors.Join(err, aside)
	}
	log.Warn("journal of the pool", "set aside", names, "err", err)
	return ipam.Open(cfg)
}

func (j *journals) close() error { return errors.Join(j.intents.Close(), j.pool.Close()) }

// boot returns the ID of this boot of the machine and when it was. Where the
// kernel says neither, both are zero.
func boot() (id string, at time.Time, err error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if errors.Is(err, os.ErrNotExist) {
		return "", time.Time{}, nil
	}
	stat, errStat := os.ReadFile("/proc/stat")
	if err = errors.Join(err, errStat); err != nil {
		return "", time.Time{}, err
	}
	_, line, _ := strings.Cut(string(stat), "\nbtime ")
	line, _, _ = strings.Cut(line, "\n")
	seconds, err := strconv.ParseInt(line, 10, 64)
	return strings.TrimSpace(string(data)), time.Unix(seconds, 0), err
}
