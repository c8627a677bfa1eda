// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// BackendConfig configures a [Backend]. Pool is required.
type BackendConfig struct {
	// Pool is the pool that the backend's agent manages.
	Pool *ipam.Pool
	// Layout, MTU and HostLinkPrefix are how the plugin wires pods; see datapath.Pod.
	Layout         datapath.Layout
	MTU            int
	HostLinkPrefix string
	// EachCard gives a pod that asks for it by annotation an interface on each network
	// card, see [NICAnnotation].
	EachCard bool
	// Complete, SecurityGroups, BeforeReply, AfterDel and Requested are those of [Hooks].
	// Optional.
	Complete       func(context.Context, cniplugin.AddRequest) (cniplugin.AddRequest, error)
	SecurityGroups func(context.Context, cniplugin.AddRequest) ([]string, error)
	BeforeReply    func(context.Context, cniplugin.AddRequest, []ipam.Allocation) error
	AfterDel       func([]ipam.Allocation)
	Requested      func(Request)
}

// Backend is a server.Backend over a pool and its agent. Until [Backend.Serve] its
// answers give the reason why there is no agent yet. It is safe for concurrent use.
type Backend struct {
	cfg BackendConfig
	// agent is nil until the instance is known. Then started is closed.
	agent   atomic.Pointer[agent.Agent]
	started chan struct{}
	// cards are the network cards with addresses for pods, first that of the pods that do
	// not ask for more. It is set before started is closed.
	cards []int
	// own are the pods that are not joined by a veth pair with addresses of the pool. Nil
	// means that there are none.
	own *ownPods
	// policies keeps the classes of pods in the kernel. Nil means that there are none.
	policies *enforcer
	// problem is the present failure of EC2 or the metadata service, nil if none is
	// known.
	problem atomic.Pointer[error]
}

var _ server.Backend = (*Backend)(nil)

// startRetry is the RetryAfter of errors while the agent starts.
const startRetry = 2 * time.Second

// NewBackend returns a backend without an agent.
func NewBackend(cfg BackendConfig) *Backend {
	return &Backend{cfg: cfg, started: make(chan struct{})}
}

// Serve makes a serve pods from now on, on the given network cards: pods get the addresses
// of their interface on the first one. No card means card 0. Serve must be called at most
// once.
func (b *Backend) Serve(a *agent.Agent, cards ...int) {
	if b.cards = cards; len(cards) == 0 {
		b.cards = []int{0}
	}
	b.agent.Store(a)
	close(b.started)
}

// SetProblem stores the present failure of EC2 or the metadata service, which answers
// to pods name if they get no address. Nil means that there is none.
func (b *Backend) SetProblem(err error) {
	if err == nil {
		b.problem.Store(nil)
		return
	}
	b.problem.Store(&err)
}

// requested calls Requested.
func (b *Backend) requested(call string, pod cniplugin.Pod, began time.Time, err error) {
	if b.cfg.Requested == nil {
		return
	}
	r := Request{Call: call, Pod: pod, Took: time.Since(began), Failed: err != nil, Err: err}
	if known := (*cniplugin.AgentError)(nil); errors.As(err, &known) {
		r.Reason = known.Reason
		r.Exhausted = known.Reason != "" && known.Reason != string(ipam.ReasonAgentStarting)
	}
	b.cfg.Requested(r)
}

