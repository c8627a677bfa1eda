// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	enijournal "github.com/vpcnet/vpcnet/eni/waljournal"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	ipamjournal "github.com/vpcnet/vpcnet/ipam/waljournal"
)

// journalWait is how long the agent waits for its predecessor to release the state
// directory.
const journalWait = 20 * time.Second

// journals are the journals that survive a restart of the agent.
type journals struct {
	pool    *ipamjournal.Journal
	intents *enijournal.Journal
	// restSince is the time of the boot, if the machine was rebooted since the last
	// start of the agent: all pods ended then.
	restSince time.Time
	log       *slog.Logger

	mu sync.Mutex
	// lost has an event for each journal that could not be read.
	lost []agent.Event
}

// openJournals opens the journal of the pool in dir; openIntents opens the other one. Both
// set a damaged journal aside; then the kernel and EC2 show what is in use.
func openJournals(ctx context.Context, dir, boot string, booted time.Time, log *slog.Logger) (*journals, error) {
	j := &journals{log: log}
	pool, report, err := ipamjournal.Open(ctx, dir, ipamjournal.Config{BootID: boot, BootTime: booted, Wait: journalWait})
	if errors.Is(err, ipamjournal.ErrInUse) {
		return nil, fmt.Errorf("another agent uses the state directory %s: %w", dir, err)
	}
	if err != nil {
		return nil, err
	}
	j.pool = pool
	switch {
	case report.Rebooted:
		j.restSince = booted
		log.Info("the machine was rebooted: the journal of the pool is new")
	case report.Migrated:
		log.Info("the journal of the pool was converted from the earlier format")
	case report.Created:
		log.Info("the journal of the pool is new")
	}
	if report.Why != nil {
		j.recordLoss("pool", report.SetAside, report.Readable, report.Why)
	}
	return j, nil
}

// openIntents opens the journal of operations on ENIs in dir. It may run beside openPool.
func (j *journals) openIntents(ctx context.Context, dir string) error {
	intents, found, err := enijournal.Open(ctx, dir, enijournal.Config{Wait: journalWait})
	if err != nil {
		return err
	}
	j.intents = intents
	switch {
	case found.Migrated:
		j.log.Info("the journal of ENI operations was converted from the earlier format")
	case found.Created:
		j.log.Info("the journal of ENI operations is new")
	}
	if found.Why != nil {
		j.recordLoss("ENI operations", found.SetAside, found.Readable, found.Why)
	}
	return nil
}

// recordLoss logs a journal that was set aside, and records an event.
func (j *journals) recordLoss(which string, aside []string, readable int, why error) {
	j.log.Error("journal set aside: the kernel and EC2 show what is in use", "journal", which,
		"aside", aside, "readable", readable, "err", why)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lost = append(j.lost, agent.Event{
		At: time.Now(), Kind: EventJournalLost,
		Text: fmt.Sprintf("the journal of the %s was set aside as %v after %d records: %v", which, aside, readable, why),
	})
}

// openPool opens the pool with the journal. It sets the journal aside if its events
// contradict each other.
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
	j.recordLoss("pool", aside, 0, err)
	return ipam.Open(cfg)
}

func (j *journals) close() error {
	err := j.pool.Close()
	if j.intents != nil {
		err = errors.Join(err, j.intents.Close())
	}
	return err
}
