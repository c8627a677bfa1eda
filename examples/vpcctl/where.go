// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/snat"
)

// saved is the network state of a node with the pods of the agent.
type saved struct {
	trace.View
	Pods []podAddr `json:"pods,omitempty"`
}

// podAddr is a pod's address in the agent's introspection.
type podAddr struct {
	Addr      netip.Addr `json:"addr"`
	ENI       string     `json:"eni"`
	Namespace string     `json:"namespace"`
	Pod       string     `json:"pod"`
	Link      string     `json:"link,omitempty"`
}

// agentStatus is the part of ipamd's introspection that vpcctl uses.
type agentStatus struct {
	Network struct {
		Layout          datapath.Layout `json:"layout"`
		HostLinkPrefix  string          `json:"hostLinkPrefix"`
		ServicePrefixes []netip.Prefix  `json:"servicePrefixes"`
		InUse           []netip.Addr    `json:"inUse"`
		ExternalSNAT    bool            `json:"externalSNAT"`
	} `json:"network"`
	ENIs []struct {
		ID           string `json:"id"`
		MAC          string `json:"mac"`
		Card, Device int
		Addrs        []netip.Prefix `json:"addrs"`
		Blocks       []struct {
			Prefix netip.Prefix `json:"prefix"`
		} `json:"blocks"`
	} `json:"enis"`
	Allocations []podAddr `json:"allocations"`
}

// where holds the flags that select the node.
type where struct {
	netns, sandbox, agent string
	external              bool
}

func (w *where) register(fs *flag.FlagSet) {
	fs.StringVar(&w.netns, "netns", "", "`path` of the node's network namespace; empty means the current one")
	fs.StringVar(&w.sandbox, "sandbox", "", "`path` of the pod's network namespace, to include it")
	fs.StringVar(&w.agent, "agent", "", "introspection `address` of ipamd, host:port or unix:path, for the owners of addresses")
	fs.BoolVar(&w.external, "external-snat", false, "a device outside of the node translates sources; with -agent the agent's setting also applies")
}

// read loads a saved state, or observes this node if file is empty.
func (w *where) read(ctx context.Context, file string) (saved, error) {
	if file != "" {
		return load(file)
	}
	return w.observe(ctx)
}

// observe reads the kernel, the translation and the agent.
func (w *where) observe(ctx context.Context) (saved, error) {
	var s saved
	var err error
	if s.View, err = trace.Observe(ctx, w.netns, w.sandbox); err != nil {
		return s, err
	}
	s.External = w.external
	if s.Translation, err = w.translation(ctx); err != nil {
		return s, err
	}
	if w.agent == "" {
		return s, nil
	}
	status, err := askAgent(ctx, w.agent)
	if err != nil {
		return s, fmt.Errorf("agent at %s: %w", w.agent, err)
	}
	n, err := nodeOf(status)
	if err != nil {
		return s, fmt.Errorf("agent at %s: %w", w.agent, err)
	}
	s.Pods, s.Desired = status.Allocations, &datapath.Desired{Node: n}
	s.External = s.External || status.Network.ExternalSNAT
	return s, nil
}

// translation reads the source translation of the node. It is nil if there is none.
func (w *where) translation(ctx context.Context) (*trace.Translation, error) {
	h, err := snat.Open(w.netns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	rules, err := h.Observe(ctx)
	if err != nil {
		return nil, err
	}
	t, ok := rules.Translation()
	if !ok {
		return nil, nil
	}
	translation := trace.Translation(t)
	return &translation, nil
}

// agentTimeout limits the time of the request to the agent.
const agentTimeout = 5 * time.Second

// askAgent reads the agent's introspection.
func askAgent(ctx context.Context, where string) (agentStatus, error) {
	var status agentStatus
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			if path, unix := strings.CutPrefix(where, "unix:"); unix {
				return d.DialContext(ctx, "unix", path)
			}
			return d.DialContext(ctx, "tcp", where)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/v1/status", nil)
	if err != nil {
		return status, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return status, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return status, fmt.Errorf("status %s", resp.Status)
	}
	return status, json.NewDecoder(resp.Body).Decode(&status)
}

// nodeOf returns the desired node of the agent. datapath finds its links by MAC.
func nodeOf(status agentStatus) (datapath.Node, error) {
	n := datapath.Node{
		Layout: status.Network.Layout, HostLinkPrefix: status.Network.HostLinkPrefix,
		ServicePrefixes: status.Network.ServicePrefixes, InUse: status.Network.InUse,
	}
	for _, e := range status.ENIs {
		x := datapath.ENI{ID: e.ID, Card: e.Card, Device: e.Device, Addrs: e.Addrs}
		var err error
		if x.MAC, err = net.ParseMAC(e.MAC); err != nil {
			return n, fmt.Errorf("MAC of %s: %w (an older agent does not report it)", e.ID, err)
		}
		for _, b := range e.Blocks {
			x.Sources = append(x.Sources, b.Prefix)
		}
		n.ENIs = append(n.ENIs, x)
	}
	return n, nil
}
