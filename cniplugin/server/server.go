// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
)

// Backend answers the plugin's calls. An error that is, or wraps, a
// [*cniplugin.AgentError] reaches the runtime unchanged; the server wraps any other
// error in one with [cniplugin.CodeAgent].
//
// The server calls the methods concurrently, and cancels ctx when the plugin gives
// up or ends. It does not call them for a plugin that has ended before the server
// reads its request, for example because the agent was stopped: other commands may
// have changed the attachment since.
type Backend interface {
	// Add allocates the addresses of an attachment. It may wait for free addresses
	// until ctx ends. The same attachment always gets the same response.
	Add(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error)
	// Del releases the addresses of an attachment. It returns no error if the
	// attachment holds none. The server sets DelResponse.Sweeps if it has a SweepSoon.
	Del(ctx context.Context, req cniplugin.DelRequest) (cniplugin.DelResponse, error)
	// Check returns the addresses that an attachment holds, or an AgentError with
	// [cniplugin.CodeUnknownContainer] if it holds none.
	Check(ctx context.Context, req cniplugin.CheckRequest) (cniplugin.AddResponse, error)
	// GC returns the attachments of req.Network that hold addresses and are not in
	// req.Valid. It releases nothing: the plugin sends a Del for each of them.
	GC(ctx context.Context, req cniplugin.GCRequest) (cniplugin.GCResponse, error)
	// Status returns nil if an Add would be served now, and otherwise an AgentError,
	// which should have [cniplugin.CodeNotAvailable] or
	// [cniplugin.CodeLimitedConnectivity].
	Status(ctx context.Context) error
}

const (
	// maxRequest bounds the size of a request. The list of a GC is the longest: about
	// 200 kB for a node with a thousand pods.
	maxRequest = 4 << 20
	// readTimeout bounds the reading of a request, which plugins send at once. It
	// does not include the answer: net/http lifts it when the body has been read.
	readTimeout = 5 * time.Second
	// stopTimeout is how long running calls may go on after ctx has ended. A call
	// that waits for a free address ends at once, because its context ends too.
	stopTimeout = 2 * time.Second
)

// errNoBackend is the error of a Server without a Backend.
var errNoBackend = errors.New("server: Backend is nil, want an allocator of addresses")

// Server answers plugins. The zero value of every field but Backend is useful.
type Server struct {
	// Backend answers the calls. A call in which it panics is answered with an
	// AgentError with [cniplugin.CodeInternal], and the panic is logged.
	Backend Backend
	// AllowUIDs are the users that may call. Empty means root and the user that
	// runs the server.
	AllowUIDs []uint32
	// SweepSoon makes the agent call Handle.Sweep of package datapath soon. It must
	// not wait for the sweep. The server calls it after a DEL if the plugin has left
	// the pod's link to the agent. The kernel needs tens of milliseconds to delete a
	// link, but no longer for several links in one sweep. An agent that sets
	// SweepSoon must also sweep when it starts. Nil means that plugins delete links
	// themselves, and that runtimes wait for it.
	SweepSoon func()
	// Further answers the requests of these users with paths that are not of the protocol.
	// Nil means that there are none.
	Further http.Handler
	// Logger gets a line for each call, at level warn for failures and at level
	// debug for the others. Optional.
	Logger *slog.Logger
}

// Serve answers calls on l, which should come from [Listen], until ctx ends. Then
// it gives running calls a short time to finish, closes l and returns nil. A call
// that fails because the server stops gets no answer: its connection breaks, and
// the plugin repeats it. Serve needs the peer's credentials, which only unix
// sockets on Linux have. If there is no Backend, Serve closes l and returns an error.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	switch {
	case l == nil:
		return errors.New("server: the listener is nil, want one from Listen")
	case s.Backend == nil:
		return errors.Join(errNoBackend, l.Close())
	}
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
	if stop() { // ctx has not ended: the listener has failed
		return errors.Join(err, srv.Close())
	}
	return <-stopped
}

// peer is the user at the other end of a connection, or the error that occurred
// when asking the kernel for it.
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

// allowed returns nil if the user that sent r may call the agent.
func (s *Server) allowed(r *http.Request) *cniplugin.AgentError {
	p, _ := r.Context().Value(peerKey{}).(peer)
	uids := s.AllowUIDs
	if len(uids) == 0 {
		uids = []uint32{0, uint32(os.Geteuid())}
	}
	switch {
	case p.err != nil:
		return notAllowed("the caller's credentials are unknown", p.err.Error())
	case !slices.Contains(uids, p.uid):
		return notAllowed(fmt.Sprintf("user %d may not call the agent", p.uid), fmt.Sprintf("want one of the users %v", uids))
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
	if s.Further != nil {
		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			if e := s.allowed(r); e != nil {
				s.fail(w, r.URL.Path, http.StatusForbidden, e)
				return
			}
			s.Further.ServeHTTP(w, r)
		})
	}
	return mux
}

