// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// status is what the introspection address answers, as JSON.
type status struct {
	agent.Status
	// Allocations lists who has which address, oldest first.
	Allocations []ipam.Allocation
}

// introspect shows the agent's state at /v1/status until ctx ends. where is a
// host and port, or "unix:" and a path; empty means not at all.
func introspect(ctx context.Context, where string, b *backend) error {
	if where == "" {
		return nil
	}
	listener, err := listenStatus(where)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		out := status{Status: agent.Status{Reason: ipam.ReasonAgentStarting, Pool: b.pool.View()}}
		if a := b.agent.Load(); a != nil {
			out.Status = a.Status()
		}
		for a := range b.pool.Allocations() {
			out.Allocations = append(out.Allocations, a)
		}
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(out) // the client went away
	})
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
