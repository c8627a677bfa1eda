// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/vpcnet/vpcnet/cniplugin/internal/pluginlog"
	"github.com/vpcnet/vpcnet/cniplugin/internal/statedir"
	"github.com/vpcnet/vpcnet/snat"
)

// Plugin executes the commands of the plugin in the network namespace of the calling
// process. It needs CAP_NET_ADMIN and CAP_SYS_ADMIN there.
type Plugin struct {
	// Stdout gets results. Nil means that they are discarded.
	Stdout io.Writer
	// Stderr gets the log if the configuration names no file. Nil means that it is
	// discarded.
	Stderr io.Writer
}

const (
	// timeout bounds a command. It is half of the time that a kubelet by default gives a
	// runtime for one call.
	timeout = 60 * time.Second
	// undoTimeout bounds the undo of an ADD that failed.
	undoTimeout = 10 * time.Second
	// lockWait is how long a DEL waits for the command that works on its attachment, and
	// then goes on without the lock.
	lockWait = 5 * time.Second
)

// Funcs returns the commands for package skel. Their contexts are children of ctx.
func (p Plugin) Funcs(ctx context.Context) skel.CNIFuncs {
	command := func(f func(context.Context, *call) error) func(*skel.CmdArgs) error {
		return func(args *skel.CmdArgs) error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			return p.run(ctx, args, f)
		}
	}
	return skel.CNIFuncs{Add: command(add), Del: command(del), Check: command(check), GC: command(gc), Status: command(status)}
}

// call is one invocation.
type call struct {
	attachment
	conf    conf
	args    *skel.CmdArgs
	records records
	ipam    ipam
	out     io.Writer
	log     *slog.Logger
}

func (p Plugin) run(ctx context.Context, args *skel.CmdArgs, f func(context.Context, *call) error) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	stdout, stderr := p.Stdout, p.Stderr
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	level, _ := pluginlog.Level(c.LogFile, c.LogLevel) // an invalid one must not prevent a DEL
	log, closeLog := pluginlog.Open(c.LogFile, level, stderr)
	defer closeLog()
	a := attachment{c.Name, args.ContainerID, args.IfName}
	log = log.With("attachment", a.String())
	err = f(ctx, &call{
		attachment: a, conf: c, args: args, records: records(c.StateDir), out: stdout, log: log,
		ipam: ipam{c.IPAM.Type, args.Path, &executor{stderr: stderr}},
	})
	if err != nil {
		log.Error("command failed", "err", err)
	}
	return err
}

// print writes a result.
func (c *call) print(r result) error {
	b, err := json.MarshalIndent(r, "", "    ")
	if err == nil {
		_, err = c.out.Write(append(b, '\n'))
	}
	if err != nil {
		return types.NewError(types.ErrIOFailure, "standard output cannot be written", err.Error())
	}
	return nil
}

// lock waits for the lock of the attachment. The state directory has the lock file, and
// exists afterwards.
func (c *call) lock(ctx context.Context) (*statedir.Lock, error) {
	return statedir.Acquire(ctx, c.conf.StateDir, c.records.name(c.attachment))
}

// tables calls f with a handle on the tables, while no other process changes them.
func (c *call) tables(ctx context.Context, f func(*snat.Handle) error) error {
	lock, err := statedir.Acquire(ctx, c.conf.StateDir, "tables")
	if err != nil {
		return err
	}
	defer lock.Release()
	h, err := snat.Open("")
	if err != nil {
		return err
	}
	return errors.Join(f(h), h.Close())
}

func add(ctx context.Context, c *call) error {
	enabled, err := c.conf.enabled()
	if err != nil {
		return err
	}
	r, err := parseResult(c.conf.PrevResult, c.conf.CNIVersion)
	if err != nil {
		return err
	}
	if !enabled {
		return c.print(r)
	}
	w, err := c.wiring()
	if err != nil {
		return err
	}
	if err := c.refuse(r, w.Node); err != nil {
		return err
	}
	if _, err := c.ipam.find(); err != nil { // before there is anything to undo
		return err
	}
	lock, err := c.lock(ctx)
	if err != nil {
		return types.NewError(types.ErrTryAgainLater, "attachment-busy: "+err.Error(), "")
	}
	defer lock.Release()
	if err := c.ensure(ctx, w); err != nil {
		return err
	}
	if err := r.add(c.conf.CNIVersion, w.interfaces()...); err != nil {
		return errors.Join(err, c.undo(ctx))
	}
	return c.print(r)
}

// wiring returns what the configuration says about the link.
func (c *call) wiring() (wiring, error) {
	want, err := c.conf.wanted()
	if err != nil {
		return wiring{}, err
	}
	if err := c.validate(); err != nil {
		return wiring{}, err
	}
	if err := checkSandbox(c.args.Netns); err != nil {
		return wiring{}, err
	}
	return wiring{record: record{attachment: c.attachment, Node: want.node, Random: want.random}, netns: c.args.Netns, mtu: want.mtu}, nil
}

