// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
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
	// endedENIs are whole ENIs of pods that this process has seen end, or fail to begin.
	endedENIs map[string]bool
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
		adding: map[ipam.Attachment]podKind{}, suspects: map[ipam.Attachment]time.Time{}, endedENIs: map[string]bool{},
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
	if r.Kind == kindENI && r.ENI != "" {
		o.endedENIs[r.ENI] = true
	}
	o.mu.Unlock()
	signal(o.work)
}

// relist has run look for branch ENIs without a pod.
func (o *ownPods) relist() {
	o.mu.Lock()
	o.listed = false
	o.mu.Unlock()
	signal(o.work)
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

// pods returns the pods with what they need, those included that a plugin is still wiring.
func (o *ownPods) pods() (pods []datapath.Pod) {
	if o == nil {
		return nil
	}
	for _, r := range o.records.list() {
		if r.complete() {
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
