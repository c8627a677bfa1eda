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

// TimeoutHeader is the HTTP header that tells the agent how long the plugin will
// wait, in the format of [time.Duration.String]. The agent answers before that,
// if only with the reason why it cannot serve the call.
const TimeoutHeader = "Vpcnet-Timeout"

const (
	// The first and the longest pause between two attempts to reach the agent. An
	// agent restarts within about 100 ms, and an attempt costs very little.
	firstPause = 5 * time.Millisecond
	maxPause   = 200 * time.Millisecond

	// maxResponse bounds the answer of an agent. The answer to a GC of a full node
	// has about 200 kB.
	maxResponse = 4 << 20
)

// Client calls the agent. It is safe for concurrent use; each call opens its own
// connection. Every call ends when ctx ends, or earlier. An error is an
// [*AgentError] if the agent answered, and wraps [ErrAgentAway] if no agent did.
//
// Every call of the protocol can be repeated, so the client repeats a call if the
// connection breaks because the agent restarts.
type Client struct {
	// Socket is the path of the agent's socket. Empty means DefaultSocket.
	Socket string
	// Wait is how long a call tries to reach an agent that is away, for example
	// because it restarts. Zero means one attempt.
	Wait time.Duration
}

// Add allocates the addresses of an attachment.
func (c Client) Add(ctx context.Context, req AddRequest) (AddResponse, error) {
	var resp AddResponse
	err := c.call(ctx, PathAdd, req, &resp)
	return resp, err
}

// Del releases the addresses of an attachment.
func (c Client) Del(ctx context.Context, req DelRequest) (DelResponse, error) {
	var resp DelResponse
	err := c.call(ctx, PathDel, req, &resp)
	return resp, err
}

// Check returns the addresses that an attachment holds.
func (c Client) Check(ctx context.Context, req CheckRequest) (AddResponse, error) {
	var resp AddResponse
	err := c.call(ctx, PathCheck, req, &resp)
	return resp, err
}

// GC returns the attachments that hold addresses and are not in req.Valid.
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
	var away time.Time // since when the agent has accepted no connection
	var broken *brokenError
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		status, answer, err := exchange(ctx, socket, path, body)
		if err == nil {
			return joinBroken(broken, decode(path, status, answer, out))
		}
		if ctx.Err() != nil && !isAway(err) {
			return &timeoutError{socket, ctx.Err()}
		}
		switch {
		case errors.As(err, &broken): // the agent accepted the connection, then ended: it restarts
			away = time.Time{}
		case errors.As(err, new(*AgentError)):
			return err
		case !isAway(err):
			return fmt.Errorf("%w: %w", ErrAgentAway, err)
		}
		if away.IsZero() {
			away = time.Now()
		}
		if time.Since(away)+pause > c.Wait || sleep(ctx, pause) != nil {
			return joinBroken(broken, fmt.Errorf("%w: %w", ErrAgentAway, err))
		}
	}
}

// timeoutError means that the agent at socket did not answer before ctx ended.
type timeoutError struct {
	socket string
	err    error // of the context
}

func (e *timeoutError) Error() string { return "the agent at " + e.socket + " did not answer in time" }
func (e *timeoutError) Unwrap() error { return e.err }

// brokenError means that a connection ended before the complete answer arrived.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return "connection to the agent broke off: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// repeatedError is the error of a call that was sent at least twice: the agent
// ended after an earlier attempt, and may have carried out the call. It wraps
// both errors, and its text is that of the last one.
type repeatedError struct {
	error
	broken *brokenError
}

func (e *repeatedError) Unwrap() []error { return []error{e.error, e.broken} }

// joinBroken adds the broken connection of an earlier attempt to err, if there
// was one.
func joinBroken(broken *brokenError, err error) error {
	if broken == nil || err == nil {
		return err
	}
	return &repeatedError{err, broken}
}

// isAway reports whether err is an error that connect returns while an agent
// restarts: the socket does not exist yet, no process listens on it, or its queue
// is full.
func isAway(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN)
}

// exchange sends one request over a new connection and returns the status and
// body of the answer. It speaks HTTP/1.0, in which the end of the connection is
// the end of the answer. That takes a dozen lines, and net/http would double the
// start-up time of the plugin.
func exchange(ctx context.Context, socket, path string, body []byte) (int, []byte, error) {
	// Connecting to a unix socket takes no time. It is tried even if ctx has ended,
	// because the error then shows whether the agent is running.
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

// agentTimeout returns the time that the agent has for its answer: a little less
// than the plugin has left, so that the agent's reason arrives before the plugin
// gives up.
func agentTimeout(left time.Duration) time.Duration {
	return max(left-min(left/10, time.Second), 0).Round(time.Millisecond)
}

// parseResponse splits an HTTP response. The body ends with the connection.
func parseResponse(raw []byte) (int, []byte, error) {
	head, body, found := bytes.Cut(raw, []byte("\r\n\r\n"))
	if !found {
		return 0, nil, &brokenError{io.ErrUnexpectedEOF}
	}
	lines := strings.Split(string(head), "\r\n")
	proto, rest, _ := strings.Cut(lines[0], " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if err != nil || !strings.HasPrefix(proto, "HTTP/1.") {
		return 0, nil, &AgentError{
			Code: CodeAgent, Reason: ReasonProtocol, Message: "the process at the agent's socket is not an agent",
			Details: fmt.Sprintf("it answered %s, want an HTTP response", shorten(lines[0])),
		}
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

// decode decodes an answer into out, or returns the error that it contains.
func decode(path string, status int, answer []byte, out any) error {
	const ok = 200
	switch {
	case status == ok && out == nil:
		return nil
	case status == ok:
		if err := json.Unmarshal(answer, out); err != nil {
			return &AgentError{
				Code: CodeAgent, Reason: ReasonProtocol, Message: "the plugin cannot read the agent's answer",
				Details: fmt.Sprintf("%s: %v", path, err),
			}
		}
		return nil
	}
	e := new(AgentError)
	if err := json.Unmarshal(answer, e); err == nil && *e != (AgentError{}) {
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
