// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"errors"
	"time"
)

// Client calls the agent. It is safe for concurrent use; each call makes a
// connection of its own. Every call ends with ctx at the latest. An error is an
// [*AgentError] if the agent answered, and wraps [ErrAgentAway] if nobody did.
type Client struct {
	// Socket is the path of the agent's socket. Empty means DefaultSocket.
	Socket string
	// Wait is how long a call tries to reach an agent that is away, for example
	// because it restarts. Zero means one try.
	Wait time.Duration
}

// Add asks for the addresses of an attachment.
func (c Client) Add(ctx context.Context, req AddRequest) (AddResponse, error) {
	return AddResponse{}, errors.ErrUnsupported
}

// Del gives the addresses of an attachment back.
func (c Client) Del(ctx context.Context, req DelRequest) error { return errors.ErrUnsupported }

// Check returns what an attachment holds.
func (c Client) Check(ctx context.Context, req CheckRequest) (AddResponse, error) {
	return AddResponse{}, errors.ErrUnsupported
}

// GC releases what attachments outside of req.Valid hold.
func (c Client) GC(ctx context.Context, req GCRequest) error { return errors.ErrUnsupported }

// Status returns nil if an Add would be served now.
func (c Client) Status(ctx context.Context) error { return errors.ErrUnsupported }
