// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/snat"
)

// Offline is a node on which no agent runs, opened by a program that takes over what another
// agent has there, or leaves it to one: see package adopt. It holds the journals, so that no
// agent can start meanwhile. It is not safe for concurrent use.
type Offline struct {
	// Manager has the ENIs.
	Manager *eni.Manager
	// links has the network of the node.
	links *Links

	node     *node
	provider *Provider
}

// OpenOffline opens the node of a configuration. It changes nothing but the files in
// Config.StateDir, and returns an error while an agent uses that directory. The caller
// closes it.
func OpenOffline(ctx context.Context, cfg Config) (*Offline, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	n := &node{cfg: cfg, log: cfg.Logger}
	if err := n.openState(ctx); err != nil {
		return nil, errors.Join(err, n.close())
	}
	st, err := n.prepare(ctx)
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	p := &Provider{
		Manager: st.manager, Pool: n.pool, Links: n.links, Prefixes: cfg.prefixes(st.limits), PodENI: n.own.trunks(),
		MTU: cfg.ENIMTU, NoPrimary: cfg.NoPrimaryPods, own: n.own,
	}
	return &Offline{Manager: st.manager, links: n.links, node: n, provider: p}, nil
}

// Close closes what OpenOffline has opened, and leaves the network as it is.
func (o *Offline) Close() error { return o.node.close() }

// Allocations returns what the journal holds.
func (o *Offline) Allocations() []ipam.Allocation {
	var all []ipam.Allocation
	for a := range o.node.pool.Allocations() {
		all = append(all, a)
	}
	return all
}

// Journal returns a view of the journal's ENIs and blocks.
func (o *Offline) Journal() ipam.View { return o.node.pool.View() }

// Observe asks EC2 and the metadata service, and registers the ENIs with Links. It returns
// an error if EC2 does not answer. ENIs for which adoptable returns true are registered as if
// they were managed. The result are the inventory, which has them as they are, and the ENIs as
// the pool has them.
func (o *Offline) Observe(ctx context.Context, adoptable func(e eni.ENI, instance string) bool) (eni.Inventory, []agent.ENI, error) {
	inv, err := o.Manager.Discover(ctx)
	if err == nil {
		err = inv.EC2Err
	}
	if err != nil {
		return inv, nil, err
	}
	wanted := inv
	wanted.ENIs = slices.Clone(inv.ENIs)
	for i, e := range wanted.ENIs {
		if adoptable(e, inv.Instance.ID) {
			wanted.ENIs[i].Managed = true
		}
	}
	enis, err := o.provider.Register(wanted, true)
	return inv, enis, err
}

// changeFile is the name of a file in the state directory that exists while a change-over is
// not complete. It has the boot ID: a reboot ends all pods, and the rules of both agents.
const changeFile = "change-over"

// Begin records that a change-over has begun. Until Complete no agent starts on the node in
// this boot: it would change rules of which some are the other agent's.
func (o *Offline) Begin() error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.node.cfg.StateDir, changeFile), []byte(boot+"\n"), 0o600)
}

// Complete records that the change-over is complete. It is no error if none has begun.
func (o *Offline) Complete() error {
	err := os.Remove(filepath.Join(o.node.cfg.StateDir, changeFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// refuseUnfinished returns an error if a change-over of the node is not complete.
func refuseUnfinished(stateDir string) error {
	file := filepath.Join(stateDir, changeFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	boot, bootErr := bootID()
	if err := errors.Join(err, bootErr); err != nil {
		return err
	}
	if strings.TrimSpace(string(text)) != boot {
		return os.Remove(file)
	}
	return fmt.Errorf("%w: run `ipamd adopt` again, with the flags that it had (%s)", ErrChangeOver, file)
}

// ErrChangeOver is the error of Agent.Run while a change-over of the node is not complete.
var ErrChangeOver = errors.New("a change-over between agents is not complete")

// Config returns the configuration with its defaults.
func (o *Offline) Config() Config { return o.node.cfg }

// Record appends events to the journal. It first checks that they agree with its content; if
// not, it returns ipam.ErrJournal and records none of them.
func (o *Offline) Record(events []ipam.Event) error {
	n := o.node
	have, err := n.journals.pool.Load()
	if err != nil {
		return err
	}
	trial := &memoryJournal{append(have, events...)}
	if _, err := ipam.Open(ipam.Config{Journal: trial, Cooldown: n.cfg.Cooldown}); err != nil {
		return err
	}
	if err := n.journals.pool.Append(events); err != nil {
		return err
	}
	return o.reopen()
}

// Forget empties the state directory: the next agent starts as on a new node.
func (o *Offline) Forget() error {
	if err := o.node.journals.pool.Replace(nil); err != nil {
		return err
	}
	err := os.Remove(filepath.Join(o.node.cfg.StateDir, nodeRecordFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, r := range o.node.own.records.list() {
		if err := o.node.own.records.remove(r); err != nil {
			return err
		}
	}
	return o.reopen()
}

// reopen reads the journal again.
func (o *Offline) reopen() error {
	n := o.node
	pool, err := ipam.Open(ipam.Config{Journal: n.journals.pool, Cooldown: n.cfg.Cooldown, MaxPods: n.cfg.MaxPods, Witness: n.links.Witness})
	if err != nil {
		return err
	}
	n.pool, o.provider.Pool = pool, pool
	n.backend = NewBackend(n.cfg.backend(pool))
	n.backend.own, n.own.ended = n.own, n.backend.released
	n.links.pods = n.backend.Pods
	return nil
}

// Ensure brings the network of node and pods to what the journal and the ENIs want, with the
// source translation, as an agent does when it starts.
func (o *Offline) Ensure(ctx context.Context, enis []agent.ENI) error {
	for _, e := range enis {
		if e.NoPods && !e.Primary {
			continue
		}
		if err := o.links.Ensure(ctx, e); err != nil {
			return fmt.Errorf("%s: %w", e.ID, err)
		}
	}
	return nil
}

// Translate applies the source translation alone.
func (o *Offline) Translate(ctx context.Context) error {
	return o.links.inTurn(ctx, func() error { return o.links.translate(ctx, time.Now()) })
}

// Desired returns the network that Ensure makes, and its translation, which lacks what
// Links finds in the kernel.
func (o *Offline) Desired(vpc []netip.Prefix) (datapath.Desired, snat.Config) {
	cfg := o.links.snatConfig
	cfg.VPC = vpc
	return datapath.Desired{Node: o.links.Node(), Pods: o.node.backend.Pods()}, cfg
}

// Announce writes the CNI configuration, as an agent does when it can serve pods. It waits for
// the plugins that the configuration asks for.
func (o *Offline) Announce(ctx context.Context) error {
	return o.node.announce(ctx, primaryAddrs(o.Manager.Inventory()))
}

// memoryJournal is a journal in memory.
type memoryJournal struct{ events []ipam.Event }

func (j *memoryJournal) Load() ([]ipam.Event, error)  { return j.events, nil }
func (j *memoryJournal) Append(e []ipam.Event) error  { j.events = append(j.events, e...); return nil }
func (j *memoryJournal) Replace(e []ipam.Event) error { j.events = e; return nil }