// Add allocates the addresses of a pod. While the agent starts, Add waits for it.
func (b *Backend) Add(ctx context.Context, req cniplugin.AddRequest) (res cniplugin.AddResponse, err error) {
	defer func(began time.Time) { b.requested("add", req.Pod, began, err) }(time.Now())
	select {
	case <-b.started:
	case <-ctx.Done():
		return cniplugin.AddResponse{}, b.starting()
	}
	if b.cfg.Complete != nil {
		if req, err = b.cfg.Complete(ctx, req); err != nil {
			return cniplugin.AddResponse{}, b.explain(err, req.Attachment, req.Pod)
		}
	}
	a, err := b.ask(ctx, req)
	if err != nil {
		return cniplugin.AddResponse{}, err
	}
	if err := b.conflict(ipam.Attachment(req.Attachment), a.kind); err != nil {
		return cniplugin.AddResponse{}, err
	}
	if a.kind != kindVeth {
		return b.addOwn(ctx, req, a)
	}
	wanted, err := b.requests(req)
	if err != nil {
		return cniplugin.AddResponse{}, err
	}
	var got []ipam.Allocation
	var taken []ipam.Attachment // by this call
	undo := func(err error) error {
		for _, at := range taken {
			_, releaseErr := b.cfg.Pool.Release(at)
			err = errors.Join(err, releaseErr)
		}
		return b.explain(err, req.Attachment, req.Pod)
	}
	for _, r := range wanted {
		known := len(b.cfg.Pool.Lookup(r.Attachment)) > 0
		addrs, err := b.agent.Load().Allocate(ctx, r)
		if err != nil {
			return cniplugin.AddResponse{}, undo(err)
		}
		if got = append(got, addrs...); !known {
			taken = append(taken, r.Attachment)
		}
	}
	if err := b.beforeReply(ctx, req, got); err != nil {
		return cniplugin.AddResponse{}, undo(err)
	}
	return b.response(got), nil
}

// beforeReply calls BeforeReply, and puts the class of the pod into the kernel.
func (b *Backend) beforeReply(ctx context.Context, req cniplugin.AddRequest, got []ipam.Allocation) error {
	if b.cfg.BeforeReply != nil {
		if err := b.cfg.BeforeReply(ctx, req, got); err != nil {
			return err
		}
	}
	if b.policies == nil || b.policies.policies == nil {
		return nil
	}
	return b.policies.admit(ctx, b.policyPod(ipam.Attachment(req.Attachment)))
}

// find returns a as the pool's key. If a has no network, find returns the attachment of the
// same container and interface that holds addresses.
func (b *Backend) find(a cniplugin.Attachment) ipam.Attachment {
	if a.Network == "" {
		for held := range b.cfg.Pool.Allocations() {
			if held.ContainerID == a.ContainerID && held.IfName == a.IfName {
				return held.Attachment
			}
		}
		if r, ok := b.own.record(ipam.Attachment(a)); ok {
			return r.Attachment
		}
	}
	return ipam.Attachment(a)
}

// Del releases the addresses of a pod. It does not need the agent.
func (b *Backend) Del(ctx context.Context, req cniplugin.DelRequest) (res cniplugin.DelResponse, err error) {
	defer func(began time.Time) { b.requested("del", req.Pod, began, err) }(time.Now())
	at := b.find(req.Attachment)
	released, err := b.releaseOwn(at)
	if err != nil {
		return cniplugin.DelResponse{}, b.explain(err, req.Attachment, req.Pod)
	}
	for _, x := range append(b.further(at), at) { // the pod's own interface comes last, in case of an error before it
		var some []ipam.Allocation
		if some, err = b.cfg.Pool.Release(x); err != nil && !errors.Is(err, ipam.ErrNotAllocated) {
			break
		}
		released = append(released, some...)
	}
	b.released(released)
	if err == nil || errors.Is(err, ipam.ErrNotAllocated) {
		return cniplugin.DelResponse{}, nil
	}
	return cniplugin.DelResponse{}, b.explain(err, req.Attachment, req.Pod)
}

// released takes the class of a pod out of the kernel, and calls AfterDel. By then the
// plugin has deleted the pod's links.
func (b *Backend) released(all []ipam.Allocation) {
	if b.policies != nil && b.policies.policies != nil && len(all) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), policyTime)
		defer cancel()
		if err := b.policies.enforce(ctx); err != nil {
			b.policies.log.Error("network policies not applied", "err", err)
		}
	}
	if b.cfg.AfterDel != nil && len(all) > 0 {
		b.cfg.AfterDel(all)
	}
}

