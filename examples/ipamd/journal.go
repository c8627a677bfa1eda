// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	enijournal "github.com/vpcnet/vpcnet/eni/waljournal"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	ipamjournal "github.com/vpcnet/vpcnet/ipam/waljournal"
)

// journalWait is how long a start waits for its predecessor to let go of the
// state directory.
const journalWait = 20 * time.Second

// journals are what the agent keeps over restarts.
type journals struct {
	pool    *ipamjournal.Journal
	intents *enijournal.Journal
	// restSince is the boot, if pods ended with the boot before.
	restSince time.Time
	// lost says what could not be read, for people.
	lost []agent.Event
	log  *slog.Logger
}

// openJournals opens both journals in dir. What is damaged is set aside, and the
// kernel's word takes its place.
func openJournals(ctx context.Context, dir, boot string, booted time.Time, log *slog.Logger) (*journals, error) {
	j := &journals{log: log}
	pool, report, err := ipamjournal.Open(ctx, dir, ipamjournal.Config{BootID: boot, BootTime: booted, Wait: journalWait})
	if errors.Is(err, ipamjournal.ErrInUse) {
		return nil, fmt.Errorf("another agent uses -state-dir %s: %w", dir, err)
	}
	if err != nil {
		return nil, err
	}
	j.pool = pool
	switch {
	case report.Rebooted:
		j.restSince = booted
		log.Info("the machine has booted: the journal of the pool begins anew")
	case report.Migrated:
		log.Info("the journal of the pool was taken over from the version before")
	}
	if report.Why != nil {
		j.lose("pool", report.SetAside, report.Readable, report.Why)
	}
	intents, found, err := enijournal.Open(ctx, dir, enijournal.Config{Wait: journalWait})
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	j.intents = intents
	if found.Why != nil {
		j.lose("ENI operations", found.SetAside, found.Readable, found.Why)
	}
	return j, nil
}

// lose tells of a journal that was set aside.
func (j *journals) lose(which string, aside []string, readable int, why error) {
	j.log.Error("journal set aside: what is in use is taken from the kernel and from EC2", "journal", which,
		"aside", aside, "readable", readable, "err", why)
	j.lost = append(j.lost, agent.Event{
		At: time.Now(), Kind: eventJournal,
		Text: fmt.Sprintf("the journal of the %s was set aside as %v after %d records: %v", which, aside, readable, why),
	})
}

// openPool opens the pool with the journal. Events that contradict each other are
// set aside too.
func (j *journals) openPool(cfg ipam.Config) (*ipam.Pool, error) {
	cfg.Journal, cfg.CoolingSince = j.pool, j.restSince
	pool, err := ipam.Open(cfg)
	if !errors.Is(err, ipam.ErrJournal) {
		return pool, err
	}
	aside, discardErr := j.pool.Discard()
	if discardErr != nil {
		return nil, errors.Join(err, discardErr)
	}
	j.lose("pool", aside, 0, err)
	return ipam.Open(cfg)
}

func (j *journals) close() error { return errors.Join(j.intents.Close(), j.pool.Close()) }