// refuse returns an error if the pod has an address of the family of node.
func (c *call) refuse(r result, node netip.Addr) error {
	addrs, err := r.addresses(c.conf.CNIVersion)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Is4() == node.Is4() {
			return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("the pod has the address %s", a),
				fmt.Sprintf("a pod with nodeIP %s has no address of that family; set enabled to false", node))
		}
	}
	return nil
}

// ensure makes the link unless it exists and is as it should be.
func (c *call) ensure(ctx context.Context, w wiring) error {
	r, found, err := c.records.read(c.attachment)
	if err != nil {
		return err
	}
	if found {
		if r.Addr.IsValid() {
			again := w
			again.Addr = r.Addr
			if faults, err := c.faults(ctx, again); err == nil && len(faults) == 0 {
				return nil
			}
		}
		if err := c.teardown(ctx); err != nil {
			return err
		}
	}
	if err := c.build(ctx, w); err != nil {
		return errors.Join(err, c.undo(ctx))
	}
	return nil
}

// build makes the link and everything that belongs to it. Before each step the record has
// what the step makes.
func (c *call) build(ctx context.Context, w wiring) error {
	if err := disconnect(w.host()); err != nil { // without a record, because its directory was deleted
		return err
	}
	if err := c.records.write(w.record); err != nil {
		return err
	}
	allocated, err := c.ipam.add(ctx, c.args.StdinData, c.attachment, c.args.Netns)
	if err != nil {
		return err
	}
	if err := w.use(allocated); err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	if err := c.records.write(w.record); err != nil {
		return err
	}
	if err := w.connect(ctx); err != nil {
		return err
	}
	if link, err := hasNodeAddr(w.Node); err == nil && link == "" {
		c.log.Warn("the node does not have the address nodeIP, so that no answer will arrive", "addr", w.Node.String())
	}
	return c.tables(ctx, func(h *snat.Handle) error {
		all, err := c.records.all()
		if err != nil {
			return err
		}
		var pods []snat.Egress // all that have a record, which repairs a table that was flushed
		for _, r := range all {
			if r.Addr.IsValid() && r.Addr.BitLen() == w.Addr.BitLen() && (r.attachment == c.attachment || !holds(all, r.attachment, r.Addr)) {
				pods = append(pods, r.egress())
			}
		}
		_, err = h.Egress(ctx, pods...)
		return err
	})
}

// undo is teardown after a failure, also after the deadline.
func (c *call) undo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return c.teardown(ctx)
}

// teardown removes everything that belongs to the attachment. It succeeds if there is
// nothing. It keeps the record if a step fails.
func (c *call) teardown(ctx context.Context) error {
	r, found, err := c.records.read(c.attachment)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		errs = append(errs, disconnect(c.hostLink(a)))
	}
	switch {
	case !found: // its directory was deleted: the missing route tells which translation is stale
		errs = append(errs, c.prune(ctx))
	case r.Addr.IsValid():
		errs = append(errs, c.tables(ctx, func(h *snat.Handle) error {
			all, err := c.records.all()
			if err != nil || holds(all, c.attachment, r.Addr) {
				return err
			}
			return h.PruneEgress(ctx, func(e snat.Egress) bool { return e.Pod != r.Addr })
		}))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the address must not be given to another pod
	}
	if err := c.ipam.run(ctx, "DEL", c.args.StdinData, c.attachment, c.args.Netns); err != nil {
		return err
	}
	return c.records.remove(c.attachment)
}

func del(ctx context.Context, c *call) error {
	wait, cancel := context.WithTimeout(ctx, lockWait)
	lock, err := c.lock(wait)
	cancel()
	switch {
	case err == nil:
		defer lock.Release()
	case errors.Is(err, statedir.ErrBusy):
		c.log.Warn("deleting while another command works on the attachment")
	default:
		return err
	}
	_, found, err := c.records.read(c.attachment)
	if err != nil {
		return err
	}
	if enabled, err := c.conf.enabled(); (err != nil || !enabled) && !found {
		return nil
	}
	return c.teardown(ctx)
}

func check(ctx context.Context, c *call) error {
	enabled, err := c.conf.enabled()
	if err != nil {
		return err
	}
	r, err := parseResult(c.conf.PrevResult, c.conf.CNIVersion)
	if err != nil || !enabled {
		return err
	}
	w, err := c.wiring()
	if err != nil {
		return err
	}
	have, found, err := c.records.read(c.attachment)
	if err != nil {
		return err
	}
	if !found || !have.Addr.IsValid() {
		return types.NewError(types.ErrUnknownContainer, "the attachment does not exist", "no record of it is in "+c.conf.StateDir)
	}
	w.Addr = have.Addr
	faults, err := c.faults(ctx, w)
	if err != nil {
		return err
	}
	faults = append(faults, r.missing(w.interfaces()...)...)
	if err := c.ipam.run(ctx, "CHECK", c.args.StdinData, c.attachment, c.args.Netns); err != nil {
		faults = append(faults, err.Error())
	}
	if len(faults) > 0 {
		return types.NewError(types.ErrInternal, "egress of the pod is damaged: "+faults[0], strings.Join(faults, "; "))
	}
	return nil
}