// addOwn is Add for a pod that asks for more than a veth pair with addresses of the pool.
func (b *Backend) addOwn(ctx context.Context, req cniplugin.AddRequest, a asked) (cniplugin.AddResponse, error) {
	at := ipam.Attachment(req.Attachment)
	before, repeated := b.own.record(at)
	held := len(b.cfg.Pool.Lookup(at)) > 0
	r, err := b.own.add(ctx, req, a, func() ([]ipam.Allocation, error) {
		wanted, err := b.requests(req)
		if err != nil {
			return nil, err
		}
		return b.agent.Load().Allocate(ctx, wanted[0])
	})
	if err == nil {
		if err = b.beforeReply(ctx, req, r.allocations()); err != nil && !(repeated && before.complete()) {
			_, releaseErr := b.own.release(r)
			err = errors.Join(err, releaseErr)
		}
	}
	if err == nil {
		return r.Response, nil
	}
	if !held {
		if _, releaseErr := b.cfg.Pool.Release(at); !errors.Is(releaseErr, ipam.ErrNotAllocated) {
			err = errors.Join(err, releaseErr)
		}
	}
	return cniplugin.AddResponse{}, b.explain(err, req.Attachment, req.Pod)
}

// conflict returns an error if the pod has something else than it asks for.
func (b *Backend) conflict(at ipam.Attachment, k podKind) error {
	r, own := b.own.record(at)
	pooled := len(b.cfg.Pool.Lookup(at)) > 0
	if own && r.complete() && k == kindVeth || pooled && !own && k != kindVeth && k != kindIPVLAN {
		return &cniplugin.AgentError{
			Code:    cniplugin.CodeInvalidEnvironment,
			Message: fmt.Sprintf("the pod has %s already, want %s", kindNames[r.Kind], kindNames[k]),
		}
	}
	return nil
}

// releaseOwn releases what a pod has beside addresses of the pool.
func (b *Backend) releaseOwn(at ipam.Attachment) (released []ipam.Allocation, err error) {
	r, ok := b.own.record(at)
	if !ok {
		return nil, nil
	}
	released, err = b.own.release(r)
	if r.Kind == kindIPVLAN {
		released = nil // the pool has them
	}
	return released, err
}

// reclaimed calls AfterDel for each pod of the allocations that the agent has released, and
// removes what else is known of the pods.
func (b *Backend) reclaimed(all []ipam.Allocation) {
	for _, a := range all {
		if r, ok := b.own.record(a.Attachment); ok {
			_, _ = b.own.release(r) // a record that stays is removed by a later DEL, or after a reboot
		}
	}
	type pod struct{ network, container string }
	byPod, order := map[pod][]ipam.Allocation{}, []pod(nil)
	for _, a := range all {
		p := pod{a.Network, a.ContainerID}
		if byPod[p] == nil {
			order = append(order, p)
		}
		byPod[p] = append(byPod[p], a)
	}
	for _, p := range order {
		b.released(byPod[p])
	}
}

// Check returns the addresses that a pod holds.
func (b *Backend) Check(_ context.Context, req cniplugin.CheckRequest) (cniplugin.AddResponse, error) {
	at := b.find(req.Attachment)
	if r, ok := b.own.record(at); ok && r.complete() {
		return r.Response, nil
	}
	got := b.cfg.Pool.Lookup(at)
	for _, x := range b.further(at) {
		got = append(got, b.cfg.Pool.Lookup(x)...)
	}
	if len(got) == 0 {
		return cniplugin.AddResponse{}, &cniplugin.AgentError{
			Code: cniplugin.CodeUnknownContainer, Reason: cniplugin.ReasonNotAllocated, Message: "the attachment holds no address",
		}
	}
	return b.response(got), nil
}

