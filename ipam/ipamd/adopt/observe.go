// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

func (o Options) withDefaults() Options {
	set := func(s *string, d string) {
		if *s == "" {
			*s = d
		}
	}
	set(&o.Checkpoint, "/var/run/aws-node/ipam.json")
	set(&o.Socket, "/var/run/aws-node/ipamd.sock")
	set(&o.Conflist, "/etc/cni/net.d/10-aws.conflist")
	set(&o.PluginDir, "/opt/cni/bin")
	set(&o.Results, "/var/lib/cni/results")
	if len(o.Sandboxes) == 0 {
		o.Sandboxes = []string{"/var/run/netns", "/var/run/docker/netns"}
	}
	return o
}

// ErrRunning means that the other agent answers at its socket.
var ErrRunning = errors.New("amazon-vpc-cni-k8s runs on the node")

// refuseRunning returns ErrRunning if the other agent answers at its socket. A socket of an
// agent that has ended refuses connections.
func (o Options) refuseRunning(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", o.Socket)
	if err != nil {
		return nil
	}
	return errors.Join(fmt.Errorf("%w: it answers at %s; end it first", ErrRunning, o.Socket), conn.Close())
}

// readCheckpoints reads the checkpoints of all network cards. A node without any has none.
func (o Options) readCheckpoints(n *observed) error {
	paths := []string{o.Checkpoint}
	further, err := filepath.Glob(checkpointPath(o.Checkpoint, 1)[:len(checkpointPath(o.Checkpoint, 1))-len("1.json")] + "*.json")
	if err != nil {
		return err
	}
	n.Checkpoints = map[string]string{}
	for _, path := range append(paths, further...) {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		card := 0
		if err == nil && path != o.Checkpoint {
			for card = 1; checkpointPath(o.Checkpoint, card) != path; card++ {
				if card > maxCard {
					return fmt.Errorf("%s: %w: want the number of a network card in the name", path, ErrCheckpoint)
				}
			}
		}
		if err != nil {
			return err
		}
		entries, err := ParseCheckpoint(text, card)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		n.Entries = append(n.Entries, entries...)
		n.Checkpoints[path] = string(text)
	}
	return nil
}

// readResults reads the results of pods on branch ENIs. It skips files that are not such results.
func readResults(dir string) (all []branchResult, err error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		if r, ok := parseResult(text); ok {
			all = append(all, r)
		}
	}
	return all, err
}

// maxCard is the highest number of a network card.
const maxCard = 99

// observe reads everything that a plan depends on. For the way back, the checkpoints need
// not be readable, because they are replaced.
func (r *run) observe(ctx context.Context) (n observed, err error) {
	n.Now, n.Owner, n.Conflist, n.MTU, n.Families = time.Now(), ourOwner, r.cfg.Conflist, r.cfg.PodMTU, r.cfg.Families
	if err := r.options.readCheckpoints(&n); err != nil && !r.back {
		return n, err
	}
	inv, enis, err := r.node.Observe(ctx, func(e eni.ENI, instance string) bool { return adoptable(e, instance) })
	if err != nil {
		return n, err
	}
	n.Instance, n.ENIs, n.Pool = inv.Instance.ID, inv.ENIs, enis
	if n.State, err = r.handle.Observe(ctx); err != nil {
		return n, err
	}
	if n.Index, n.Sandboxes, err = observeSandboxes(r.options.Sandboxes); err != nil {
		return n, err
	}
	if n.Branches, err = r.node.BranchENIs(ctx); err != nil {
		return n, err
	}
	if n.Results, err = readResults(r.options.Results); err != nil {
		return n, err
	}
	n.Journal, n.Allocations, n.BranchPods = r.node.Journal(), r.node.Allocations(), r.node.BranchPods()
	n.Desired, n.Translation = r.node.Desired(inv.Instance.VPC)
	n.Translation.PrimaryLink, n.Translation.NodeAddrs = "", nil
	for _, e := range n.resolvedNode().ENIs {
		if e.Primary() {
			n.Translation.PrimaryLink = e.Link
			for _, a := range e.Addrs {
				n.Translation.NodeAddrs = append(n.Translation.NodeAddrs, a.Addr())
			}
		}
	}
	if err := r.observeTables(ctx, &n); err != nil {
		return n, err
	}
	r.observeFiles(&n)
	return n, nil
}

// ourOwner is the default of eni.Config.Owner.
const ourOwner = "vpcnet"

func (r *run) observeTables(ctx context.Context, n *observed) (err error) {
	if n.Table, err = hasTable(); err != nil {
		return err
	}
	if r.chains == nil {
		return nil
	}
	n.Variant = r.chains.Variant()
	n.Tables, err = r.chains.Save(ctx)
	return err
}

func (r *run) observeFiles(n *observed) {
	plugin := filepath.Join(r.options.PluginDir, amazonPlugin)
	n.Files = map[string]bool{}
	for _, path := range []string{r.options.Conflist, r.options.Conflist + saved, r.cfg.Conflist, plugin, plugin + saved} {
		_, err := os.Stat(path)
		n.Files[path] = err == nil
	}
	ours, err := os.ReadFile(filepath.Join(r.options.PluginDir, ownPlugin))
	if err != nil {
		return
	}
	theirs, err := os.ReadFile(plugin)
	n.PluginCopied = err == nil && bytes.Equal(ours, theirs)
}

// translationText returns the rules of our translation, "" if the configuration has none.
func translationText(cfg snat.Config) string {
	rules, err := cfg.Ruleset()
	if err != nil {
		return ""
	}
	return rules.String()
}

// openChains opens iptables. It returns nil on a node without the programs.
func openChains(ctx context.Context) (*iptables.Handle, error) {
	h, err := iptables.Open(ctx, iptables.Config{})
	if errors.Is(err, iptables.ErrNoProgram) {
		return nil, nil
	}
	return h, err
}

// run is a change-over.
type run struct {
	cfg     ipamd.Config
	options Options
	back    bool
	node    *ipamd.Offline
	handle  *datapath.Handle
	chains  *iptables.Handle // nil without the programs
}

// distinct returns the paths without those that lead to the same directory.
func distinct(dirs []string) (out []string) {
	for _, d := range dirs {
		if path, err := filepath.EvalSymlinks(d); err == nil && !slices.Contains(out, path) {
			out = append(out, path)
		}
	}
	return out
}
