// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// status is the JSON answer of the introspection address. It does not contain the
// IDs of sandboxes, because with one of them a process could impersonate the
// runtime.
type status struct {
	Ready     bool        `json:"ready"`
	Reason    ipam.Reason `json:"reason,omitempty"`
	Evidence  string      `json:"evidence,omitempty"`
	Free      int         `json:"free"`
	InFlight  []string    `json:"inFlight,omitempty"`
	Decisions []string    `json:"decisions,omitempty"`
	// Network has the settings of the node's network.
	Network     networkStatus `json:"network"`
	ENIs        []eniStatus   `json:"enis"`
	Allocations []allocation  `json:"allocations"`
	// Quarantined are addresses that are in use but unknown to the journal.
	Quarantined []quarantined `json:"quarantined,omitempty"`
	// Events are the latest events, without the requests of pods.
	Events []agent.Event `json:"events,omitempty"`
}

type networkStatus struct {
	Layout          string         `json:"layout"`
	HostLinkPrefix  string         `json:"hostLinkPrefix"`
	ServicePrefixes []netip.Prefix `json:"servicePrefixes,omitempty"`
	ExternalSNAT    bool           `json:"externalSNAT"`
	// InUse are addresses of the ENIs that are in use, but not by a pod in
	// Allocations.
	InUse []netip.Addr `json:"inUse,omitempty"`
}

// eniStatus describes an ENI in the pool and in the node's network.
type eniStatus struct {
	ID     string         `json:"id"`
	MAC    string         `json:"mac,omitempty"`
	Card   int            `json:"card"`
	Device int            `json:"device"`
	Addrs  []netip.Prefix `json:"addrs,omitempty"`
	// Table is the number of its route table. Mark is the mark on packets of its pods
	// in the flat layout.
	Table  int           `json:"table"`
	Mark   int           `json:"mark"`
	Ready  bool          `json:"ready"`
	Blocks []blockStatus `json:"blocks"`
}

type quarantined struct {
	Addr  netip.Addr `json:"addr"`
	ENI   string     `json:"eni"`
	By    string     `json:"by"`
	Since time.Time  `json:"since"`
}

// blockStatus counts the addresses of a block.
type blockStatus struct {
	Prefix netip.Prefix `json:"prefix"`
	// Used includes the quarantined ones.
	Used        int `json:"used"`
	Quarantined int `json:"quarantined,omitempty"`
	Cooling     int `json:"cooling"`
	Free        int `json:"free"`
}

type allocation struct {
	Addr      netip.Addr `json:"addr"`
	ENI       string     `json:"eni"`
	Namespace string     `json:"namespace,omitempty"`
	Pod       string     `json:"pod,omitempty"`
	// Link is the pod's host link.
	Link string    `json:"link"`
	At   time.Time `json:"at"`
}

// status returns the present state of the pool and of n, the node's network.
func (b *backend) status(n datapath.Node) status {
	out := status{
		Reason: ipam.ReasonAgentStarting, ENIs: []eniStatus{}, Allocations: []allocation{},
		Network: networkStatus{
			Layout: b.settings.Layout, HostLinkPrefix: b.settings.VethPrefix,
			ServicePrefixes: b.settings.ServicePrefixes, ExternalSNAT: b.settings.ExternalSNAT, InUse: n.InUse,
		},
	}
	view := b.pool.View()
	if a := b.agent.Load(); a != nil {
		s := a.Status()
		view = s.Pool
		out.Ready, out.Reason, out.Evidence = s.Ready, s.Reason, s.Evidence
		out.Free, out.InFlight, out.Decisions = s.Free, s.InFlight, s.Decisions
	}
	for _, e := range view.ENIs {
		es := eniStatus{ID: e.ID, Card: e.Card, Device: e.Device, Ready: e.Ready, Blocks: []blockStatus{}}
		for _, bv := range e.Blocks {
			es.Blocks = append(es.Blocks, blockStatus{bv.Prefix, bv.Used, bv.Quarantined, bv.Cooling, bv.Free})
		}
		out.ENIs = append(out.ENIs, es)
	}
	out.ENIs = withLinks(out.ENIs, n)
	for _, q := range view.Quarantined {
		out.Quarantined = append(out.Quarantined, quarantined{q.Addr, q.ENI, q.By, q.Since})
	}
	out.Events = withoutSandboxes(b.events.list())
	for a := range b.pool.Allocations() {
		out.Allocations = append(out.Allocations, allocation{
			a.Addr, a.ENI, a.Pod.Namespace, a.Pod.Name, datapath.HostLinkName(b.settings.VethPrefix, a.ContainerID, a.IfName), a.At,
		})
	}
	return out
}

// withoutSandboxes removes the IDs of sandboxes from events.
func withoutSandboxes(list []agent.Event) []agent.Event {
	for i := range list {
		list[i].Attachment = ipam.Attachment{}
	}
	return list
}

// withLinks adds the MACs and addresses of the ENIs in n, and the ENIs that are not
// in the pool.
func withLinks(enis []eniStatus, n datapath.Node) []eniStatus {
	for _, e := range n.ENIs {
		i := slices.IndexFunc(enis, func(s eniStatus) bool { return s.ID == e.ID })
		if i < 0 {
			i, enis = len(enis), append(enis, eniStatus{ID: e.ID, Card: e.Card, Device: e.Device, Blocks: []blockStatus{}})
		}
		enis[i].MAC, enis[i].Addrs = e.MAC.String(), e.Addrs
	}
	for i, e := range enis {
		enis[i].Table, enis[i].Mark = datapath.Table(e.Card, e.Device), datapath.Number(e.Card, e.Device)
	}
	return enis
}

// introspect serves the agent's status at /v1/status and metrics for Prometheus at
// /metrics, until ctx ends. where is a host and port, or "unix:" and a path. If it
// is empty, introspect does nothing.
func introspect(ctx context.Context, where string, b *backend, l *links) error {
	if where == "" {
		return nil
	}
	listener, err := listenStatus(where)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(b.status(l.snapshot(nil))) // an error means that the client has ended
	})
	mux.Handle("GET /metrics", b.metrics.handler())
	srv := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(listener); ctx.Err() == nil {
		return err
	}
	return nil
}

func listenStatus(where string) (net.Listener, error) {
	if path, unix := strings.CutPrefix(where, "unix:"); unix {
		return server.Listen(path)
	}
	return net.Listen("tcp", where)
}