// GC returns the attachments that hold addresses of the network and are unknown to
// the runtime.
func (b *Backend) GC(_ context.Context, req cniplugin.GCRequest) (cniplugin.GCResponse, error) {
	valid := map[cniplugin.Attachment]bool{}
	for _, a := range req.Valid {
		valid[a] = true
	}
	var res cniplugin.GCResponse
	for a := range b.cfg.Pool.Allocations() {
		stale := cniplugin.Attachment(b.owner(a.Attachment))
		if a.Network == req.Network && !valid[stale] && !slices.Contains(res.Stale, stale) {
			res.Stale = append(res.Stale, stale)
		}
	}
	for _, r := range b.own.all() {
		stale := cniplugin.Attachment(r.Attachment)
		if stale.Network == req.Network && !valid[stale] && !slices.Contains(res.Stale, stale) {
			res.Stale = append(res.Stale, stale)
		}
	}
	return res, nil
}

// Status returns nil once pods can be served. It also returns nil if the pool is
// empty for the moment: after an error the runtime would report the node as not
// ready, and running pods would be evicted. For the same reason the addresses in
// the journal are enough until an agent that restarts has observed its ENIs.
func (b *Backend) Status(context.Context) error {
	a := b.agent.Load()
	if a == nil {
		if hasBlocks(b.cfg.Pool.View()) {
			return nil
		}
		err := b.starting()
		err.Code = cniplugin.CodeNotAvailable
		return err
	}
	s := a.Status()
	if s.Ready || !s.Observed && hasBlocks(s.Pool) {
		return nil
	}
	return &cniplugin.AgentError{
		Code: cniplugin.CodeNotAvailable, Reason: string(s.Reason), RetryAfter: s.RetryAfter,
		Message: "no address can be given to a pod yet", Details: s.Evidence,
	}
}

func hasBlocks(v ipam.View) bool {
	return slices.ContainsFunc(v.ENIs, func(e ipam.ENIView) bool { return len(e.Blocks) > 0 })
}

// starting returns the error for calls that come before the agent has started.
func (b *Backend) starting() *cniplugin.AgentError {
	err := &cniplugin.AgentError{
		Code: cniplugin.CodeTryAgainLater, Reason: string(ipam.ReasonAgentStarting), RetryAfter: startRetry,
		Message: "the agent is starting",
	}
	if problem := b.problem.Load(); problem != nil {
		err.Reason, err.Details = string(reasonOf(*problem)), (*problem).Error()
		err.Message = "the agent cannot start yet"
	}
	return err
}

// Pods returns the pods as package datapath wires them, those included that a plugin is
// still wiring.
func (b *Backend) Pods() []datapath.Pod {
	wired := map[ipam.Attachment]*datapath.Pod{}
	var order []ipam.Attachment
	for a := range b.cfg.Pool.Allocations() {
		if r, ok := b.own.record(a.Attachment); ok && r.complete() {
			continue // it has another mode
		}
		p := wired[a.Attachment]
		if p == nil {
			p = &datapath.Pod{
				ContainerID: a.ContainerID, IfName: a.IfName, Netns: a.Netns, MTU: b.cfg.MTU,
				Layout: b.cfg.Layout, HostLinkPrefix: b.cfg.HostLinkPrefix,
			}
			if a.MAC != "" {
				p.MAC, _ = net.ParseMAC(a.MAC) // the pool has checked it
			}
			wired[a.Attachment], order = p, append(order, a.Attachment)
		}
		p.Addrs = append(p.Addrs, datapath.PodAddr{Addr: a.Addr, Table: datapath.Table(a.Card, a.Device)})
	}
	pods := make([]datapath.Pod, 0, len(order))
	for _, a := range order {
		pods = append(pods, *wired[a])
	}
	return append(pods, b.own.pods()...)
}

