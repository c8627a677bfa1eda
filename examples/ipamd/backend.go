// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// backend answers the CNI plugin. It can be asked before there is an agent,
// and says then how far the start has come.
type backend struct {
	pool     *ipam.Pool
	intents  eni.Intents
	metrics  *metrics
	settings settings
	events   events
	memory   memory
	// agent is nil until the instance is known; then started is closed.
	agent   atomic.Pointer[agent.Agent]
	started chan struct{}
	// trouble is what is wrong with EC2 or the metadata service at present, nil
	// if nothing is known.
	trouble atomic.Pointer[error]
}

// startRetry is what a plugin is told to wait while the agent starts.
const startRetry = 2 * time.Second

func newBackend(pool *ipam.Pool, intents eni.Intents, s settings) *backend {
	return &backend{pool: pool, intents: intents, metrics: newMetrics(pool), settings: s, started: make(chan struct{})}
}

// serve lets a serve pods from now on.
func (b *backend) serve(a *agent.Agent) {
	b.agent.Store(a)
	close(b.started)
}

// Add allocates the addresses of a pod. One that meets the agent while it starts
// waits for it.
func (b *backend) Add(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	select {
	case <-b.started:
	case <-ctx.Done():
		return cniplugin.AddResponse{}, b.starting()
	}
	// Without its identity the sandbox is known by its path alone.
	sandbox, _ := datapath.SandboxID(req.Netns)
	got, err := b.agent.Load().Allocate(ctx, ipam.Request{
		Attachment: ipam.Attachment(req.Attachment), Pod: ipam.PodRef(req.Pod), Netns: req.Netns, Sandbox: sandbox,
	})
	if err != nil {
		return cniplugin.AddResponse{}, b.explain(err)
	}
	return b.response(got), nil
}

// heard takes note of a try of a call to EC2: one that got no answer is trouble
// long before the last try has failed.
func (b *backend) heard(c eni.Call) {
	b.metrics.called(c)
	if c.Code != "error" { // what the client says of a call without any answer
		b.trouble.Store(nil)
		return
	}
	err := advise(eni.NewOpError(c.Action, eni.ReasonUnreachable, nil), b.settings)
	b.trouble.Store(&err)
}

// Del releases the addresses of a pod. It does not need the agent.
func (b *backend) Del(ctx context.Context, req cniplugin.DelRequest) error {
	_, err := b.pool.Release(ipam.Attachment(req.Attachment))
	if err == nil || errors.Is(err, ipam.ErrNotAllocated) {
		return nil
	}
	return b.explain(err)
}

// Check returns what a pod holds.
func (b *backend) Check(_ context.Context, req cniplugin.CheckRequest) (cniplugin.AddResponse, error) {
	got := b.pool.Lookup(ipam.Attachment(req.Attachment))
	if len(got) == 0 {
		return cniplugin.AddResponse{}, &cniplugin.AgentError{
			Code:    cniplugin.CodeUnknownContainer,
			Message: fmt.Sprintf("attachment %v holds no address", req.Attachment),
		}
	}
	return b.response(got), nil
}

// GC names what holds addresses of the network and is not known to the runtime.
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

// Status returns nil once pods can be served. A pool that is empty for the
// moment is no trouble of the node: a runtime that hears otherwise reports the
// node as not ready, and its running pods are evicted. For the same reason the
// journal's word is enough while an agent that restarts has not seen its ENIs.
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

// note keeps an event for people and counts it.
func (b *backend) note(e agent.Event) {
	b.events.add(e)
	b.metrics.events.WithLabelValues(string(e.Kind)).Inc()
}

// starting is the answer while there is no agent.
func (b *backend) starting() *cniplugin.AgentError {
	err := &cniplugin.AgentError{
		Code: cniplugin.CodeTryAgainLater, Reason: string(ipam.ReasonAgentStarting), RetryAfter: startRetry,
		Message: "the agent is starting",
	}
	if trouble := b.trouble.Load(); trouble != nil {
		err.Reason, err.Details = string(reasonOf(*trouble)), (*trouble).Error()
		err.Message = "the agent cannot start yet"
	}
	return err
}

// wiring is how long a plugin may be at work on a pod after it has the address.
const wiring = 10 * time.Second

// pods are the pods that have held addresses for a time, as the datapath wires
// them.
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

// explain puts an error of the pool into the plugin's words.
func (b *backend) explain(err error) *cniplugin.AgentError {
	var none *ipam.ExhaustedError
	switch {
	case errors.As(err, &none):
		out := &cniplugin.AgentError{
			Code: cniplugin.CodeTryAgainLater, Reason: string(none.Reason), RetryAfter: none.RetryAfter,
			Message: none.Error(), Details: none.Evidence,
		}
		if trouble := b.trouble.Load(); trouble != nil {
			out.Details += "; " + (*trouble).Error()
		}
		return out
	case errors.Is(err, ipam.ErrInvalid), errors.Is(err, ipam.ErrConflict):
		return &cniplugin.AgentError{Code: cniplugin.CodeInvalidEnvironment, Message: err.Error()}
	case errors.Is(err, ipam.ErrWitness):
		return &cniplugin.AgentError{
			Code: cniplugin.CodeTryAgainLater, Message: err.Error(),
			Details: "the kernel did not say which addresses are in use, so that none was given to the pod",
		}
	case errors.Is(err, ipam.ErrJournal):
		return &cniplugin.AgentError{
			Code: cniplugin.CodeIOFailure, Message: err.Error(),
			Details: "nothing was changed; see whether the agent's state directory is writable and the disk has room",
		}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &cniplugin.AgentError{Code: cniplugin.CodeTryAgainLater, Message: err.Error()}
	}
	return &cniplugin.AgentError{Code: cniplugin.CodeAgent, Message: err.Error()}
}

// reasonOf is the reason why the agent has not started: that of an error of EC2 or
// the metadata service, else that it is starting.
func reasonOf(err error) ipam.Reason {
	if op := (*eni.OpError)(nil); !errors.As(err, &op) {
		return ipam.ReasonAgentStarting
	}
	return agent.ReasonOf(err)
}
