// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// backend answers the CNI plugin. Until the agent has started, its answers give the
// reason why it has not.
type backend struct {
	pool     *ipam.Pool
	intents  eni.Intents
	metrics  *metrics
	settings settings
	events   events
	recorder recorder
	// agent is nil until the instance is known. Then started is closed.
	agent   atomic.Pointer[agent.Agent]
	started chan struct{}
	// problem is the present failure of EC2 or the metadata service, nil if none is
	// known.
	problem atomic.Pointer[error]
	log     *slog.Logger // optional
}

// startRetry is the RetryAfter of errors while the agent starts.
const startRetry = 2 * time.Second

func newBackend(pool *ipam.Pool, intents eni.Intents, s settings) *backend {
	return &backend{pool: pool, intents: intents, metrics: newMetrics(pool), settings: s, started: make(chan struct{})}
}

// serve makes a serve pods from now on.
func (b *backend) serve(a *agent.Agent) {
	b.agent.Store(a)
	close(b.started)
}

// Add allocates the addresses of a pod. While the agent starts, Add waits for it.
func (b *backend) Add(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	select {
	case <-b.started:
	case <-ctx.Done():
		return cniplugin.AddResponse{}, b.starting()
	}
	// If the sandbox has no ID, only its path identifies it.
	sandbox, _ := datapath.SandboxID(req.Netns)
	got, err := b.agent.Load().Allocate(ctx, ipam.Request{
		Attachment: ipam.Attachment(req.Attachment), Pod: ipam.PodRef(req.Pod), Netns: req.Netns, Sandbox: sandbox,
		Addrs: req.Addrs, MAC: req.MAC,
	})
	if err != nil {
		return cniplugin.AddResponse{}, b.explain(err, req.Attachment, req.Pod)
	}
	return b.response(got), nil
}

// observeCall is called for each attempt of a call to EC2. It records an attempt
// that was not sent, or got no answer, as a problem at once, long before the last
// attempt fails.
func (b *backend) observeCall(c eni.Call) {
	b.metrics.called(c)
	if c.ClockSkew != 0 && b.log != nil {
		b.log.Warn("the node's clock is wrong; calls to EC2 are signed with EC2's time", "behind", c.ClockSkew.Round(time.Second).String())
	}
	var err error
	switch c.Code { // of these two the client tells that EC2 has not answered
	case "error":
		err = eni.NewOpError(c.Action, eni.ReasonUnreachable, nil)
	case "no-credentials":
		err = eni.NewOpError(c.Action, eni.ReasonUnauthorized, eni.ErrNoCredentials)
	default:
		b.problem.Store(nil)
		return
	}
	err = advise(err, routeToEC2(b.settings, b.recorder.knownRegion(), http.ProxyFromEnvironment))
	b.problem.Store(&err)
}

// find returns a as the pool's key. If a has no network, find returns the attachment of the
// same container and interface that holds addresses.
func (b *backend) find(a cniplugin.Attachment) ipam.Attachment {
	if a.Network == "" {
		for held := range b.pool.Allocations() {
			if held.ContainerID == a.ContainerID && held.IfName == a.IfName {
				return held.Attachment
			}
		}
	}
	return ipam.Attachment(a)
}

// Del releases the addresses of a pod. It does not need the agent.
func (b *backend) Del(ctx context.Context, req cniplugin.DelRequest) (cniplugin.DelResponse, error) {
	_, err := b.pool.Release(b.find(req.Attachment))
	if err == nil || errors.Is(err, ipam.ErrNotAllocated) {
		return cniplugin.DelResponse{}, nil
	}
	return cniplugin.DelResponse{}, b.explain(err, req.Attachment, req.Pod)
}

// Check returns the addresses that a pod holds.
func (b *backend) Check(_ context.Context, req cniplugin.CheckRequest) (cniplugin.AddResponse, error) {
	got := b.pool.Lookup(b.find(req.Attachment))
	if len(got) == 0 {
		return cniplugin.AddResponse{}, &cniplugin.AgentError{
			Code: cniplugin.CodeUnknownContainer, Reason: cniplugin.ReasonNotAllocated, Message: "the attachment holds no address",
		}
	}
	return b.response(got), nil
}

// GC returns the attachments that hold addresses of the network and are unknown to
// the runtime.
func (b *backend) GC(_ context.Context, req cniplugin.GCRequest) (cniplugin.GCResponse, error) {
	valid := map[cniplugin.Attachment]bool{}
	for _, a := range req.Valid {
		valid[a] = true
	}
	var res cniplugin.GCResponse
	for a := range b.pool.Allocations() {
		stale := cniplugin.Attachment(a.Attachment)
		if a.Network == req.Network && !valid[stale] && !slices.Contains(res.Stale, stale) {
			res.Stale = append(res.Stale, stale)
		}
	}
	return res, nil
}

// Status returns nil once pods can be served. It also returns nil if the pool is
// empty for the moment: after an error the runtime would report the node as not
// ready, and running pods would be evicted. For the same reason the addresses in
// the journal are enough until an agent that restarts has observed its ENIs.
func (b *backend) Status(context.Context) error {
	a := b.agent.Load()
	if a == nil {
		if hasBlocks(b.pool.View()) {
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

// recordEvent stores an event for operators and counts it.
func (b *backend) recordEvent(e agent.Event) {
	b.events.add(e)
	b.metrics.events.WithLabelValues(string(e.Kind)).Inc()
}

// starting returns the error for calls that come before the agent has started.
func (b *backend) starting() *cniplugin.AgentError {
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

// wiringTime is how long a plugin may take to wire a pod after the allocation.
const wiringTime = 10 * time.Second

// pods returns the pods that have held their addresses for at least the given time,
// as package datapath wires them.
func (b *backend) pods(held time.Duration) []datapath.Pod {
	wired := map[ipam.Attachment]*datapath.Pod{}
	var order []ipam.Attachment
	for a := range b.pool.Allocations() {
		if time.Since(a.LastRequest()) < held {
			continue
		}
		p := wired[a.Attachment]
		if p == nil {
			p = &datapath.Pod{
				ContainerID: a.ContainerID, IfName: a.IfName, Netns: a.Netns, MTU: b.settings.podMTU(),
				Layout: datapath.Layout(b.settings.Layout), HostLinkPrefix: b.settings.VethPrefix,
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
	return pods
}

func (b *backend) response(got []ipam.Allocation) cniplugin.AddResponse {
	res := cniplugin.AddResponse{
		Layout: b.settings.Layout, MTU: b.settings.podMTU(), HostLinkPrefix: b.settings.VethPrefix,
	}
	for _, a := range got {
		res.Addresses = append(res.Addresses, cniplugin.Address{
			Addr: a.Addr, ENI: a.ENI, Card: a.Card, Device: a.Device, Table: datapath.Table(a.Card, a.Device),
		})
	}
	return res
}

// explain converts an error of the pool for the plugin. Its text is that of an event
// of the pod, so it names the pod and not the sandbox, and says everything once.
func (b *backend) explain(err error, at cniplugin.Attachment, pod cniplugin.Pod) *cniplugin.AgentError {
	name := "the pod"
	if pod.Name != "" {
		name = pod.String()
	}
	var none *ipam.ExhaustedError
	if errors.As(err, &none) {
		return b.exhausted(none, name)
	}
	text := strings.ReplaceAll(err.Error(), at.String(), name)
	switch {
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
func (b *backend) exhausted(none *ipam.ExhaustedError, name string) *cniplugin.AgentError {
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