func (b *Backend) response(got []ipam.Allocation) cniplugin.AddResponse {
	res := cniplugin.AddResponse{
		Layout: string(b.cfg.Layout), MTU: b.cfg.MTU, HostLinkPrefix: b.cfg.HostLinkPrefix,
	}
	for _, a := range got {
		addr := cniplugin.Address{Addr: a.Addr, ENI: a.ENI, Card: a.Card, Device: a.Device, Table: datapath.Table(a.Card, a.Device)}
		if !isFurther(a.IfName) {
			res.Addresses = append(res.Addresses, addr)
			continue
		}
		i := slices.IndexFunc(res.Interfaces, func(x cniplugin.Interface) bool { return x.IfName == a.IfName })
		if i < 0 {
			i, res.Interfaces = len(res.Interfaces), append(res.Interfaces, cniplugin.Interface{IfName: a.IfName})
		}
		res.Interfaces[i].Addresses = append(res.Interfaces[i].Addresses, addr)
	}
	return res
}

// explain converts an error of the pool for the plugin. Its text is that of an event
// of the pod, so it names the pod and not the sandbox, and says everything once.
func (b *Backend) explain(err error, at cniplugin.Attachment, pod cniplugin.Pod) *cniplugin.AgentError {
	name := "the pod"
	if pod.Name != "" {
		name = pod.String()
	}
	var none *ipam.ExhaustedError
	if errors.As(err, &none) {
		return b.exhausted(none, name)
	}
	var known *cniplugin.AgentError // of a hook
	text := strings.ReplaceAll(err.Error(), at.String(), name)
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, ipam.ErrInvalid), errors.Is(err, ipam.ErrConflict):
		return &cniplugin.AgentError{Code: cniplugin.CodeInvalidEnvironment, Message: text}
	case errors.Is(err, ipam.ErrWitness):
		return &cniplugin.AgentError{
			Code: cniplugin.CodeTryAgainLater, Message: text,
			Details: "nothing was allocated, because the kernel did not answer which addresses are in use",
		}
	case errors.Is(err, ipam.ErrJournal):
		return &cniplugin.AgentError{
			Code: cniplugin.CodeIOFailure, Message: text,
			Details: "nothing was changed; check that the agent's state directory is writable and that the disk has space",
		}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &cniplugin.AgentError{Code: cniplugin.CodeTryAgainLater, Message: text}
	}
	return &cniplugin.AgentError{Code: cniplugin.CodeAgent, Message: text}
}

// exhausted returns the error for a pod that gets no address.
func (b *Backend) exhausted(none *ipam.ExhaustedError, name string) *cniplugin.AgentError {
	message := fmt.Sprintf("no %v address for %s", none.Family, name)
	if none.Card != 0 {
		message = fmt.Sprintf("no %v address on network card %d for %s", none.Family, none.Card, name)
	}
	code := cniplugin.CodeTryAgainLater
	if none.Addr.IsValid() {
		message = fmt.Sprintf("%v cannot be given to %s", none.Addr, name)
		if none.Reason == ipam.ReasonNoSuchAddress || none.Reason == ipam.ReasonNoBlocks {
			code = cniplugin.CodeInvalidConfig
		}
	}
	var details []string
	if none.Evidence != "" {
		// An error of EC2 in the evidence repeats the reason.
		details = append(details, strings.ReplaceAll(none.Evidence, ": "+string(none.Reason), ""))
	}
	if problem := b.problem.Load(); problem != nil && !none.Addr.IsValid() && !strings.Contains(none.Evidence, (*problem).Error()) {
		details = append(details, strings.ReplaceAll((*problem).Error(), ": "+string(none.Reason), ""))
	}
	const shown = 100 * time.Millisecond
	if none.Waited >= shown {
		details = append(details, "waited "+none.Waited.Round(shown).String())
	}
	return &cniplugin.AgentError{
		Code: code, Reason: string(none.Reason), RetryAfter: none.RetryAfter,
		Message: message, Details: strings.Join(details, "; "),
	}
}

// reasonOf returns the reason why the agent has not started: that of an error of
// EC2 or the metadata service, or else agent-starting.
func reasonOf(err error) ipam.Reason {
	if op := (*eni.OpError)(nil); !errors.As(err, &op) {
		return ipam.ReasonAgentStarting
	}
	return agent.ReasonOf(err)
}
