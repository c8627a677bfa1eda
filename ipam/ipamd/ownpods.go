// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/instancetype"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// ownPods are the pods that are not joined by a veth pair with addresses of the pool: those
// with a branch ENI, with a whole ENI, with an ipvlan link, and on the node's bridge. It is
// safe for concurrent use.
//
// A pod's record is on disk before EC2 is asked for an ENI. An ENI that was created for one
// pod and is in no record is deleted: after a DEL, after an ADD that failed, and after the
// end of a process that was killed in between.
type ownPods struct {
	cfg     *Config
	boot    string
	links   *Links
	records *podRecords
	log     *slog.Logger
	// enforcement is that of all pods with branch ENIs on the node.
	enforcement datapath.Enforcement
	// ended is called with the addresses of pods that ended without a DEL.
	ended func([]ipam.Allocation)

	// pool counts the pods that have no addresses of it. Nil means that nothing does.
	pool *ipam.Pool

	// manager and limits are set by serve.
	manager *eni.Manager
	limits  instancetype.Limits

	// turn holds one token. Its holder may create the trunk ENI.
	turn chan struct{}
	// work signals run that ENIs are to be deleted.
	work chan struct{}

	mu       sync.Mutex
	prefixes nodePrefixes
	// adding are the attachments of ADDs under way, and what they ask for.
	adding map[ipam.Attachment]podKind
	// trunk is the ID of the trunk ENI with a link that is set up.
	trunk string
	// dropped are branch ENIs of pods that have ended, and listed means that all other
	// branch ENIs of the trunk have a pod.
	dropped []eni.Branch
	listed  bool
	// suspects are pods that a look has found without sandbox and link, and when. Only run
	// uses them.
	suspects map[ipam.Attachment]time.Time
}

// openOwnPods reads the records of the pods.
func openOwnPods(cfg *Config, boot string, log *slog.Logger) (*ownPods, error) {
	records, bad, err := openPodRecords(cfg.StateDir, boot)
	if err != nil {
		return nil, fmt.Errorf("read the records of pods: %w", err)
	}
	if len(bad) > 0 {
		log.Error("records of pods cannot be read and were renamed", "files", bad)
	}
	o := &ownPods{
		cfg: cfg, boot: boot, records: records, log: log, turn: make(chan struct{}, 1), work: make(chan struct{}, 1),
		adding: map[ipam.Attachment]podKind{}, suspects: map[ipam.Attachment]time.Time{},
		prefixes: nodePrefixes{last: map[netip.Prefix]netip.Addr{}, reserved: map[netip.Addr]ipam.Attachment{}}, ended: func([]ipam.Allocation) {},
	}
	if cfg.PodENI {
		o.enforcement = cfg.Enforcement
	}
	for _, r := range records.list() {
		if b := r.Response.Mode.Branch; b != nil && o.enforcement != b.Enforcement {
			log.Warn("pods with branch ENIs keep the enforcing mode in which they were added, until none is left at a start", "mode", b.Enforcement)
			o.enforcement = b.Enforcement
		}
	}
	return o, nil
}

// serve sets what is known once the instance is known. It must come before every other
// method but Pods.
func (o *ownPods) serve(m *eni.Manager, l instancetype.Limits) {
	o.manager, o.limits = m, l
	if o.cfg.PodENI && !l.Trunk {
		o.log.Warn("pods cannot have security groups of their own: the instance type takes no trunk ENI", "type", l.Type)
	}
}

// bridges returns the names of the bridges of pods.
func (o *ownPods) bridges() (names []string) {
	if len(o.cfg.NodePrefixes) > 0 {
		names = append(names, o.cfg.Bridge)
	}
	for _, r := range o.records.list() {
		if b := r.Response.Mode.Bridge; b != nil && !slices.Contains(names, b.Name) {
			names = append(names, b.Name)
		}
	}
	return names
}

// trunks reports whether pods of the node have, or can have, branch ENIs.
func (o *ownPods) trunks() bool { return o.enforcement != "" }

// reserved returns how many ENIs of the default card the pool leaves to own pods.
func (c *Config) reserved(l instancetype.Limits) int {
	n := c.WholeENIs
	if c.PodENI && l.Trunk {
		n++
	}
	return n
}

// errEnded means that a DEL of the pod came while it was added.
var errEnded = &cniplugin.AgentError{Code: cniplugin.CodeTryAgainLater, Message: "the pod was deleted while it was added"}

