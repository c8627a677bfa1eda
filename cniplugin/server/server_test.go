// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
)

var (
	pod1 = cniplugin.Attachment{Network: "vpcnet", ContainerID: "c1", IfName: "eth0"}
	pod2 = cniplugin.Attachment{Network: "vpcnet", ContainerID: "c2", IfName: "eth0"}
	one  = servertest.Config{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.5/32"), netip.MustParsePrefix("2001:db8::5/128")},
		ENI:      "eni-1", Device: 1, Layout: "per-pod", MTU: 9001, HostLinkPrefix: "eni",
	}
)

// socketPath returns a short path: that of t.TempDir can be longer than the path of
// a socket may be.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vpcnet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "agent.sock")
}

// serve runs s on path and returns a function that stops it.
func serve(t *testing.T, s *server.Server, path string) (stop func()) {
	t.Helper()
	l, err := server.Listen(path)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestCalls(t *testing.T) {
	path := socketPath(t)
	agent := servertest.New(one)
	serve(t, &server.Server{Backend: agent}, path)
	client := cniplugin.Client{Socket: path}
	ctx := t.Context()

	want := cniplugin.AddResponse{
		Addresses: []cniplugin.Address{
			{Addr: netip.MustParseAddr("10.0.1.5"), ENI: "eni-1", Device: 1, Table: 2},
			{Addr: netip.MustParseAddr("2001:db8::5"), ENI: "eni-1", Device: 1, Table: 2},
		},
		Layout: "per-pod", MTU: 9001, HostLinkPrefix: "eni",
	}
	for range 2 { // the second call repeats the first
		got, err := client.Add(ctx, cniplugin.AddRequest{Attachment: pod1, Netns: "/run/netns/c1"})
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err != nil || diff != "" {
			t.Fatalf("Add: %v, -want +got:\n%s", err, diff)
		}
	}
	if got, err := client.Check(ctx, cniplugin.CheckRequest{Attachment: pod1}); err != nil || len(got.Addresses) != 2 {
		t.Errorf("Check = %v, %v, want 2 addresses", got, err)
	}
	gc, err := client.GC(ctx, cniplugin.GCRequest{Network: "vpcnet", Valid: []cniplugin.Attachment{pod2}})
	if diff := cmp.Diff(cniplugin.GCResponse{Stale: []cniplugin.Attachment{pod1}}, gc); err != nil || diff != "" {
		t.Errorf("GC: %v, -want +got:\n%s", err, diff)
	}
	if resp, err := client.Del(ctx, cniplugin.DelRequest{Attachment: pod1, Retired: true}); err != nil || resp.Sweeps {
		t.Errorf("Del = %+v, %v, want success without sweeps", resp, err)
	}
	if held := agent.Held(); len(held) != 0 {
		t.Errorf("after Del the agent holds %v, want nothing", held)
	}
	if err := client.Status(ctx); err != nil {
		t.Errorf("Status: %v", err)
	}
}

func TestSweepSoon(t *testing.T) {
	path := socketPath(t)
	sweeps := 0
	serve(t, &server.Server{Backend: servertest.New(one), SweepSoon: func() { sweeps++ }}, path)
	for i, retired := range []bool{false, true} {
		resp, err := cniplugin.Client{Socket: path}.Del(t.Context(), cniplugin.DelRequest{Attachment: pod1, Retired: retired})
		if err != nil || !resp.Sweeps || sweeps != i {
			t.Errorf("Del with retired %v = %+v, %v, after %d sweeps, want %d", retired, resp, err, sweeps, i)
		}
	}
}

// TestAgentErrorUnchanged checks that an agent's error reaches the client with all
// its fields.
func TestAgentErrorUnchanged(t *testing.T) {
	path := socketPath(t)
	agent := servertest.New(one)
	serve(t, &server.Server{Backend: agent}, path)
	want := &cniplugin.AgentError{
		Code: cniplugin.CodeTryAgainLater, Reason: "subnet-full", Message: "subnet-1 has no free address",
		Details: "EC2: InsufficientFreeAddressesInSubnet", RetryAfter: 1500 * time.Millisecond,
	}
	agent.Fail(errors.Join(errors.New("add eni-1"), want))
	_, err := cniplugin.Client{Socket: path}.Add(t.Context(), cniplugin.AddRequest{Attachment: pod1})
	var got *cniplugin.AgentError
	if !errors.As(err, &got) {
		t.Fatalf("error is %T %v, not an AgentError", err, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	agent.Fail(errors.New("disk full"))
	err = cniplugin.Client{Socket: path}.Status(t.Context())
	if !errors.As(err, &got) || got.Code != cniplugin.CodeAgent || got.Message != "disk full" {
		t.Errorf("error = %#v, want an AgentError with CodeAgent and the text of the error", err)
	}
}

func TestRefusesOtherUsers(t *testing.T) {
	path := socketPath(t)
	agent := servertest.New(one)
	serve(t, &server.Server{Backend: agent, AllowUIDs: []uint32{uint32(os.Geteuid()) + 1}}, path)
	_, err := cniplugin.Client{Socket: path}.Add(t.Context(), cniplugin.AddRequest{Attachment: pod1})
	var got *cniplugin.AgentError
	if !errors.As(err, &got) || got.Reason != cniplugin.ReasonNotAllowed {
		t.Errorf("error = %v, want reason %s", err, cniplugin.ReasonNotAllowed)
	}
	if n := agent.Calls()["Add"]; n != 0 {
		t.Errorf("the backend was called %d times, want 0", n)
	}
}

// TestRefusesTCP checks that the server refuses a client if it cannot get the user
// from the kernel.
func TestRefusesTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- (&server.Server{Backend: servertest.New(one)}).Serve(ctx, l) }()
	resp, err := http.Post("http://"+l.Addr().String()+cniplugin.PathStatus, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("status %s, want 403", resp.Status)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	path := socketPath(t)
	l, err := server.Listen(path)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v, want mode 0600", info.Mode(), err)
	}
	if _, err := server.Listen(path); !errors.Is(err, server.ErrInUse) {
		t.Errorf("second Listen: %v, want ErrInUse", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("after Close the socket is still there: %v", err)
	}
	t.Run("remnant of a dead process", func(t *testing.T) {
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		dead.Close()
		serve(t, &server.Server{Backend: servertest.New(one)}, path)
		if err := (cniplugin.Client{Socket: path}).Status(t.Context()); err != nil {
			t.Errorf("Status: %v", err)
		}
	})
	t.Run("not a socket", func(t *testing.T) {
		path := socketPath(t)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Listen(path); err == nil || !strings.Contains(err.Error(), "is not a socket") {
			t.Errorf("Listen over a file: %v, want an error", err)
		}
		if b, _ := os.ReadFile(path); string(b) != "precious" {
			t.Error("Listen has removed a file that is not a socket")
		}
	})
	t.Run("long path", func(t *testing.T) {
		if _, err := server.Listen("/run/" + strings.Repeat("x", 100)); err == nil || !strings.Contains(err.Error(), "105 bytes") {
			t.Errorf("Listen on a long path: %v, want an error with its length", err)
		}
	})
}

// TestDeadline checks that the context of the backend ends a little before the
// deadline of the client, so that the backend's reason arrives in time.
func TestDeadline(t *testing.T) {
	path := socketPath(t)
	cfg := one
	cfg.Delay = time.Hour
	serve(t, &server.Server{Backend: servertest.New(cfg)}, path)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := cniplugin.Client{Socket: path}.Add(ctx, cniplugin.AddRequest{Attachment: pod1})
	var got *cniplugin.AgentError
	if !errors.As(err, &got) || got.Code != cniplugin.CodeTryAgainLater || got.Reason != cniplugin.ReasonAgentTimeout {
		t.Errorf("error = %#v, want an AgentError of the agent with ReasonAgentTimeout", err)
	}
}

// waiting is a backend. Its Add waits until the context ends.
type waiting struct {
	*servertest.Agent
	began, ended chan struct{}
}

func (w *waiting) Add(ctx context.Context, _ cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	close(w.began)
	<-ctx.Done()
	close(w.ended)
	return cniplugin.AddResponse{}, ctx.Err()
}

// TestPluginDies checks that the context of the backend ends when the plugin ends.
func TestPluginDies(t *testing.T) {
	path := socketPath(t)
	w := &waiting{Agent: servertest.New(one), began: make(chan struct{}), ended: make(chan struct{})}
	serve(t, &server.Server{Backend: w}, path)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("POST " + cniplugin.PathAdd + " HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")); err != nil {
		t.Fatal(err)
	}
	<-w.began
	conn.Close()
	select {
	case <-w.ended:
	case <-time.After(10 * time.Second):
		t.Error("the backend still waits after 10 s")
	}
}

// TestPluginHasEnded checks that the server does not carry out the request of a
// plugin that has ended: a late DEL could release the addresses of a later ADD.
func TestPluginHasEnded(t *testing.T) {
	path := socketPath(t)
	l, err := server.Listen(path)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	send := func(body string) net.Conn {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		request := "POST " + cniplugin.PathDel + " HTTP/1.0\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
		if _, err := conn.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	// Before the server starts, one client closes its connection and the other
	// closes only its sending side.
	ended, closed := send("{}"), send("{}")
	if err := errors.Join(ended.Close(), closed.(*net.UnixConn).CloseWrite()); err != nil {
		t.Fatal(err)
	}
	agent := servertest.New(one)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- (&server.Server{Backend: agent}).Serve(ctx, l) }()
	if answer, err := io.ReadAll(closed); err != nil || !strings.Contains(string(answer), "200 OK") {
		t.Errorf("answer to the client that waits: %q, %v, want status 200", answer, err)
	}
	cancel()
	if err := errors.Join(<-done, closed.Close()); err != nil {
		t.Error(err)
	}
	if calls := agent.Calls()["Del"]; calls != 1 {
		t.Errorf("%d calls of Del, want 1", calls)
	}
}

// TestLongWait checks that a call may wait for an address longer than readTimeout.
func TestLongWait(t *testing.T) {
	if testing.Short() {
		t.Skip("takes six seconds")
	}
	t.Parallel()
	path := socketPath(t)
	cfg := one
	cfg.Delay = 6 * time.Second
	serve(t, &server.Server{Backend: servertest.New(cfg)}, path)
	if _, err := (cniplugin.Client{Socket: path}).Add(t.Context(), cniplugin.AddRequest{Attachment: pod1}); err != nil {
		t.Error(err)
	}
}

// TestStop checks that the client repeats a call that fails because the server
// stops, and that the next server answers it.
func TestStop(t *testing.T) {
	path := socketPath(t)
	cfg := one
	cfg.Delay = time.Hour
	agent := servertest.New(cfg)
	stop := serve(t, &server.Server{Backend: agent}, path)
	errs := make(chan error, 1)
	go func() {
		_, err := cniplugin.Client{Socket: path, Wait: time.Minute}.Add(t.Context(), cniplugin.AddRequest{Attachment: pod1})
		errs <- err
	}()
	for agent.Calls()["Add"] == 0 {
		runtime.Gosched()
	}
	stop()
	select {
	case err := <-errs:
		t.Fatalf("the call ended with the server: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	serve(t, &server.Server{Backend: servertest.New(one)}, path)
	if err := <-errs; err != nil {
		t.Errorf("the next server's answer: %v", err)
	}
}

// TestVersionSkew checks that the server serves requests of older and newer plugins,
// and refuses requests that it cannot serve with the right status.
func TestVersionSkew(t *testing.T) {
	path := socketPath(t)
	serve(t, &server.Server{Backend: servertest.New(one)}, path)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	web := &http.Client{Transport: transport}
	for _, tc := range []struct {
		name, path, body string
		status           int
	}{
		{"newer plugin, new field", cniplugin.PathAdd, `{"network":"n","containerID":"c","ifName":"eth0","colour":"red","pod":{"labels":{}}}`, http.StatusOK},
		{"older plugin, fields missing", cniplugin.PathAdd, `{"network":"n","containerID":"c","ifName":"eth0"}`, http.StatusOK},
		{"newer plugin, new call", "/v2/add", `{}`, http.StatusNotFound},
		{"no JSON", cniplugin.PathDel, `hello`, http.StatusBadRequest},
		{"wrong type", cniplugin.PathDel, `{"network":7}`, http.StatusBadRequest},
		{"empty", cniplugin.PathGC, ``, http.StatusBadRequest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, err := web.Post("http://agent"+tc.path, "application/json", strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != tc.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tc.status)
			}
		})
	}
}

// odd is a Backend that panics or returns an error.
type odd struct {
	*servertest.Agent
	err   error
	value any // panics with it, unless nil
}

func (o odd) Add(context.Context, cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	if o.value != nil {
		panic(o.value)
	}
	return cniplugin.AddResponse{}, o.err
}

func (o odd) Del(context.Context, cniplugin.DelRequest) (cniplugin.DelResponse, error) {
	_, err := o.Add(context.Background(), cniplugin.AddRequest{})
	return cniplugin.DelResponse{}, err
}

func (o odd) Status(context.Context) error {
	_, err := o.Add(context.Background(), cniplugin.AddRequest{})
	return err
}

// TestOddBackend checks that whatever a Backend does, the plugin gets an error with
// a code and a text, and the server goes on.
func TestOddBackend(t *testing.T) {
	var none *cniplugin.AgentError
	for _, tc := range []struct {
		name string
		odd  odd
		want cniplugin.AgentError
	}{
		{name: "panic", odd: odd{value: "index out of range"}, want: cniplugin.AgentError{Code: cniplugin.CodeInternal, Reason: cniplugin.ReasonAgentPanic}},
		{name: "panic with an error", odd: odd{value: io.EOF}, want: cniplugin.AgentError{Code: cniplugin.CodeInternal, Reason: cniplugin.ReasonAgentPanic}},
		{name: "code alone", odd: odd{err: &cniplugin.AgentError{Code: cniplugin.CodeTryAgainLater}}, want: cniplugin.AgentError{Code: cniplugin.CodeTryAgainLater}},
		{name: "reason alone", odd: odd{err: &cniplugin.AgentError{Reason: "quota"}}, want: cniplugin.AgentError{Code: cniplugin.CodeAgent, Reason: "quota"}},
		{name: "nothing", odd: odd{err: &cniplugin.AgentError{}}, want: cniplugin.AgentError{Code: cniplugin.CodeAgent}},
		{name: "nil", odd: odd{err: none}, want: cniplugin.AgentError{Code: cniplugin.CodeInternal}},
		{name: "another error", odd: odd{err: io.EOF}, want: cniplugin.AgentError{Code: cniplugin.CodeAgent}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := socketPath(t)
			var log strings.Builder
			tc.odd.Agent = servertest.New(one)
			stop := serve(t, &server.Server{Backend: tc.odd, Logger: slog.New(slog.NewTextHandler(&log, nil))}, path)
			client := cniplugin.Client{Socket: path}
			_, addErr := client.Add(t.Context(), cniplugin.AddRequest{Attachment: pod1, Pod: cniplugin.Pod{Namespace: "default", Name: "web"}})
			_, delErr := client.Del(t.Context(), cniplugin.DelRequest{Attachment: pod1})
			for _, err := range []error{addErr, delErr, client.Status(t.Context())} {
				var e *cniplugin.AgentError
				if !errors.As(err, &e) || e.Code != tc.want.Code || e.Reason != tc.want.Reason || e.Error() == "" {
					t.Errorf("error %#v, want code %d, reason %q and a text", err, tc.want.Code, tc.want.Reason)
				}
			}
			if _, err := client.GC(t.Context(), cniplugin.GCRequest{}); err != nil {
				t.Errorf("GC afterwards: %v", err)
			}
			stop()
			if !strings.Contains(log.String(), "pod=default/web") || tc.odd.value != nil && !strings.Contains(log.String(), "server_test.go") {
				t.Errorf("log %s, want the pod, and the stack of a panic", &log)
			}
		})
	}
}

