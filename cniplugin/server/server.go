// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
)

// Backend answers the plugin's calls. An error that is, or wraps, a
// [*cniplugin.AgentError] reaches the runtime unchanged; any other becomes one
// with [cniplugin.CodeAgent]. Its methods are called concurrently, and ctx
// ends when the plugin gives up or dies. They are not called for a plugin that
// had done so before the server came to its request, as after a time in which
// the agent was stopped: the attachment may have had other commands since.
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

const (
	// maxRequest bounds what a plugin may send. The list of a GC is the longest:
	// some 200 kB for a node with a thousand pods.
	maxRequest = 4 << 20
	// readTimeout bounds the reading of a request, which plugins send at once. It
	// does not count the answer in: net/http lifts it when the body has been read.
	readTimeout = 5 * time.Second
	// stopTimeout is how long calls under way may go on after ctx has ended.
	// Whoever waits for a free address gives up at once, because ctx is his too.
	stopTimeout = 2 * time.Second
)

// Server answers plugins. The zero value of every field but Backend is useful.
type Server struct {
	Backend Backend
	// AllowUIDs are the users that may call. Empty means root and the user that
	// runs the server.
	AllowUIDs []uint32
	// SweepSoon makes the agent call Handle.Sweep of package datapath before
	// long, without waiting for it. It is called after a DEL whose plugin has
	// left the pod's link to the agent: to delete a link takes the kernel tens
	// of milliseconds, which all links that go together share. An agent that
	// sets it also sweeps when it starts. Nil means that plugins delete links
	// themselves, and runtimes wait for it.
	SweepSoon func()
	// Logger gets a line for each call: failures as warnings, the rest for
	// debugging. Optional.
	Logger *slog.Logger
}

// Serve answers calls on l, which should come from [Listen], until ctx ends;
// then it lets calls under way finish for a moment, closes l and returns nil. A
// call that fails because of that is not answered: its connection breaks, and the
// plugin repeats it.
// It needs the peer's credentials, which only unix sockets on Linux have.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler(ctx),
		ConnContext:       withPeer,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		ErrorLog:          slog.NewLogLogger(s.logger().Handler(), slog.LevelWarn),
	}
	srv.SetKeepAlivesEnabled(false)
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err := srv.Shutdown(grace)
		if errors.Is(err, context.DeadlineExceeded) {
			err = srv.Close()
		}
		stopped <- err
	})
	err := srv.Serve(l)
	if stop() { // ctx goes on: the listener has failed
		return errors.Join(err, srv.Close())
	}
	return <-stopped
}

// peer is who is at the other end of a connection, or why that is not known.
type peer struct {
	conn net.Conn
	uid  uint32
	err  error
}

type peerKey struct{}

func withPeer(ctx context.Context, conn net.Conn) context.Context {
	uid, err := peerUID(conn)
	return context.WithValue(ctx, peerKey{}, peer{conn, uid, err})
}

// allowed returns nil if the caller of r may call.
func (s *Server) allowed(r *http.Request) *cniplugin.AgentError {
	p, _ := r.Context().Value(peerKey{}).(peer)
	uids := s.AllowUIDs
	if len(uids) == 0 {
		uids = []uint32{0, uint32(os.Geteuid())}
	}
	switch {
	case p.err != nil:
		return notAllowed("the caller's credentials are not known", p.err.Error())
	case !slices.Contains(uids, p.uid):
		return notAllowed(fmt.Sprintf("user %d may not call the agent", p.uid), fmt.Sprintf("users %v may", uids))
	}
	return nil
}

func notAllowed(msg, details string) *cniplugin.AgentError {
	return &cniplugin.AgentError{Code: cniplugin.CodeAgent, Reason: cniplugin.ReasonNotAllowed, Message: msg, Details: details}
}

func (s *Server) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	b := s.Backend
	handle(ctx, mux, s, cniplugin.PathAdd, b.Add)
	handle(ctx, mux, s, cniplugin.PathCheck, b.Check)
	handle(ctx, mux, s, cniplugin.PathGC, b.GC)
	handle(ctx, mux, s, cniplugin.PathDel, s.del)
	handle(ctx, mux, s, cniplugin.PathStatus, func(ctx context.Context, _ empty) (empty, error) {
		return empty{}, b.Status(ctx)
	})
	return mux
}

func (s *Server) del(ctx context.Context, req cniplugin.DelRequest) (cniplugin.DelResponse, error) {
	if err := s.Backend.Del(ctx, req); err != nil {
		return cniplugin.DelResponse{}, err
	}
	if req.Retired && s.SweepSoon != nil {
		s.SweepSoon()
	}
	return cniplugin.DelResponse{Sweeps: s.SweepSoon != nil}, nil
}

type empty struct{}

// handle serves one call of the protocol.
func handle[In, Out any](serve context.Context, mux *http.ServeMux, s *Server, path string, f func(context.Context, In) (Out, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		if e := s.allowed(r); e != nil {
			s.fail(w, path, http.StatusForbidden, e)
			return
		}
		var in In
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&in); err != nil {
			s.fail(w, path, http.StatusBadRequest, &cniplugin.AgentError{
				Code: cniplugin.CodeAgent, Reason: cniplugin.ReasonProtocol,
				Message: "the agent cannot read the plugin's request", Details: path + ": " + err.Error(),
			})
			return
		}
		if p, _ := r.Context().Value(peerKey{}).(peer); peerGone(p.conn) {
			s.logger().Debug("a plugin has not waited for its answer", "call", path)
			return
		}
		ctx, cancel := callContext(serve, r)
		defer cancel()
		out, err := f(ctx, in)
		if err != nil && serve.Err() != nil {
			// The end of the server cut the call short. Without an answer the plugin
			// asks the agent that starts next, for as long as it may.
			s.logger().Debug("a plugin's call ends with the server", "call", path, "err", err)
			panic(http.ErrAbortHandler)
		}
		if err != nil {
			s.fail(w, path, http.StatusInternalServerError, agentError(err))
			return
		}
		answer(w, http.StatusOK, out)
		s.logger().Debug("answered a plugin", "call", path, "took", time.Since(start))
	})
}

// callContext ends when the plugin has gone, when it has waited for as long as
// it said, or when the server stops.
func callContext(serve context.Context, r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(serve, cancel)
	release := func() { stop(); cancel() }
	left, err := time.ParseDuration(r.Header.Get(cniplugin.TimeoutHeader))
	if err != nil {
		return ctx, release
	}
	ctx, cancelTimeout := context.WithTimeout(ctx, left)
	return ctx, func() { cancelTimeout(); release() }
}

// agentError makes a typed error of whatever a backend returned.
func agentError(err error) *cniplugin.AgentError {
	var e *cniplugin.AgentError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &cniplugin.AgentError{
			Code: cniplugin.CodeTryAgainLater, Reason: cniplugin.ReasonAgentTimeout,
			Message: "the agent has not finished in time", Details: err.Error(),
		}
	}
	return &cniplugin.AgentError{Code: cniplugin.CodeAgent, Message: err.Error()}
}

func (s *Server) fail(w http.ResponseWriter, path string, status int, e *cniplugin.AgentError) {
	s.logger().Warn("refused a plugin's call", "call", path, "err", e, "details", e.Details)
	answer(w, status, e)
}

// answer writes v. A plugin that has gone does not read it; nobody else can be
// told.
func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status = http.StatusInternalServerError
		b = nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

func (s *Server) logger() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}