// faults compares the kernel with what ADD has made for an address.
func (c *call) faults(ctx context.Context, w wiring) ([]string, error) {
	var routes struct {
		IPAM struct {
			Routes []*types.Route `json:"routes"`
		} `json:"ipam"`
	}
	if err := json.Unmarshal(c.args.StdinData, &routes); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "ipam cannot be read", err.Error())
	}
	if err := w.useRoutes(routes.IPAM.Routes); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	faults, err := w.faults()
	if err != nil {
		return nil, err
	}
	err = c.tables(ctx, func(h *snat.Handle) error {
		s, err := h.ObserveEgress(ctx)
		if err == nil && !slices.Contains(s.Pods, w.egress()) {
			faults = append(faults, fmt.Sprintf("table inet %s does not translate %s to %s with %s", snat.EgressTable(w.Addr), w.Addr, w.Node, w.Random))
		}
		for _, odd := range s.Odd {
			if strings.Contains(odd, " "+snat.EgressTable(w.Addr)+":") {
				faults = append(faults, odd)
			}
		}
		return err
	})
	return faults, err
}

// of returns the call for another attachment, which has no sandbox.
func (c *call) of(a attachment) *call {
	other, args := *c, *c.args
	args.ContainerID, args.IfName, args.Netns = a.ContainerID, a.IfName, ""
	other.attachment, other.args = a, &args
	other.log = c.log.With("stale", a.String())
	return &other
}

func gc(ctx context.Context, c *call) error {
	if _, ok := fieldsOf(c.args.StdinData)["cni.dev/valid-attachments"]; !ok {
		return types.NewError(types.ErrInvalidNetworkConfig, "missing cni.dev/valid-attachments", "GC needs the list of attachments in use")
	}
	present, err := c.present()
	if err != nil {
		return err
	}
	if enabled, err := c.conf.enabled(); (err != nil || !enabled) && len(present) == 0 {
		return nil
	}
	valid := slices.Clone(c.conf.ValidAttachments)
	var errs []error
	for _, a := range present {
		listed := types.GCAttachment{ContainerID: a.ContainerID, IfName: a.IfName}
		if slices.Contains(valid, listed) {
			continue
		}
		stale := c.of(a)
		lock, err := statedir.TryAcquire(c.conf.StateDir, c.records.name(a))
		if errors.Is(err, statedir.ErrBusy) {
			valid = append(valid, listed) // another command works on it
			continue
		}
		if err == nil {
			err = stale.teardown(ctx)
			lock.Release()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a, err))
			valid = append(valid, listed) // its address is still in use
		}
	}
	errs = append(errs, c.records.removeTemps(), c.prune(ctx), c.collectAddresses(ctx, valid))
	return errors.Join(errs...)
}

func fieldsOf(stdin []byte) (fields map[string]json.RawMessage) {
	_ = json.Unmarshal(stdin, &fields) // parse has read it
	return fields
}

// present returns the attachments of the network that have a record or a link.
func (c *call) present() (all []attachment, err error) {
	known, err := c.records.all()
	if err != nil {
		return nil, err
	}
	for _, r := range known {
		all = append(all, r.attachment)
	}
	links, err := linked()
	if err != nil {
		return nil, err
	}
	for a := range links {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return slices.DeleteFunc(all, func(a attachment) bool { return a.Network != c.Network }), nil
}

// prune deletes translations of addresses that no record has and no link leads to.
func (c *call) prune(ctx context.Context) error {
	return c.tables(ctx, func(h *snat.Handle) error {
		all, err := c.records.all()
		if err != nil {
			return err
		}
		used, err := routed()
		if err != nil {
			return err
		}
		for _, r := range all {
			used[r.Addr] = true
		}
		return h.PruneEgress(ctx, func(e snat.Egress) bool { return used[e.Pod] })
	})
}

// collectAddresses calls GC of the IPAM plugin, which releases addresses of attachments
// without a record.
func (c *call) collectAddresses(ctx context.Context, valid []types.GCAttachment) error {
	stdin, err := withAttachments(c.args.StdinData, valid)
	if err != nil {
		return err
	}
	return c.ipam.run(ctx, "GC", stdin, attachment{}, "")
}

func status(_ context.Context, c *call) error {
	enabled, err := c.conf.enabled()
	if err != nil || !enabled {
		return err
	}
	_, err = c.ipam.find()
	return err
}