// add gives a pod what it asks for, and returns its record. allocate allocates addresses of
// the pool.
func (o *ownPods) add(ctx context.Context, req cniplugin.AddRequest, a asked, allocate func() ([]ipam.Allocation, error)) (podRecord, error) {
	at := ipam.Attachment(req.Attachment)
	was, known := o.records.get(at)
	sandbox, _ := datapath.SandboxID(req.Netns)
	if known && was.complete() {
		if was.Kind != a.kind {
			return was, &cniplugin.AgentError{Code: cniplugin.CodeInvalidEnvironment, Message: fmt.Sprintf("the pod has %s already, want %s", kindNames[was.Kind], kindNames[a.kind])}
		}
		r := was
		r.Netns, r.Sandbox = req.Netns, sandbox
		_, err := o.records.put(was, r)
		return r, err
	}
	end, err := o.begin(at, a.kind)
	if err != nil {
		return was, err
	}
	defer end()
	if !o.count() {
		return was, &cniplugin.AgentError{
			Code: cniplugin.CodeTryAgainLater, Reason: string(ipam.ReasonPoolLimit), Message: "the node has as many pods as it may have",
			Details: fmt.Sprintf("the maximum is %d; -max-pods (VPCNET_MAX_PODS) permits more", o.cfg.MaxPods),
		}
	}
	r := podRecord{Boot: o.boot, Attachment: at, Pod: ipam.PodRef(req.Pod), Netns: req.Netns, Sandbox: sandbox, At: time.Now(), Kind: a.kind}
	if _, err := o.records.put(was, r); err != nil {
		return r, err
	}
	made := r
	switch a.kind {
	case kindBranch:
		err = o.addBranch(ctx, &made, a)
	case kindENI:
		err = o.addENI(ctx, &made, a)
	case kindIPVLAN:
		err = o.addIPVLAN(&made, allocate)
	case kindBridge:
		err = o.addBridge(ctx, &made)
	}
	if err == nil {
		var stored bool
		if stored, err = o.records.put(r, made); err == nil && !stored {
			err = errEnded
		}
	}
	if err != nil {
		o.drop(made)
		return made, errors.Join(err, o.records.remove(r))
	}
	return made, nil
}

// begin registers an ADD. It fails if the node has given all its whole ENIs away.
func (o *ownPods) begin(at ipam.Attachment, k podKind) (end func(), err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	whole := 0
	for _, r := range o.records.list() {
		if _, added := o.adding[r.Attachment]; r.Kind == kindENI && r.Attachment != at && !added {
			whole++
		}
	}
	for _, kind := range o.adding {
		if kind == kindENI {
			whole++
		}
	}
	_, busy := o.adding[at]
	switch {
	case busy:
		return nil, &cniplugin.AgentError{Code: cniplugin.CodeTryAgainLater, Reason: cniplugin.ReasonAttachmentBusy, Message: "another ADD of the pod is under way"}
	case k == kindENI && whole >= o.cfg.WholeENIs:
		return nil, &cniplugin.AgentError{
			Code: cniplugin.CodeTryAgainLater, Reason: string(ipam.ReasonENILimit), Message: "no ENI is left for the pod",
			Details: fmt.Sprintf("%d pods of this node have ENIs of their own; -whole-enis (VPCNET_WHOLE_ENIS) permits more", whole),
		}
	}
	o.adding[at] = k
	return func() {
		o.mu.Lock()
		delete(o.adding, at)
		o.unreserveLocked(at)
		o.mu.Unlock()
		o.count()
	}, nil
}

// count tells the pool how many pods have no addresses of it. It reports whether the node may
// have as many pods.
func (o *ownPods) count() bool {
	if o.pool == nil {
		return true
	}
	others := map[ipam.Attachment]bool{}
	for _, r := range o.records.list() {
		others[r.Attachment] = r.Kind != kindIPVLAN
	}
	o.mu.Lock()
	for at, kind := range o.adding {
		others[at] = kind != kindIPVLAN
	}
	o.mu.Unlock()
	n := 0
	for _, other := range others {
		if other {
			n++
		}
	}
	return o.pool.SetOtherPods(n)
}

