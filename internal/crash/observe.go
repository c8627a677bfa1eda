// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// observe observes the node through all witnesses: the runtime, the kernel, EC2 and
// the agent.
func (w *world) observe(ctx context.Context) (observation, error) {
	s, err := w.status(ctx)
	if err == nil {
		err = w.ready(ctx)
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	return w.compare(ctx, s, problem)
}

// compare is observe with a given status of the agent.
func (w *world) compare(ctx context.Context, s ipamd.Status, problem string) (observation, error) {
	p := observation{Instance: w.instance, ENIs: w.enis(), Pods: w.running(), Agent: w.agentState(s, problem)}
	state, err := w.kernel.Observe(ctx)
	if err != nil {
		return p, fmt.Errorf("observe the node: %w", err)
	}
	for _, l := range state.Links {
		if strings.HasPrefix(l.Name, datapath.DefaultHostLinkPrefix) {
			p.Links = append(p.Links, l.Name)
		}
	}
	for _, r := range state.Routes {
		if r.Dst.IsValid() && r.Dst.IsSingleIP() && strings.HasPrefix(r.Link, datapath.DefaultHostLinkPrefix) {
			p.Routes = append(p.Routes, podRoute{r.Dst.Addr(), r.Link})
		}
	}
	if problem == "" { // otherwise the desired state of the agent is unknown
		if p.Drift, err = w.drift(s, p, state); err != nil {
			return p, err
		}
	}
	for i := range p.Pods {
		if p.Pods[i].Sandbox, err = w.sandbox(ctx, p.Pods[i].Name); err != nil {
			return p, err
		}
	}
	w.checkReachable(ctx, p.Pods)
	return p, nil
}

// enis returns the present ENIs in EC2, without lag.
func (w *world) enis() []eniState {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []eniState
	for _, e := range w.cloud.ENIs() {
		x := eniState{ID: e.ID, ByAgent: e.Tags[eni.TagOwner] != "", Status: e.Status(now), Addrs: blocks(e)}
		if e.Attachment != nil {
			x.Instance = e.Attachment.Instance
			delete(w.idle, e.ID)
		} else {
			if _, seen := w.idle[e.ID]; !seen {
				w.idle[e.ID] = now
			}
			x.Idle = max(1, now.Sub(w.idle[e.ID])) // not 0, which means attached
		}
		all = append(all, x)
	}
	return all
}

func (w *world) agentState(s ipamd.Status, problem string) agentState {
	a := agentState{Problem: problem}
	for _, q := range s.Quarantined {
		a.Quarantined = append(a.Quarantined, q.Addr)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	there := map[string]bool{}
	for _, p := range w.pods {
		there[p.link] = true
	}
	for _, x := range s.Allocations {
		held := allocation{Addr: x.Addr, Link: x.Link}
		if !there[x.Link] {
			held.Ended = max(1, time.Since(w.ended[x.Link])) // very long for an unknown link
		}
		a.Allocations = append(a.Allocations, held)
	}
	return a
}

// checkRefusal checks whether a refused ADD is a violation.
func (w *world) checkRefusal(ctx context.Context, err error) {
	s, statusErr := w.status(ctx)
	if statusErr != nil {
		return // the agent is away
	}
	w.recordViolations(starvedBy(reason(err), w.agentState(s, ""))...)
}

// drift compares the kernel with the desired state of the agent's network and the
// runtime's pods. The table of a pod is that of the ENI which has its address in EC2.
func (w *world) drift(s ipamd.Status, p observation, state netstate.State) ([]string, error) {
	if p.Agent.Problem != "" {
		return nil, nil // notReady reports it
	}
	n, err := s.Node()
	if err != nil {
		return nil, err
	}
	want := datapath.Desired{Node: n}
	enis := map[string]enitest.ENI{}
	for _, e := range w.cloud.ENIs() {
		enis[e.ID] = e
	}
	for _, pod := range p.Pods {
		x := datapath.Pod{ContainerID: w.container(pod.Name), IfName: ifName, Layout: datapath.Layout(w.o.layout), MTU: 9001, HostLinkPrefix: n.HostLinkPrefix}
		for _, e := range p.ENIs {
			if a := enis[e.ID].Attachment; a != nil && owns(e.Addrs, pod.Addr) {
				x.Addrs = []datapath.PodAddr{{Addr: pod.Addr, Table: datapath.Table(a.Card, a.Device)}}
			}
		}
		if len(x.Addrs) > 0 { // otherwise released reports it
			want.Pods = append(want.Pods, x)
		}
	}
	var lines []string
	if err := want.Validate(); err != nil {
		lines = append(lines, err.Error())
	}
	for _, c := range want.Drift(state) {
		lines = append(lines, c.String())
	}
	return lines, nil
}

func (w *world) container(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.pods[name]; p != nil {
		return p.container
	}
	return ""
}

func (w *world) netnsOf(name string) *fabric.Netns {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.pods[name]; p != nil && p.running {
		return p.ns
	}
	return nil
}

// sandbox returns the addresses inside a pod.
func (w *world) sandbox(ctx context.Context, name string) ([]netip.Addr, error) {
	h, err := datapath.Open(w.netnsOf(name).Path())
	if err != nil {
		return nil, err
	}
	defer h.Close()
	state, err := h.Observe(ctx)
	var all []netip.Addr
	for _, a := range state.Addresses {
		if a.Link == ifName {
			all = append(all, a.Prefix.Addr())
		}
	}
	return all, err
}

// answerWithin is how long an answer may take. The client repeats the request every
// 200 ms.
const answerWithin = 4 * time.Second

// checkReachable sends a request to each pod from the node, from another pod and from
// the peer network. It also sends a request from each pod to the internet, which must
// see the node's address.
func (w *world) checkReachable(ctx context.Context, pods []podState) {
	var wg sync.WaitGroup
	limit := make(chan struct{}, 8)
	for i := range pods {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			other := pods[(i+1)%len(pods)].Name // only the name, because another goroutine writes other fields
			for _, from := range []struct {
				name string
				ns   *fabric.Netns
			}{{"the node", w.ns}, {other, w.netnsOf(other)}, {"the peer network", w.net.Peer()}} {
				if err := ask(ctx, from.ns, pods[i].Addr); err != nil {
					pods[i].Unreachable = append(pods[i].Unreachable, fmt.Sprintf("request from %s: %v", from.name, err))
				}
			}
			if err := w.checkInternet(ctx, w.netnsOf(pods[i].Name)); err != nil {
				pods[i].Unreachable = append(pods[i].Unreachable, err.Error())
			}
		})
	}
	wg.Wait()
}

