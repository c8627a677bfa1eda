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
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// introspect serves the agent's status at /v1/status and metrics for Prometheus at
// /metrics, until ctx ends. where is a host and port, or "unix:" and a path. If it
// is empty, introspect does nothing.
func introspect(ctx context.Context, where string, status func() ipamd.Status, metrics http.Handler) error {
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
		_ = e.Encode(status()) // an error means that the client has ended
	})
	mux.Handle("GET /metrics", metrics)
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