// refusal returns the error for a pod after EC2 has not created its ENI.
func refusal(what string, err error) error {
	var op *eni.OpError
	if !errors.As(err, &op) {
		return err
	}
	e := &cniplugin.AgentError{Code: cniplugin.CodeTryAgainLater, Reason: string(agent.ReasonOf(err)), Message: "no " + what + " for the pod", Details: err.Error(), RetryAfter: op.RetryAfter()}
	if errors.Is(err, eni.ErrInvalid) || errors.Is(err, eni.ErrNotFound) {
		e.Code = cniplugin.CodeInvalidConfig
	}
	return e
}

// addBranch gives a pod a branch ENI.
func (o *ownPods) addBranch(ctx context.Context, r *podRecord, a asked) error {
	trunk, err := o.ensureTrunk(ctx)
	if op := (*eni.OpError)(nil); err != nil && !errors.As(err, &op) {
		return &cniplugin.AgentError{Code: cniplugin.CodeTryAgainLater, Reason: string(ipam.ReasonLinkNotReady), Message: "no trunk ENI for the pod", Details: err.Error()}
	}
	if err != nil {
		return refusal("trunk ENI", err)
	}
	e, b, err := o.manager.CreateBranch(podCall(ctx), eni.BranchInput{Trunk: trunk.ID, Groups: a.groups, Addrs6: o.addrs6()})
	if err != nil {
		o.relist()
		return refusal("branch ENI", err)
	}
	r.ENI, r.Branch = e.ID, b
	e.Subnet, e.Subnet6 = trunk.Subnet, trunk.Subnet6
	link, err := o.datapathENI(e)
	if err != nil {
		return err
	}
	carrier, err := o.datapathENI(trunk)
	if err != nil {
		return err
	}
	o.respond(r, e, datapath.Mode{Branch: &datapath.Branch{ENI: link, Trunk: carrier, VLAN: b.VLANID, Enforcement: o.enforcement}})
	return r.wants(o.cfg.Families)
}

// addENI gives a pod a whole ENI.
func (o *ownPods) addENI(ctx context.Context, r *podRecord, a asked) error {
	e, err := o.manager.Provision(podCall(ctx), eni.ProvisionInput{Card: o.limits.DefaultCard, OnePod: true, Groups: a.groups, Addrs6: o.addrs6()})
	if err != nil {
		return refusal("ENI", err)
	}
	r.ENI = e.ID
	link, err := o.datapathENI(e)
	if err != nil {
		return err
	}
	if err := o.links.awaitLink(ctx, link.MAC); err != nil {
		return fmt.Errorf("%s with MAC %v: %w", e.ID, link.MAC, err)
	}
	o.respond(r, e, datapath.Mode{Whole: &datapath.WholeENI{ENI: link}})
	return r.wants(o.cfg.Families)
}

