// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin/server"
)

// endpoint is an address at which the program shows something.
type endpoint struct {
	// setting is the name of the setting with the address, and where the address: a host and
	// port, or "unix:" and a path. Empty means that there is none.
	setting, where string
	handler        http.Handler
}

// serve serves an endpoint until ctx ends. An address that another process has is no reason
// for the agent to end: pods do not need it.
func (e endpoint) serve(ctx context.Context, log *slog.Logger) error {
	if e.where == "" {
		return nil
	}
	listener, err := listen(e.where)
	if errors.Is(err, syscall.EADDRINUSE) {
		log.Warn("another process listens on the address, so it does not show this agent", "setting", e.setting, "address", e.where, "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: e.handler, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(listener); ctx.Err() == nil {
		return err
	}
	return nil
}

func listen(where string) (net.Listener, error) {
	if path, unix := strings.CutPrefix(where, "unix:"); unix {
		return server.Listen(path)
	}
	return net.Listen("tcp", where)
}
