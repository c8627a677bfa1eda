// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
)

// shortDir returns a directory with a short path: that of t.TempDir can be longer
// than the path of a socket may be.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vpcnet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// answer listens at path, and answers the first request of each connection with
// the next of answers.
func answer(t *testing.T, path string, answers ...string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for _, a := range answers {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = conn.Write([]byte(a))
			conn.Close()
		}
	}()
}

func TestClientAnswers(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answers []string
		reason  string // of the AgentError; empty means success
		text    string
	}{
		{"without length", []string{"HTTP/1.0 200 OK\r\n\r\n{}"}, "", ""},
		{"with length", []string{"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"}, "", ""},
		{"new fields", []string{"HTTP/1.0 200 OK\r\n\r\n" + `{"addresses":null,"colour":"red"}`}, "", ""},
		{"agent restarts before it answers", []string{"", "HTTP/1.0 200 OK\r\n\r\n{}"}, "", ""},
		{"agent restarts in mid answer", []string{"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{", "HTTP/1.0 200 OK\r\n\r\n{}"}, "", ""},
		{"no JSON", []string{"HTTP/1.0 200 OK\r\n\r\nhello"}, cniplugin.ReasonProtocol, "cannot read the agent's answer"},
		{"wrong type", []string{"HTTP/1.0 200 OK\r\n\r\n" + `{"addresses":{}}`}, cniplugin.ReasonProtocol, "cannot read the agent's answer"},
		{"older agent", []string{"HTTP/1.0 404 Not Found\r\n\r\n404 page not found"}, cniplugin.ReasonProtocol, "does not speak this version"},
		{"error with new fields", []string{"HTTP/1.0 500 E\r\n\r\n" + `{"code":11,"reason":"r","message":"m","severity":3}`}, "r", "r: m"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(shortDir(t), "s")
			answer(t, path, tc.answers...)
			_, err := cniplugin.Client{Socket: path, Wait: 10 * time.Second}.Add(t.Context(), cniplugin.AddRequest{})
			if tc.reason == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var got *cniplugin.AgentError
			if !errors.As(err, &got) || got.Reason != tc.reason || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error = %#v, want reason %q and the text %q", err, tc.reason, tc.text)
			}
		})
	}
}

func TestClientAway(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "s")
	wantAway := func(t *testing.T, err error) {
		t.Helper()
		if !errors.Is(err, cniplugin.ErrAgentAway) {
			t.Errorf("error = %v, want ErrAgentAway", err)
		}
	}
	t.Run("no socket", func(t *testing.T) {
		wantAway(t, cniplugin.Client{Socket: path}.Status(t.Context()))
		wantAway(t, cniplugin.Client{Socket: path, Wait: 20 * time.Millisecond}.Status(t.Context()))
	})
	t.Run("deadline comes first", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		wantAway(t, cniplugin.Client{Socket: path, Wait: time.Hour}.Status(ctx))
	})
	t.Run("deadline passed before the first try", func(t *testing.T) {
		ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
		defer cancel()
		wantAway(t, cniplugin.Client{Socket: path, Wait: time.Hour}.Status(ctx))
	})
	t.Run("remnant of a dead agent", func(t *testing.T) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		wantAway(t, cniplugin.Client{Socket: path}.Status(t.Context()))
	})
	t.Run("comes back", func(t *testing.T) {
		path := filepath.Join(dir, "t")
		errs := make(chan error, 1)
		go func() { errs <- cniplugin.Client{Socket: path, Wait: time.Minute}.Status(t.Context()) }()
		answer(t, path, "HTTP/1.0 200 OK\r\n\r\n{}")
		if err := <-errs; err != nil {
			t.Error(err)
		}
	})
}

// TestClientHang checks that a call to an agent that does not answer ends at the
// deadline.
func TestClientHang(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := (cniplugin.Client{Socket: path}).Status(ctx); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, cniplugin.ErrAgentAway) {
		t.Errorf("error = %v, want context.DeadlineExceeded", err)
	}
}
