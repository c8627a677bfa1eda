// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// ClientConfig configures a Client. The zero value is useful.
type ClientConfig struct {
	// MetadataEndpoint is the base URL of the instance metadata service, for
	// example "http://169.254.169.254". Optional; empty means the SDK's default.
	MetadataEndpoint string
	// ReadRate and WriteRate are the calls a second to EC2 that describe and
	// that change something, ReadBurst and WriteBurst how many may come at
	// once. Optional; defaults 4, 2, 8 and 8.
	ReadRate, WriteRate   float64
	ReadBurst, WriteBurst int
	// Attempts is how often a call is tried in all if EC2 throttles, or the
	// network fails a call that can be repeated. Optional; default 6.
	Attempts int
	// Timeout bounds each try. Optional; default 10 seconds.
	Timeout time.Duration
	// Coalesce is how long a describe waits for others to join it. Optional;
	// default 0, which joins only those that come while one waits for its turn.
	Coalesce time.Duration
	// Random returns a number in [0,1) for jitter. Optional.
	Random func() float64
	// OnCall is told of every try when it has ended. It must not block.
	// Optional.
	OnCall func(Call)
}

// Call is one try of one call to EC2, for metrics and logs.
type Call struct {
	Action   string // "AttachNetworkInterface"
	Caller   string // from WithCaller
	Priority Priority
	// Waited is the time spent on waiting for the budget, Took the time
	// from sending to the answer.
	Waited, Took time.Duration
	// Code is EC2's error code, "error" for a failure without one, or empty.
	Code string
}

// Priority orders calls that wait for the budget.
type Priority uint8

// The priorities, lowest first. The default is PriorityRefill.
const (
	PriorityAudit   Priority = iota + 1 // nobody waits for it
	PriorityRelease                     // gives addresses back
	PriorityRefill                      // fills the warm pool
	PriorityPod                         // a pod waits
)

// Client makes all calls to EC2 and the instance metadata service. It is safe
// for concurrent use.
type Client struct {
	cfg ClientConfig
}

// NewClient returns a Client with the region, credentials, HTTP client and
// endpoints of cfg. It makes no calls. The SDK's own retries are switched off;
// the Client retries within its budget.
func NewClient(cfg aws.Config, opts ClientConfig) *Client { return &Client{cfg: opts} }

// WithCaller names who makes the calls of ctx, for the accounting.
func WithCaller(ctx context.Context, name string) context.Context { return ctx }

// WithPriority sets the priority of the calls of ctx.
func WithPriority(ctx context.Context, p Priority) context.Context { return ctx }