func (s *Server) del(ctx context.Context, req cniplugin.DelRequest) (cniplugin.DelResponse, error) {
	resp, err := s.Backend.Del(ctx, req)
	if err != nil || s.SweepSoon == nil {
		return resp, err
	}
	if req.Retired {
		s.SweepSoon()
	}
	resp.Sweeps = true
	return resp, nil
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
			s.logger().Debug("plugin ended before its call was served", "call", path)
			return
		}
		ctx, cancel := callContext(serve, r)
		defer cancel()
		out, err := recovered(ctx, s, f, in)
		if err != nil && serve.Err() != nil {
			// The call failed because the server stops. Without an answer the plugin
			// repeats the call with the next agent, until its deadline.
			s.logger().Debug("call of a plugin ended because the server stops", "call", path, "err", err)
			panic(http.ErrAbortHandler)
		}
		if err != nil {
			s.fail(w, path, http.StatusInternalServerError, agentError(err), podOf(in)...)
			return
		}
		answer(w, http.StatusOK, out)
		s.logger().Debug("answered a plugin", append(podOf(in), "call", path, "took", time.Since(start).String())...)
	})
}

// recovered calls f, and returns an error if it panics.
func recovered[In, Out any](ctx context.Context, s *Server, f func(context.Context, In) (Out, error), in In) (out Out, err error) {
	defer func() {
		if v := recover(); v != nil {
			s.logger().Error("the agent panicked", append(podOf(in), "panic", fmt.Sprint(v), "stack", string(debug.Stack()))...)
			err = &cniplugin.AgentError{
				Code: cniplugin.CodeInternal, Reason: cniplugin.ReasonAgentPanic, Message: fmt.Sprintf("the agent panicked: %v", v),
				Details: "this is a defect of the agent; its log has the stack",
			}
		}
	}()
	return f(ctx, in)
}

// podOf returns the log attributes that name the pod of a request, or its attachment
// if the request has no name of a pod.
func podOf(in any) []any {
	var pod cniplugin.Pod
	var a cniplugin.Attachment
	switch in := in.(type) {
	case cniplugin.AddRequest:
		pod, a = in.Pod, in.Attachment
	case cniplugin.DelRequest:
		pod, a = in.Pod, in.Attachment
	case cniplugin.CheckRequest:
		a = in.Attachment
	}
	switch {
	case pod.Name != "":
		return []any{"pod", pod.String()}
	case a != cniplugin.Attachment{}:
		return []any{"attachment", a.String()}
	}
	return nil
}

// callContext returns a context that ends when the plugin ends, when the time in
// its TimeoutHeader has passed, or when the server stops.
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

// agentError returns the AgentError in err, or wraps err in one.
func agentError(err error) *cniplugin.AgentError {
	var e *cniplugin.AgentError
	switch {
	case errors.As(err, &e) && e == nil:
		return &cniplugin.AgentError{Code: cniplugin.CodeInternal, Message: "the agent returned a nil *AgentError as its error"}
	case e != nil:
		out := *e
		out.Code = cmp.Or(out.Code, cniplugin.CodeAgent)
		return &out
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e = &cniplugin.AgentError{
			Code: cniplugin.CodeTryAgainLater, Reason: cniplugin.ReasonAgentTimeout, Message: "the agent did not finish in time",
		}
		if err != context.DeadlineExceeded && err != context.Canceled { //nolint:errorlint // a wrapped one says more
			e.Details = err.Error()
		}
		return e
	}
	return &cniplugin.AgentError{Code: cniplugin.CodeAgent, Message: err.Error()}
}

// fail answers with an error, and logs it with the given attributes. That an
// attachment holds no address is no failure: runtimes call DEL twice for each pod,
// and the second DEL asks which addresses the pod has.
func (s *Server) fail(w http.ResponseWriter, path string, status int, e *cniplugin.AgentError, attrs ...any) {
	log := s.logger().Warn
	if path == cniplugin.PathCheck && e.Code == cniplugin.CodeUnknownContainer {
		log = s.logger().Debug
	}
	attrs = append(attrs, "call", path, "err", e)
	if e.Details != "" {
		attrs = append(attrs, "details", e.Details)
	}
	log("refused a plugin's call", attrs...)
	answer(w, status, e)
}

// answer writes v to the plugin. It ignores errors, which mean that the plugin has
// ended.
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