// ask sends a request to a pod's server.
func ask(ctx context.Context, from *fabric.Netns, addr netip.Addr) error {
	_, err := exchange(ctx, from, netip.AddrPortFrom(addr, fabric.EchoPort))
	return err
}

// exchange sends a request and returns the source address that the server sees. Its
// time limit does not include the creation of the socket, which can be slow on a busy
// machine.
func exchange(ctx context.Context, from *fabric.Netns, to netip.AddrPort) (netip.AddrPort, error) {
	if from == nil {
		return netip.AddrPort{}, errors.New("the sandbox of the client is gone")
	}
	// With the deadline of ctx, Dial could fail before ctx itself ends.
	c, err := from.Dial(context.WithoutCancel(ctx), "udp", netip.AddrPort{}, to)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	seen, err := fabric.Exchange(ctx, c, "crash")
	if err != nil {
		return seen, fmt.Errorf("%v from %v: %w", to, c.LocalAddr(), err)
	}
	return seen, nil
}

func (w *world) checkInternet(ctx context.Context, from *fabric.Netns) error {
	seen, err := exchange(ctx, from, netip.AddrPortFrom(fabric.InternetAddr, fabric.EchoPort))
	if err == nil && seen.Addr() != w.addr {
		err = fmt.Errorf("the internet sees source %v, want %v", seen.Addr(), w.addr)
	}
	return err
}

// probe repeatedly sends requests to all running pods from the peer network, until
// ctx ends.
func (w *world) probe(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex
	pending := map[string]bool{} // pods with a request that has not been answered
	for ctx.Err() == nil {
		for _, p := range w.running() {
			mu.Lock()
			skip := pending[p.Name]
			pending[p.Name] = true
			mu.Unlock()
			if skip {
				continue
			}
			wg.Go(func() {
				w.probePod(ctx, p)
				mu.Lock()
				defer mu.Unlock()
				delete(pending, p.Name)
			})
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// probePod sends a request to a running pod. A missing answer is a violation, unless
// the pod has ended meanwhile or the node's network was waiting for a repair.
func (w *world) probePod(ctx context.Context, p podState) {
	repairing := w.repairing.Load()
	err := ask(ctx, w.net.Peer(), p.Addr)
	switch {
	case err == nil:
		w.tally.answered()
	case ctx.Err() != nil, repairing%2 == 1, w.repairing.Load() != repairing, w.netnsOf(p.Name) == nil:
	default:
		w.recordViolations(violation{unreachable, fmt.Sprintf("%s (%v) during the faults, request from the peer network: %v", p.Name, p.Addr, err)})
	}
}
