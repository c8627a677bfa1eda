// SPDX-License-Identifier: Apache-2.0

package introspect

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

// Endpoint is an address at which a program shows its state.
type Endpoint struct {
	// Setting is the name of the setting with the address, for the log.
	Setting string
	// Address is a host and port, or "unix:" and a path. Empty means that there is none.
	Address string
	Handler http.Handler
}

// Serve serves the endpoint until ctx ends. It logs that another process has the address and
// returns nil: pods do not need it, so it is no reason for an agent to end.
func (e Endpoint) Serve(ctx context.Context, log *slog.Logger) error {
	if e.Address == "" {
		return nil
	}
	listener, err := listen(e.Address)
	if errors.Is(err, syscall.EADDRINUSE) {
		log.Warn("another process listens on the address, so it does not show this agent", "setting", e.Setting, "address", e.Address, "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: e.Handler, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(listener); ctx.Err() == nil {
		return err
	}
	return nil
}

func listen(address string) (net.Listener, error) {
	if path, unix := strings.CutPrefix(address, "unix:"); unix {
		return server.Listen(path)
	}
	return net.Listen("tcp", address)
}
