// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// TimeoutHeader tells the agent for how long the plugin will wait, as Go prints
// a duration. The agent answers before that, with a reason if with nothing else.
const TimeoutHeader = "Vpcnet-Timeout"

const (
	// The first pause between two tries to reach the agent, and the longest.
	// An agent restarts within some 100 ms, and a try costs next to nothing.
	firstPause = 5 * time.Millisecond
	lastPause  = 200 * time.Millisecond

	// maxResponse bounds what an agent may answer. A GC of a full node is some
	// 200 kB.
	maxResponse = 4 << 20
)

// Client calls the agent. It is safe for concurrent use; each call makes a
// connection of its own. Every call ends with ctx at the latest. An error is an
// [*AgentError] if the agent answered, and wraps [ErrAgentAway] if nobody did.
//
// Every call of the protocol can be repeated, so a call that breaks off because
// the agent restarts is sent again.
type Client struct {
	// Socket is the path of the agent's socket. Empty means DefaultSocket.
	Socket string
	// Wait is how long a call tries to reach an agent that is away, for example
	// because it restarts. Zero means one try.
	Wait time.Duration
}

// Add asks for the addresses of an attachment.
func (c Client) Add(ctx context.Context, req AddRequest) (AddResponse, error) {
	var resp AddResponse
	err := c.call(ctx, PathAdd, req, &resp)
	return resp, err
}

// Del gives the addresses of an attachment back.
func (c Client) Del(ctx context.Context, req DelRequest) (DelResponse, error) {
	var resp DelResponse
	err := c.call(ctx, PathDel, req, &resp)
	return resp, err
}

// Check returns what an attachment holds.
func (c Client) Check(ctx context.Context, req CheckRequest) (AddResponse, error) {
	var resp AddResponse
	err := c.call(ctx, PathCheck, req, &resp)
	return resp, err
}

// GC returns the attachments that hold something outside of req.Valid.
func (c Client) GC(ctx context.Context, req GCRequest) (GCResponse, error) {
	var resp GCResponse
	err := c.call(ctx, PathGC, req, &resp)
	return resp, err
}

// Status returns nil if an Add would be served now.
func (c Client) Status(ctx context.Context) error {
	return c.call(ctx, PathStatus, struct{}{}, nil)
}

// call sends in and decodes the answer into out, which may be nil.
func (c Client) call(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	socket := cmp.Or(c.Socket, DefaultSocket)
	var away time.Time // since when nobody has taken a connection
	var broken *brokenError
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		status, answer, err := exchange(ctx, socket, path, body)
		if err == nil {
			return afterBroken(broken, decode(path, status, answer, out))
		}
		if ctx.Err() != nil && !isAway(err) {
			return fmt.Errorf("agent at %s has not answered in time: %w", socket, ctx.Err())
		}
		switch {
		case errors.As(err, &broken): // somebody was there: the agent restarts
			away = time.Time{}
		case !isAway(err):
			return fmt.Errorf("%w: %w", ErrAgentAway, err)
		}
		if away.IsZero() {
			away = time.Now()
		}
		if time.Since(away)+pause > c.Wait || sleep(ctx, pause) != nil {
			return afterBroken(broken, fmt.Errorf("%w: %w", ErrAgentAway, err))
		}
	}
}

// brokenError is a connection that ended before the whole answer was there.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return "connection to the agent broke off: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// repeatedError is the error of a call that had been sent before to an agent
// that then went away, and may have carried it out. It is both errors, and reads
// like the last.
type repeatedError struct {
	error
	broken *brokenError
}

func (e *repeatedError) Unwrap() []error { return []error{e.error, e.broken} }

// afterBroken adds to err that an earlier try broke off, if one did.
func afterBroken(broken *brokenError, err error) error {
	if broken == nil || err == nil {
		return err
	}
	return &repeatedError{err, broken}
}

// isAway reports whether err is what connect answers while an agent restarts:
// no socket yet, a socket that nobody listens on, or one whose queue is full.
func isAway(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN)
}

// exchange sends one request over a connection of its own and returns status
// and body of the answer. It speaks HTTP/1.0, in which the end of the
// connection is the end of the answer, because that needs a dozen lines where
// net/http would double the start-up time of the plugin.
func exchange(ctx context.Context, socket, path string, body []byte) (int, []byte, error) {
	// To connect to a unix socket takes no time, and is tried even if ctx has
	// ended meanwhile: the error then says whether the agent is there.
	var d net.Dialer
	conn, err := d.DialContext(context.WithoutCancel(ctx), "unix", socket)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	var req bytes.Buffer
	fmt.Fprintf(&req, "POST %s HTTP/1.0\r\nHost: agent\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", path, len(body))
	if t, ok := ctx.Deadline(); ok {
		fmt.Fprintf(&req, "%s: %s\r\n", TimeoutHeader, agentTimeout(time.Until(t)))
	}
	req.WriteString("\r\n")
	req.Write(body)
	if _, err := conn.Write(req.Bytes()); err != nil {
		return 0, nil, &brokenError{err}
	}
	raw, err := io.ReadAll(io.LimitReader(conn, maxResponse))
	if err != nil {
		return 0, nil, &brokenError{err}
	}
	return parseResponse(raw)
}

// agentTimeout leaves the agent a little less time than the plugin has, so that
// its reason arrives before the plugin gives up.
func agentTimeout(left time.Duration) time.Duration {
	return max(left-min(left/10, time.Second), 0).Round(time.Millisecond)
}

// parseResponse splits an HTTP response whose body ends with the connection.
func parseResponse(raw []byte) (int, []byte, error) {
	head, body, whole := bytes.Cut(raw, []byte("\r\n\r\n"))
	if !whole {
		return 0, nil, &brokenError{io.ErrUnexpectedEOF}
	}
	lines := strings.Split(string(head), "\r\n")
	proto, rest, _ := strings.Cut(lines[0], " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if err != nil || !strings.HasPrefix(proto, "HTTP/1.") {
		return 0, nil, fmt.Errorf("agent answered %q, which is not HTTP", lines[0])
	}
	for _, line := range lines[1:] {
		key, value, _ := strings.Cut(line, ":")
		if !strings.EqualFold(key, "Content-Length") {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(value)); err != nil || n != len(body) {
			return 0, nil, &brokenError{io.ErrUnexpectedEOF}
		}
	}
	return status, body, nil
}

// decode turns an answer into out or an error.
func decode(path string, status int, answer []byte, out any) error {
	const ok = 200
	switch {
	case status == ok && out == nil:
		return nil
	case status == ok:
		if err := json.Unmarshal(answer, out); err != nil {
			return &AgentError{
				Code: CodeAgent, Reason: ReasonProtocol, Message: "the agent's answer cannot be read",
				Details: fmt.Sprintf("%s: %v", path, err),
			}
		}
		return nil
	}
	e := new(AgentError)
	if err := json.Unmarshal(answer, e); err == nil && e.Message != "" {
		return e
	}
	return &AgentError{
		Code: CodeAgent, Reason: ReasonProtocol, Message: "the agent does not speak this version of the protocol",
		Details: fmt.Sprintf("%s: HTTP status %d; plugin and agent should come from the same release", path, status),
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