// TestNoBackend checks that a Server without a Backend serves nothing, and says why.
func TestNoBackend(t *testing.T) {
	path := socketPath(t)
	l, err := server.Listen(path)
	if err != nil {
		t.Skip(err)
	}
	if err := new(server.Server).Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), "Backend is nil") {
		t.Errorf("Serve = %v, want an error that names Backend", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket: %v, want it removed", err)
	}
}

// TestSecondDel checks that the Check of a DEL for an attachment that holds nothing is
// no warning, and that other refusals are.
func TestSecondDel(t *testing.T) {
	path := socketPath(t)
	var log strings.Builder
	agent := servertest.New(one)
	stop := serve(t, &server.Server{Backend: agent, Logger: slog.New(slog.NewTextHandler(&log, nil))}, path)
	client := cniplugin.Client{Socket: path}
	if _, err := client.Check(t.Context(), cniplugin.CheckRequest{Attachment: pod1}); err == nil {
		t.Error("Check of an attachment that holds nothing succeeds")
	}
	if _, err := client.Del(t.Context(), cniplugin.DelRequest{Attachment: pod1}); err != nil {
		t.Error(err)
	}
	agent.Fail(&cniplugin.AgentError{Reason: "quota"})
	if err := client.Status(t.Context()); err == nil {
		t.Error("Status of an agent that fails succeeds")
	}
	stop()
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "quota") {
		t.Errorf("log %q, want only the failure of Status", got)
	}
}

