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
)

// picture asks all witnesses.
func (w *world) picture(ctx context.Context) (picture, error) {
	s, err := w.status(ctx)
	if err == nil {
		err = w.ready(ctx)
	}
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	return w.compare(ctx, s, trouble)
}

// compare asks all witnesses but the agent, which has said s.
func (w *world) compare(ctx context.Context, s status, trouble string) (picture, error) {
	p := picture{Instance: w.instance, ENIs: w.enis(), Pods: w.running(), Agent: w.agentPicture(s, trouble)}
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
	if trouble == "" { // else the agent does not say what it wants
		if p.Drift, err = w.drift(s, p, state); err != nil {
			return p, err
		}
	}
	for i := range p.Pods {
		if p.Pods[i].Sandbox, err = w.sandbox(ctx, p.Pods[i].Name); err != nil {
			return p, err
		}
	}
	w.reach(ctx, p.Pods)
	return p, nil
}

// enis reads EC2's model as it is now, without any lag.
func (w *world) enis() []eniPicture {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []eniPicture
	for _, e := range w.cloud.ENIs() {
		x := eniPicture{ID: e.ID, Ours: e.Tags[eni.TagOwner] != "", Status: e.Status(now), Addrs: blocks(e)}
		if e.Attachment != nil {
			x.Instance = e.Attachment.Instance
			delete(w.idle, e.ID)
		} else {
			if _, seen := w.idle[e.ID]; !seen {
				w.idle[e.ID] = now
			}
			x.Idle = max(1, now.Sub(w.idle[e.ID])) // never 0, which is attached
		}
		all = append(all, x)
	}
	return all
}

func (w *world) agentPicture(s status, trouble string) agentPicture {
	a := agentPicture{Trouble: trouble, Quarantined: s.quarantined}
	w.mu.Lock()
	defer w.mu.Unlock()
	there := map[string]bool{}
	for _, p := range w.pods {
		there[p.link] = true
	}
	for _, x := range s.Allocations {
		held := allocation{Addr: x.Addr, Link: x.Link}
		if !there[x.Link] {
			held.Ended = max(1, time.Since(w.ended[x.Link])) // never for a link that never was
		}
		a.Allocations = append(a.Allocations, held)
	}
	return a
}

// refused looks for the cause of a refused ADD.
func (w *world) refused(ctx context.Context, err error) {
	s, statusErr := w.status(ctx)
	if statusErr != nil {
		return // the agent is away
	}
	w.breach(starvedBy(reason(err), w.agentPicture(s, ""))...)
}

// drift compares the kernel with what follows from the agent's network and from
// the runtime's pods, whose tables are those of the ENIs that EC2 has them on.
func (w *world) drift(s status, p picture, state netstate.State) ([]string, error) {
	if p.Agent.Trouble != "" {
		return nil, nil // notReady says so
	}
	n, err := s.node()
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
		if len(x.Addrs) > 0 { // else released says so
			want.Pods = append(want.Pods, x)
		}
	}
	var lines []string
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

// sandbox reads the addresses inside a pod.
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

// answerWithin is how long an answer may take: the asker repeats the question
// every 200 ms.
const answerWithin = 4 * time.Second

// reach has each pod asked from the node, from another pod and from the peer
// network, and each ask the internet, which must see the node's address.
func (w *world) reach(ctx context.Context, pods []podPicture) {
	var wg sync.WaitGroup
	limit := make(chan struct{}, 8)
	for i := range pods {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			other := pods[(i+1)%len(pods)].Name // another goroutine writes its other fields
			for _, from := range []struct {
				name string
				ns   *fabric.Netns
			}{{"the node", w.ns}, {other, w.netnsOf(other)}, {"the peer network", w.net.Peer()}} {
				if err := ask(ctx, from.ns, pods[i].Addr); err != nil {
					pods[i].Silent = append(pods[i].Silent, fmt.Sprintf("asked from %s: %v", from.name, err))
				}
			}
			if err := w.reachOut(ctx, w.netnsOf(pods[i].Name)); err != nil {
				pods[i].Silent = append(pods[i].Silent, err.Error())
			}
		})
	}
	wg.Wait()
}

// ask sends a question to a pod's server.
func ask(ctx context.Context, from *fabric.Netns, addr netip.Addr) error {
	_, err := exchange(ctx, from, netip.AddrPortFrom(addr, fabric.EchoPort))
	return err
}

// exchange returns the source that the server sees. The time that the socket takes,
// on a busy machine, is not the network's.
func exchange(ctx context.Context, from *fabric.Netns, to netip.AddrPort) (netip.AddrPort, error) {
	if from == nil {
		return netip.AddrPort{}, errors.New("the sandbox to ask from is gone")
	}
	// A deadline of ctx would end the dial before ctx itself ends.
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

func (w *world) reachOut(ctx context.Context, from *fabric.Netns) error {
	seen, err := exchange(ctx, from, netip.AddrPortFrom(fabric.InternetAddr, fabric.EchoPort))
	if err == nil && seen.Addr() != w.addr {
		err = fmt.Errorf("the internet sees %v, want %v", seen.Addr(), w.addr)
	}
	return err
}

// probe asks each running pod again and again from the peer network until ctx
// ends.
func (w *world) probe(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex
	asked := map[string]bool{} // pods whose answer is awaited
	for ctx.Err() == nil {
		for _, p := range w.running() {
			mu.Lock()
			waits := asked[p.Name]
			asked[p.Name] = true
			mu.Unlock()
			if waits {
				continue
			}
			wg.Go(func() {
				w.probePod(ctx, p)
				mu.Lock()
				defer mu.Unlock()
				delete(asked, p.Name)
			})
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// probePod asks a running pod. An answer is owed unless the pod has ended
// meanwhile, or the node's network was damaged and waits to be mended.
func (w *world) probePod(ctx context.Context, p podPicture) {
	mending := w.mending.Load()
	err := ask(ctx, w.net.Peer(), p.Addr)
	switch {
	case err == nil:
		w.tally.answered()
	case ctx.Err() != nil, mending%2 == 1, w.mending.Load() != mending, w.netnsOf(p.Name) == nil:
	default:
		w.breach(violation{unreachable, fmt.Sprintf("%s (%v) during the trouble, asked from the peer network: %v", p.Name, p.Addr, err)})
	}
}
