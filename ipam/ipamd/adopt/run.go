// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat"
)

// From changes the node over from amazon-vpc-cni-k8s to the agent of cfg, which must not run,
// and writes the plan to w before it begins. The errors are ErrCheckpoint, ErrRunning and
// ErrBranchPod, for which nothing is changed, and those of the steps, after which another call
// completes the change-over.
func From(ctx context.Context, cfg ipamd.Config, o Options, w io.Writer) error {
	return do(ctx, &run{cfg: cfg, options: o.withDefaults()}, fromAmazon, w)
}

// To changes the node over to amazon-vpc-cni-k8s, as From does the other way. The error
// ErrUnsupported names a pod that amazon-vpc-cni-k8s cannot serve; then nothing is changed.
func To(ctx context.Context, cfg ipamd.Config, o Options, w io.Writer) error {
	return do(ctx, &run{cfg: cfg, options: o.withDefaults(), back: true}, toAmazon, w)
}

func do(ctx context.Context, r *run, compute func(observed, Options) (plan, error), w io.Writer) (err error) {
	if err := r.options.refuseRunning(ctx); err != nil {
		return err
	}
	if !r.back {
		if err := r.options.readCheckpoints(&observed{}); err != nil {
			return err
		}
	}
	if r.node, err = ipamd.OpenOffline(ctx, r.cfg); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.node.Close()) }()
	r.cfg = r.node.Config()
	if r.handle, err = datapath.Open(""); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.handle.Close()) }()
	if r.chains, err = openChains(ctx); err != nil {
		return err
	}
	if r.chains != nil {
		defer func() { err = errors.Join(err, r.chains.Close()) }()
	}
	n, err := r.observe(ctx)
	if err != nil {
		return err
	}
	p, err := compute(n, r.options)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, p.String()); err != nil || r.options.DryRun {
		return err
	}
	if len(p.Steps) > 0 {
		if err := r.node.Begin(); err != nil {
			return err
		}
	}
	for _, s := range p.Steps {
		if err := r.carryOut(ctx, n.Pool, s); err != nil {
			return fmt.Errorf("%s: %w", s.title(), err)
		}
	}
	return r.node.Complete()
}

// carryOut carries out one step.
func (r *run) carryOut(ctx context.Context, enis []agent.ENI, s step) error {
	switch s := s.(type) {
	case tagENI:
		if s.Owner == ourOwner {
			return r.node.Manager.Adopt(ctx, s.ENI)
		}
		return r.node.Manager.Disown(ctx, s.ENI, s.Owner)
	case recordEvents:
		return r.node.Record(s.Events)
	case recordBranches:
		for _, p := range s.Pods {
			if err := r.node.RecordBranchPod(p); err != nil {
				return err
			}
		}
		return nil
	case markLink:
		return r.handle.AdoptPod(ctx, s.Pod, s.Pod.Adopted.Link)
	case unmarkLink:
		return r.handle.DisownPod(ctx, s.Pod)
	case renameLink:
		return r.handle.RenameLink(ctx, s.From, s.To)
	case applyChanges:
		return r.handle.Apply(ctx, s.Changes)
	case translate:
		return r.node.Translate(ctx)
	case ensureNetwork:
		return r.node.Ensure(ctx, enis)
	case restoreChains:
		return r.chains.Restore(ctx, s.Variant, s.Text)
	case deleteAmazonTable:
		return deleteTable()
	case removeTranslation:
		return r.removeTranslation(ctx)
	case announce:
		return r.node.Announce(ctx)
	case forget:
		return r.node.Forget()
	}
	return carryOutFile(s)
}

// carryOutFile carries out a step that changes a file.
func carryOutFile(s step) error {
	switch s := s.(type) {
	case writeFile:
		return replaceFile(s.Path, s.Text, 0o600)
	case copyFile:
		return s.copy()
	case moveFile:
		return os.Rename(s.From, s.To)
	case removeFile:
		if err := os.Remove(s.Path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	return fmt.Errorf("step %T is unknown", s)
}

func (r *run) removeTranslation(ctx context.Context) error {
	h, err := snat.Open("")
	if err != nil {
		return err
	}
	err = errors.Join(h.Remove(ctx), h.Close())
	if err == nil && r.chains != nil {
		err = r.chains.Remove(ctx)
	}
	return err
}

func (s copyFile) copy() error {
	text, err := os.ReadFile(s.From)
	if err != nil {
		return err
	}
	if _, err := os.Stat(s.Backup); s.Backup != "" && errors.Is(err, os.ErrNotExist) {
		if err := os.Link(s.To, s.Backup); err != nil {
			return err
		}
	}
	return replaceFile(s.To, text, 0o755)
}

// replaceFile replaces a file in one step, so that another program reads the old or the new
// text. It syncs the new one first.
func replaceFile(path string, text []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(text))
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