// addIPVLAN gives a pod addresses of the pool and an ipvlan link on their ENI.
func (o *ownPods) addIPVLAN(r *podRecord, allocate func() ([]ipam.Allocation, error)) error {
	got, err := allocate()
	if err != nil {
		return err
	}
	m := &datapath.IPVLAN{Direct: o.links.VPC()}
	for _, e := range o.links.Node().ENIs {
		if e.ID == got[0].ENI {
			m.ENI = e
			m.ENI.Sources = nil
		}
		for _, a := range e.Addrs {
			m.Except = append(m.Except, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
		}
		m.Except = append(m.Except, e.Sources...)
	}
	for _, a := range got {
		if a.ENI != m.ENI.ID {
			return &cniplugin.AgentError{
				Code: cniplugin.CodeTryAgainLater, Reason: string(ipam.ReasonAllInUse), Message: "an ipvlan link needs addresses of one ENI",
				Details: fmt.Sprintf("%v is of %s and %v of %s", got[0].Addr, got[0].ENI, a.Addr, a.ENI),
			}
		}
		r.Response.Addresses = append(r.Response.Addresses, cniplugin.Address{Addr: a.Addr, ENI: a.ENI, Card: a.Card, Device: a.Device, Table: datapath.Table(a.Card, a.Device)})
	}
	o.settle(r, datapath.Mode{IPVLAN: m})
	return nil
}

// podCall returns the context of calls to EC2 for which a pod waits.
func podCall(ctx context.Context) context.Context {
	return eni.WithCaller(eni.WithPriority(ctx, eni.PriorityPod), "pod")
}

// addrs6 returns how many IPv6 addresses an ENI of a pod has.
func (o *ownPods) addrs6() int {
	if slices.Contains(o.cfg.Families, ipam.IPv6) {
		return 1
	}
	return 0
}

// respond completes a record with the addresses of the pod's own ENI.
func (o *ownPods) respond(r *podRecord, e eni.ENI, mode datapath.Mode) {
	for _, f := range o.cfg.Families {
		if a := podAddr(e, f); a.IsValid() {
			r.Response.Addresses = append(r.Response.Addresses, cniplugin.Address{Addr: a, ENI: e.ID, Card: e.Card, Device: e.Device})
		}
	}
	o.settle(r, mode)
}

// settle completes a record.
func (o *ownPods) settle(r *podRecord, mode datapath.Mode) {
	r.Response.Layout, r.Response.MTU, r.Response.HostLinkPrefix = string(o.cfg.Layout), o.cfg.PodMTU, o.cfg.HostLinkPrefix
	r.Response.Mode = mode
}

// wants returns an error if a pod lacks an address of a family.
func (r podRecord) wants(families []ipam.Family) error {
	for _, f := range families {
		if !slices.ContainsFunc(r.Response.Addresses, func(a cniplugin.Address) bool { return ipam.FamilyOf(a.Addr) == f }) {
			return &cniplugin.AgentError{
				Code: cniplugin.CodeInvalidConfig, Reason: string(ipam.ReasonNoSuchAddress), Message: fmt.Sprintf("no %v address for the pod", f),
				Details: fmt.Sprintf("%s has none; check that its subnet has %v", r.ENI, f),
			}
		}
	}
	return nil
}

// podAddr returns the address of an ENI that its only pod gets in one family.
func podAddr(e eni.ENI, f ipam.Family) netip.Addr {
	if f == ipam.IPv4 {
		return e.Addr
	}
	i := slices.IndexFunc(e.Addrs, netip.Addr.Is6)
	if e.Addr6.IsValid() || i < 0 {
		return e.Addr6
	}
	return e.Addrs[i]
}

// datapathENI converts an ENI of a pod, or the trunk ENI.
func (o *ownPods) datapathENI(e eni.ENI) (datapath.ENI, error) {
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return datapath.ENI{}, fmt.Errorf("%s: %w", e.ID, err)
	}
	out := datapath.ENI{ID: e.ID, MAC: mac, Card: e.Card, Device: e.Device, MTU: o.cfg.ENIMTU}
	for f, subnet := range map[ipam.Family]netip.Prefix{ipam.IPv4: e.Subnet, ipam.IPv6: e.Subnet6} {
		if a := podAddr(e, f); a.IsValid() && subnet.IsValid() {
			out.Addrs = append(out.Addrs, netip.PrefixFrom(a, subnet.Bits()))
			out.Gateways = append(out.Gateways, e.Gateway(eni.FamilyOf(a)))
		}
	}
	slices.SortFunc(out.Addrs, netip.Prefix.Compare)
	slices.SortFunc(out.Gateways, netip.Addr.Compare)
	return out, nil
}

