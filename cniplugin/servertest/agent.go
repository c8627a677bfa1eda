// SPDX-License-Identifier: Apache-2.0

// Package servertest provides an agent in memory, for tests of programs that use
// the protocol of package cniplugin.
package servertest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/datapath"
)

// Config configures an Agent. With the zero value it has no addresses.
type Config struct {
	// Prefixes are the free addresses, at most one prefix for each family. Each
	// attachment gets the lowest free address of each prefix.
	Prefixes []netip.Prefix
	// ENI, Card and Device describe the ENI of all addresses.
	ENI          string
	Card, Device int
	// Layout, MTU and HostLinkPrefix are part of every response.
	Layout         datapath.Layout
	MTU            int
	HostLinkPrefix string
	// Delay is the duration of each call.
	Delay time.Duration
}

// Agent is a [server.Backend] without EC2, kernel or disk. It keeps the rules of a
// real agent: it never gives an address to two attachments, gives the same
// attachment the same address again, gives exactly the addresses that a request asks
// for, and returns an error with a reason when no address is free. Its zero value has no addresses. It is safe for concurrent use.
type Agent struct {
	cfg Config

	mu    sync.Mutex
	held  map[cniplugin.Attachment][]netip.Addr
	calls map[string]int
	err   error
}

var _ server.Backend = (*Agent)(nil)

// New returns an agent for which all addresses of cfg are free.
func New(cfg Config) *Agent {
	return &Agent{cfg: cfg}
}

// Fail makes every further call fail with err. Nil makes calls succeed again.
func (a *Agent) Fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

// Held returns the addresses that each attachment holds.
func (a *Agent) Held() map[cniplugin.Attachment][]netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.held)
}

// Calls returns how often each method was called.
func (a *Agent) Calls() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.calls)
}

// begin counts a call, and waits for Config.Delay.
func (a *Agent) begin(ctx context.Context, method string) error {
	a.mu.Lock()
	if a.calls == nil {
		a.held, a.calls = map[cniplugin.Attachment][]netip.Addr{}, map[string]int{}
	}
	a.calls[method]++
	err := a.err
	a.mu.Unlock()
	if err != nil || a.cfg.Delay == 0 {
		return err
	}
	t := time.NewTimer(a.cfg.Delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Add implements [server.Backend].
func (a *Agent) Add(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	if err := a.begin(ctx, "Add"); err != nil {
		return cniplugin.AddResponse{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.held[req.Attachment]; !ok {
		var addrs []netip.Addr
		for _, p := range a.cfg.Prefixes {
			free, err := a.free(p, req.Addrs)
			if err != nil {
				return cniplugin.AddResponse{}, err
			}
			addrs = append(addrs, free)
		}
		for _, want := range req.Addrs {
			if !slices.Contains(addrs, want) {
				return cniplugin.AddResponse{}, refused("no-such-address", want, "it is in none of %v", a.cfg.Prefixes)
			}
		}
		a.held[req.Attachment] = addrs
	}
	for _, want := range req.Addrs {
		if have := a.held[req.Attachment]; !slices.Contains(have, want) {
			return cniplugin.AddResponse{}, refused("in-use", want, "the attachment holds %v", have)
		}
	}
	return a.response(req.Attachment), nil
}

// refused returns the error for an address that the runtime asks for.
func refused(reason string, want netip.Addr, format string, args ...any) error {
	return &cniplugin.AgentError{
		Code: cniplugin.CodeTryAgainLater, Reason: reason, Message: want.String() + " cannot be given", Details: fmt.Sprintf(format, args...),
	}
}

// free returns the wanted address in p or, if there is none, the lowest address that no
// attachment holds. The caller holds mu.
func (a *Agent) free(p netip.Prefix, wanted []netip.Addr) (netip.Addr, error) {
	used := map[netip.Addr]bool{}
	for _, addrs := range a.held {
		for _, addr := range addrs {
			used[addr] = true
		}
	}
	if i := slices.IndexFunc(wanted, p.Contains); i >= 0 {
		if used[wanted[i]] {
			return netip.Addr{}, refused("in-use", wanted[i], "another attachment holds it")
		}
		return wanted[i], nil
	}
	for addr := p.Masked().Addr(); p.Contains(addr); addr = addr.Next() {
		if !used[addr] {
			return addr, nil
		}
	}
	return netip.Addr{}, &cniplugin.AgentError{
		Code: cniplugin.CodeTryAgainLater, Reason: "subnet-full", Message: "no free address",
		Details: fmt.Sprintf("all of %s is in use", p), RetryAfter: 5 * time.Second,
	}
}

// response returns the addresses that an attachment holds. The caller holds mu.
func (a *Agent) response(key cniplugin.Attachment) cniplugin.AddResponse {
	resp := cniplugin.AddResponse{Layout: string(a.cfg.Layout), MTU: a.cfg.MTU, HostLinkPrefix: a.cfg.HostLinkPrefix}
	for _, addr := range a.held[key] {
		resp.Addresses = append(resp.Addresses, cniplugin.Address{
			Addr: addr, ENI: a.cfg.ENI, Card: a.cfg.Card, Device: a.cfg.Device,
			Table: datapath.Table(a.cfg.Card, a.cfg.Device),
		})
	}
	return resp
}

// find returns the attachment that key names, if key has no network: the one of that
// container and interface. The caller holds mu.
func (a *Agent) find(key cniplugin.Attachment) cniplugin.Attachment {
	for held := range a.held {
		if key.Network == "" && held.ContainerID == key.ContainerID && held.IfName == key.IfName {
			return held
		}
	}
	return key
}

// Del implements [server.Backend].
func (a *Agent) Del(ctx context.Context, req cniplugin.DelRequest) (cniplugin.DelResponse, error) {
	if err := a.begin(ctx, "Del"); err != nil {
		return cniplugin.DelResponse{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.held, a.find(req.Attachment))
	return cniplugin.DelResponse{}, nil
}

// Check implements [server.Backend].
func (a *Agent) Check(ctx context.Context, req cniplugin.CheckRequest) (cniplugin.AddResponse, error) {
	if err := a.begin(ctx, "Check"); err != nil {
		return cniplugin.AddResponse{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	key := a.find(req.Attachment)
	if _, ok := a.held[key]; !ok {
		return cniplugin.AddResponse{}, &cniplugin.AgentError{
			Code: cniplugin.CodeUnknownContainer, Reason: cniplugin.ReasonNotAllocated, Message: "the attachment holds no address",
		}
	}
	return a.response(key), nil
}

// GC implements [server.Backend].
func (a *Agent) GC(ctx context.Context, req cniplugin.GCRequest) (cniplugin.GCResponse, error) {
	if err := a.begin(ctx, "GC"); err != nil {
		return cniplugin.GCResponse{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var resp cniplugin.GCResponse
	for key := range a.held {
		if key.Network == req.Network && !slices.Contains(req.Valid, key) {
			resp.Stale = append(resp.Stale, key)
		}
	}
	return resp, nil
}

// Status implements [server.Backend].
func (a *Agent) Status(ctx context.Context) error { return a.begin(ctx, "Status") }
