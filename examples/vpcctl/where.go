// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

// saved is the network state of a node with the pods of the agent.
type saved struct {
	trace.View
	Pods []ipamd.PodStatus `json:"pods,omitempty"`
	// Denied counts the packets that policies have denied.
	Denied []policy.Denied `json:"denied,omitempty"`
}

// where holds the flags that select the node.
type where struct {
	netns, sandbox, agent, bundle string
	external                      bool
}

func (w *where) register(fs *flag.FlagSet) {
	fs.StringVar(&w.bundle, "bundle", "", bundleHelp)
	fs.StringVar(&w.netns, "netns", "", "`path` of the node's network namespace; empty means the current one")
	fs.StringVar(&w.sandbox, "sandbox", "", "`path` of the pod's network namespace, to include it")
	fs.StringVar(&w.agent, "agent", "", "introspection `address` of ipamd, host:port or unix:path, for the owners of addresses")
	fs.BoolVar(&w.external, "external-snat", false, "a device outside of the node translates sources; with -agent the agent's setting also applies")
}

// read loads a saved state, that of a bundle, or observes this node.
func (w *where) read(ctx context.Context, file string) (saved, error) {
	switch {
	case file != "":
		return load(file)
	case w.bundle == "":
		return w.observe(ctx)
	}
	f, err := loadBundle(w.bundle)
	if err != nil {
		return saved{}, err
	}
	if f.State == nil {
		return saved{}, fmt.Errorf("%s does not have the network of the node: %s", w.bundle, f.StateError)
	}
	return *f.State, nil
}

// observe reads the kernel, the translation and the agent.
func (w *where) observe(ctx context.Context) (saved, error) {
	var s saved
	var err error
	if s.View, err = trace.Observe(ctx, w.netns, w.sandbox); err != nil {
		return s, err
	}
	s.External = w.external
	if s.Translation, s.Egress, err = w.translation(ctx); err != nil {
		return s, err
	}
	if w.agent == "" {
		return s, nil
	}
	status, err := ipamd.ReadStatus(ctx, w.agent)
	if err != nil {
		return s, err
	}
	n, err := status.Node()
	if err != nil {
		return s, fmt.Errorf("agent at %s: %w", w.agent, err)
	}
	s.Denied = status.Denied
	s.Pods, s.Desired = status.Allocations, &datapath.Desired{Node: n}
	s.External = s.External || status.Network.ExternalSNAT
	return s, nil
}

// translation reads how the node translates sources. The translation is nil if there is none.
func (w *where) translation(ctx context.Context) (*trace.Translation, []trace.Egress, error) {
	h, err := snat.Open(w.netns)
	if err != nil {
		return nil, nil, err
	}
	defer h.Close()
	rules, err := h.Observe(ctx)
	if err != nil {
		return nil, nil, err
	}
	state, err := h.ObserveEgress(ctx)
	if err != nil {
		return nil, nil, err
	}
	var egress []trace.Egress
	for _, e := range state.Pods {
		egress = append(egress, trace.Egress{Pod: e.Pod, Node: e.Node, Table: snat.EgressTable(e.Pod)})
	}
	t, ok := rules.Translation()
	if !ok {
		if t, ok, err = w.translationOfIptables(ctx); !ok || err != nil {
			return nil, egress, err
		}
	}
	translation := trace.Translation(t)
	return &translation, egress, nil
}

// translationOfIptables reads the source translation of a node that uses iptables.
func (w *where) translationOfIptables(ctx context.Context) (t snat.Translation, ok bool, err error) {
	h, err := iptables.Open(ctx, iptables.Config{Netns: w.netns})
	if errors.Is(err, iptables.ErrNoProgram) {
		return t, false, nil
	}
	if err != nil {
		return t, false, err
	}
	defer h.Close()
	rules, err := h.Observe(ctx)
	if err != nil {
		return t, false, err
	}
	t, ok = rules.Translation()
	return t, ok, nil
}