// ensureTrunk returns the trunk ENI of the node with its link set up. It creates one if
// there is none.
func (o *ownPods) ensureTrunk(ctx context.Context) (eni.ENI, error) {
	select {
	case o.turn <- struct{}{}:
	case <-ctx.Done():
		return eni.ENI{}, ctx.Err()
	}
	defer func() { <-o.turn }()
	trunk, found := trunkOf(o.manager.Inventory())
	if !found {
		var err error
		if trunk, err = o.manager.Provision(ctx, eni.ProvisionInput{Card: o.limits.DefaultCard, Kind: eni.KindTrunk}); err != nil {
			return trunk, err
		}
		o.log.Info("trunk ENI created", "eni", trunk.ID)
	}
	o.mu.Lock()
	ready := o.trunk == trunk.ID
	o.mu.Unlock()
	if ready {
		return trunk, nil
	}
	link, err := (&Provider{MTU: o.cfg.ENIMTU}).convert(trunk)
	if err != nil {
		return trunk, err
	}
	if err := o.links.awaitLink(ctx, link.MAC); err != nil {
		return trunk, fmt.Errorf("link of the trunk %s: %w", trunk.ID, err)
	}
	if err := o.links.Ensure(ctx, link); err != nil {
		return trunk, fmt.Errorf("link of the trunk %s: %w", trunk.ID, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.trunk = trunk.ID
	return trunk, nil
}

// trunkOf returns the trunk ENI that the node manages.
func trunkOf(inv eni.Inventory) (eni.ENI, bool) {
	i := slices.IndexFunc(inv.ENIs, func(e eni.ENI) bool { return isTrunk(e) && !e.InFlight })
	if i < 0 {
		return eni.ENI{}, false
	}
	return inv.ENIs[i], true
}

// isTrunk reports whether e is a trunk ENI that the node manages, and isWhole whether e is
// for one pod.
func isTrunk(e eni.ENI) bool { return e.Kind == eni.KindTrunk && e.Managed }
func isWhole(e eni.ENI) bool { return e.Tags[eni.TagPod] == "true" }

// release removes the record of a pod, and returns its addresses. Its ENI is deleted later.
func (o *ownPods) release(r podRecord) ([]ipam.Allocation, error) {
	if err := o.records.remove(r); err != nil {
		return nil, err
	}
	o.count()
	o.drop(r)
	return r.allocations(), nil
}

// drop signals run that the ENI of a pod can be deleted.
func (o *ownPods) drop(r podRecord) {
	o.mu.Lock()
	if r.Branch.ENI != "" {
		o.dropped = append(o.dropped, r.Branch)
	}
	o.mu.Unlock()
	o.signal()
}

// relist has run look for branch ENIs without a pod.
func (o *ownPods) relist() {
	o.mu.Lock()
	o.listed = false
	o.mu.Unlock()
	o.signal()
}

func (o *ownPods) signal() {
	select {
	case o.work <- struct{}{}:
	default: // a signal is pending already
	}
}

// inUse reports whether a pod has the ENI, and otherwise calls next.
func (o *ownPods) inUse(next func(context.Context, string, netip.Prefix) (bool, error)) func(context.Context, string, netip.Prefix) (bool, error) {
	return func(ctx context.Context, id string, block netip.Prefix) (bool, error) {
		if o.has(id) {
			return true, nil
		}
		return next(ctx, id, block)
	}
}

// has reports whether a pod has the ENI. The tags of an ENI say so too, but are unknown while
// only the metadata service answers.
func (o *ownPods) has(id string) bool {
	return slices.ContainsFunc(o.all(), func(r podRecord) bool { return r.ENI == id })
}

// pods returns the pods that were asked for at least the given time ago.
func (o *ownPods) pods(held time.Duration) (pods []datapath.Pod) {
	if o == nil {
		return nil
	}
	for _, r := range o.records.list() {
		if r.complete() && time.Since(r.At) >= held {
			pods = append(pods, r.wiring())
		}
	}
	return pods
}

// record returns the record of an attachment.
func (o *ownPods) record(at ipam.Attachment) (podRecord, bool) {
	if o == nil {
		return podRecord{}, false
	}
	return o.records.get(at)
}

// all returns the records of all pods.
func (o *ownPods) all() []podRecord {
	if o == nil {
		return nil
	}
	return o.records.list()
}

// run creates the trunk ENI and the routes to the node's prefixes, deletes the ENIs of pods
// that have ended, and ends pods after their sandboxes have ended without a DEL, until ctx
// ends.
func (o *ownPods) run(ctx context.Context) error {
	tick := time.NewTicker(auditEvery)
	defer tick.Stop()
	for {
		if o.cfg.PodENI && o.limits.Trunk {
			if _, err := o.ensureTrunk(ctx); err != nil && ctx.Err() == nil {
				o.log.Warn("no trunk ENI yet", "err", err)
			}
		}
		if err := o.route(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("the VPC has no route to the pods of the node's bridge yet", "err", err)
		}
		if err := o.reclaim(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("pods whose sandboxes have ended cannot be found yet", "err", err)
		}
		if err := o.collect(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("ENIs of pods that have ended are not deleted yet", "err", err)
		}
		cooled := time.NewTimer(o.nextCooled(ctx))
		select {
		case <-tick.C:
		case <-o.work:
		case <-cooled.C:
		case <-ctx.Done():
		}
		cooled.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// nextCooled returns the time until the cooldown of a branch ENI ends, or a suspect can be
// ended.
func (o *ownPods) nextCooled(ctx context.Context) time.Duration {
	next := auditEvery
	if len(o.suspects) > 0 {
		next = wiringTime
	}
	open, err := o.manager.Unfinished(ctx)
	if err != nil {
		return next
	}
	for _, in := range open {
		if left := time.Until(in.NotBefore); in.Op == eni.OpRetireBranch && left > 0 {
			next = min(next, left)
		}
	}
	return next
}

// collect deletes the ENIs that were created for one pod and have none, and finishes the
// deletion of branch ENIs that have cooled.
func (o *ownPods) collect(ctx context.Context) error {
	ctx = eni.WithCaller(eni.WithPriority(ctx, eni.PriorityRelease), "release")
	errs := []error{o.findBranches(ctx)}
	o.mu.Lock()
	dropped := o.dropped
	o.dropped = nil
	o.mu.Unlock()
	for _, b := range dropped {
		if err := o.manager.RetireBranch(ctx, b); err != nil {
			errs = append(errs, err)
			o.mu.Lock()
			o.dropped = append(o.dropped, b)
			o.mu.Unlock()
			continue
		}
		o.log.Info("branch ENI cools", "eni", b.ENI, "vlan", b.VLANID)
	}
	held, busy := o.heldENIs()
	for _, e := range o.manager.Inventory().ENIs {
		if isWhole(e) && e.Managed && !e.InFlight && !held[e.ID] && !busy {
			errs = append(errs, o.manager.Retire(ctx, e.ID))
		}
	}
	open, err := o.manager.Unfinished(ctx)
	errs = append(errs, err)
	cooled := func(in eni.Intent) bool { return in.Op == eni.OpRetireBranch && !time.Now().Before(in.NotBefore) }
	if slices.ContainsFunc(open, cooled) {
		errs = append(errs, o.manager.Resume(ctx))
	}
	return errors.Join(errs...)
}

// heldENIs returns the ENIs of pods, and whether an ADD may have created another one.
func (o *ownPods) heldENIs() (held map[string]bool, busy bool) {
	o.mu.Lock()
	busy = len(o.adding) > 0
	o.mu.Unlock()
	held = map[string]bool{}
	for _, r := range o.records.list() {
		held[r.ENI] = true
	}
	return held, busy
}

// findBranches drops the branch ENIs of the trunk that have no pod, once for each process
// and after each failure to create one. Every ADD under way may have created one.
func (o *ownPods) findBranches(ctx context.Context) error {
	o.mu.Lock()
	listed := o.listed
	o.mu.Unlock()
	trunk, found := trunkOf(o.manager.Inventory())
	if listed || !found {
		return nil
	}
	// An unfinished operation may create one still.
	if err := o.manager.Resume(ctx); err != nil {
		return err
	}
	branches, err := o.manager.Branches(ctx, trunk.ID)
	if err != nil {
		return err
	}
	held, busy := o.heldENIs()
	if busy {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.listed = true
	for _, b := range branches {
		if !held[b.ENI] && !slices.ContainsFunc(o.dropped, func(d eni.Branch) bool { return d.ENI == b.ENI }) {
			o.dropped = append(o.dropped, b)
		}
	}
	return nil
}

// reclaim ends the pods that two looks in a row have found without sandbox and link.
func (o *ownPods) reclaim(ctx context.Context) error {
	all := slices.DeleteFunc(o.records.list(), func(r podRecord) bool {
		// The agent of the pool ends pods with its addresses.
		return !r.complete() || r.Kind == kindIPVLAN
	})
	if len(all) == 0 {
		return nil
	}
	links, err := o.links.path.HostLinks(ctx)
	if err != nil {
		return err
	}
	dead := map[ipam.Attachment]time.Time{}
	var errs []error
	for _, r := range all {
		p := r.wiring()
		if links[p.HostLink()] || !sandboxEnded(ipam.Allocation{Netns: r.Netns, Sandbox: r.Sandbox}) {
			continue
		}
		since := cmp.Or(o.suspects[r.Attachment], time.Now())
		if time.Since(since) < wiringTime {
			dead[r.Attachment] = since
			continue
		}
		errs = append(errs, o.reclaimOne(ctx, r, p))
	}
	o.suspects = dead
	return errors.Join(errs...)
}

func (o *ownPods) reclaimOne(ctx context.Context, r podRecord, p datapath.Pod) error {
	p.Netns = "" // the sandbox has ended
	if err := o.links.path.DelPod(ctx, p); err != nil {
		return err
	}
	released, err := o.release(r)
	if err == nil {
		o.log.Info("released: sandbox ended without DEL", "attachment", r.Attachment, "eni", r.ENI, "sandbox", r.Netns)
		o.ended(released)
	}
	return err
}