// TestProxy checks that a Client can be the Backend of a Server, which passes
// everything on.
func TestProxy(t *testing.T) {
	upstream, path := socketPath(t), socketPath(t)
	agent := servertest.New(one)
	serve(t, &server.Server{Backend: agent, SweepSoon: func() {}}, upstream)
	serve(t, &server.Server{Backend: cniplugin.Client{Socket: upstream}}, path)
	client := cniplugin.Client{Socket: path}
	if got, err := client.Add(t.Context(), cniplugin.AddRequest{Attachment: pod1}); err != nil || len(got.Addresses) != 2 {
		t.Errorf("Add = %+v, %v, want 2 addresses", got, err)
	}
	if resp, err := client.Del(t.Context(), cniplugin.DelRequest{Attachment: pod1}); err != nil || !resp.Sweeps {
		t.Errorf("Del = %+v, %v, want sweeps", resp, err)
	}
	agent.Fail(&cniplugin.AgentError{Code: cniplugin.CodeNotAvailable, Reason: "quota", RetryAfter: time.Minute})
	var e *cniplugin.AgentError
	if err := client.Status(t.Context()); !errors.As(err, &e) || e.Reason != "quota" || e.RetryAfter != time.Minute {
		t.Errorf("Status = %v, want the error of the agent", err)
	}
}

// TestFurther checks that requests with other paths reach Further, and only from users that
// may call.
func TestFurther(t *testing.T) {
	own := uint32(os.Geteuid())
	for _, c := range []struct {
		uid  uint32
		want int
	}{{own, http.StatusTeapot}, {own + 1, http.StatusForbidden}} {
		path := socketPath(t)
		further := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
		serve(t, &server.Server{Backend: servertest.New(one), Further: further, AllowUIDs: []uint32{c.uid}}, path)
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://agent/v1/other", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("status %d for a caller that must be user %d, want %d", res.StatusCode, c.uid, c.want)
		}
		if err := (cniplugin.Client{Socket: path}).Status(t.Context()); (err == nil) != (c.want == http.StatusTeapot) {
			t.Errorf("Status of the protocol: %v", err)
		}
	}
}
