// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	enijournal "github.com/vpcnet/vpcnet/eni/waljournal"
	"github.com/vpcnet/vpcnet/ipam"
	ipamjournal "github.com/vpcnet/vpcnet/ipam/waljournal"
)

// Stored is what the state directory of an agent has: what was true when the agent last wrote
// it. Like [Status] it does not contain the IDs of sandboxes.
type Stored struct {
	// Status has the ENIs, the blocks and the pods of the journal. No ENI is ready, because
	// only a running agent verifies their links, and there is no reason.
	Status Status `json:"status"`
	// Inventory is what EC2 and the metadata service last said in this boot. It is empty if
	// no agent of this boot has asked them.
	Inventory eni.Inventory `json:"inventory"`
	// Intents are the operations on ENIs that are not finished.
	Intents []eni.Intent `json:"intents"`
	// Problems describe what cannot be read, or does not belong to this boot.
	Problems []string `json:"problems,omitempty"`
}

// ReadStored reads a state directory without changing it: it works on a copy. It is for a node
// on which no agent runs. A file that an agent writes meanwhile may look damaged. It needs the
// permission to read the directory, which belongs to root, and a directory for temporary files.
func ReadStored(ctx context.Context, dir string) (s Stored, err error) {
	boot, err := bootID()
	if err != nil {
		return s, err
	}
	work, err := os.MkdirTemp("", "vpcnet-stored-")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := copyState(work, dir); err != nil {
		return s, fmt.Errorf("state directory: %w", err)
	}
	s = Stored{Status: Status{ENIs: []ENIStatus{}, Allocations: []PodStatus{}}, Intents: []eni.Intent{}}
	for _, read := range []func(context.Context, string, string) error{s.readNode, s.readPool, s.readIntents, s.readPods} {
		if err := read(ctx, work, boot); err != nil {
			s.Problems = append(s.Problems, strings.ReplaceAll(err.Error(), work, dir))
		}
	}
	return s, nil
}

// copyState copies the files of a state directory and its directory of pods.
func copyState(to, dir string) error {
	for _, sub := range []string{"", podRecordDir} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			if sub != "" && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		if err := os.MkdirAll(filepath.Join(to, sub), 0o700); err != nil {
			return err
		}
		for _, e := range entries {
			if !e.Type().IsRegular() {
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, sub, e.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(to, sub, e.Name()), data, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Stored) readNode(_ context.Context, dir, boot string) error {
	record, err := readNodeRecord(dir, boot)
	s.Inventory = record.Inventory
	return err
}

func (s *Stored) readPool(ctx context.Context, dir, boot string) error {
	j, report, err := ipamjournal.Open(ctx, dir, ipamjournal.Config{BootID: boot})
	if err != nil {
		return err
	}
	defer j.Close()
	switch {
	case report.Why != nil:
		return fmt.Errorf("journal of the pool, after %d events: %w", report.Readable, report.Why)
	case report.Rebooted:
		return errors.New("the journal of the pool is of an earlier boot, and its pods have ended")
	case report.Created:
		return errors.New("there is no journal of the pool: no agent has served pods with this directory")
	}
	pool, err := ipam.Open(ipam.Config{Journal: j})
	if err != nil {
		return err
	}
	s.Status.ENIs = eniStatuses(pool.View())
	for i, e := range s.Status.ENIs {
		s.Status.ENIs[i].Table, s.Status.ENIs[i].Mark = datapath.Table(e.Card, e.Device), datapath.Number(e.Card, e.Device)
		if known, ok := s.Inventory.ENI(e.ID); ok {
			s.Status.ENIs[i].MAC, s.Status.ENIs[i].Kind, s.Status.ENIs[i].Subnet = known.MAC, known.Kind, known.SubnetID
		}
	}
	for a := range pool.Allocations() {
		s.Status.Allocations = append(s.Status.Allocations, PodStatus{Addr: a.Addr, ENI: a.ENI, Namespace: a.Pod.Namespace, Pod: a.Pod.Name, At: a.At})
	}
	return nil
}

func (s *Stored) readIntents(ctx context.Context, dir, _ string) error {
	j, report, err := enijournal.Open(ctx, dir, enijournal.Config{})
	if err != nil {
		return err
	}
	defer j.Close()
	if report.Why != nil {
		return fmt.Errorf("journal of ENI operations, after %d entries: %w", report.Readable, report.Why)
	}
	all, err := j.All(ctx)
	s.Intents = slices.DeleteFunc(all, func(i eni.Intent) bool { return i.Done || i.Op == eni.OpLearned })
	return err
}

func (s *Stored) readPods(_ context.Context, dir, boot string) error {
	records, bad, err := openPodRecords(dir, boot)
	if err != nil {
		return err
	}
	for _, r := range records.list() {
		for _, a := range r.Response.Addresses {
			if r.Kind != kindIPVLAN { // the pool has its addresses
				s.Status.Allocations = append(s.Status.Allocations, PodStatus{Addr: a.Addr, ENI: a.ENI, Namespace: r.Pod.Namespace, Pod: r.Pod.Name, At: r.At})
			}
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("records of pods that cannot be read: %s", strings.Join(bad, ", "))
	}
	return nil
}
