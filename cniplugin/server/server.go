// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/vpcnet/vpcnet/cniplugin"
)

// Backend answers the plugin's calls. An error that is, or wraps, a
// [*cniplugin.AgentError] reaches the runtime unchanged; any other becomes one
// with [cniplugin.CodeAgent]. Its methods are called concurrently, and ctx
// ends when the plugin gives up or dies.
type Backend interface {
	// Add allocates the addresses of an attachment, waiting for them within
	// ctx if it must. The same attachment always gets the same response.
	Add(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error)
	// Del releases what an attachment holds. Holding nothing is no error.
	Del(ctx context.Context, req cniplugin.DelRequest) error
	// Check returns what an attachment holds, or an AgentError with
	// [cniplugin.CodeUnknownContainer] if it holds nothing.
	Check(ctx context.Context, req cniplugin.CheckRequest) (cniplugin.AddResponse, error)
	// GC returns the attachments of req.Network that hold something and are
	// not in req.Valid. It releases nothing: a Del follows for each.
	GC(ctx context.Context, req cniplugin.GCRequest) (cniplugin.GCResponse, error)
	// Status returns nil if an Add would be served now, and otherwise an
	// AgentError, best with [cniplugin.CodeNotAvailable] or
	// [cniplugin.CodeLimitedConnectivity].
	Status(ctx context.Context) error
}

// Server answers plugins. The zero value of every field but Backend is useful.
type Server struct {
	Backend Backend
	// AllowUIDs are the users that may call. Empty means root and the user that
	// runs the server.
	AllowUIDs []uint32
	// Logger gets one line for each refused or failed call. Optional.
	Logger *slog.Logger
}

// Serve answers calls on l, which should come from [Listen], until ctx ends;
// then it lets the calls under way finish for a moment, closes l and returns
// nil. It needs the peer's credentials, which only unix sockets have.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return errors.ErrUnsupported
}

// ErrInUse means that another process answers on the socket.
var ErrInUse = errors.New("socket is in use by a running agent")

// Listen listens on a unix socket at path that only its owner may open, with
// missing parent directories made. A socket that a dead process left behind is
// replaced; if a live one answers there, the error is [ErrInUse]. Closing the
// listener removes the socket.
func Listen(path string) (net.Listener, error) {
	return nil, errors.ErrUnsupported
}
