// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// ClientConfig configures a Client. The zero value is useful.
type ClientConfig struct {
	// MetadataEndpoint is the base URL of the instance metadata service, for
	// example "http://169.254.169.254". Optional; empty means what the SDK
	// configuration says, or its default.
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

// Client makes all calls to EC2 and the instance metadata service. It is safe
// for concurrent use.
type Client struct {
	cfg           ClientConfig
	ec2           *ec2.Client
	imds          *imds.Client
	reads, writes *budget
	batch         batcher

	mu    sync.Mutex
	spent map[Account]Spending
}

// NewClient returns a Client with the region, credentials, HTTP client and
// endpoints of cfg. It makes no calls. The SDK's own retries are switched off
// for EC2; the Client retries within its budget.
func NewClient(cfg aws.Config, opts ClientConfig) *Client {
	opts.ReadRate = cmp.Or(opts.ReadRate, 4)
	opts.WriteRate = cmp.Or(opts.WriteRate, 2)
	opts.ReadBurst = cmp.Or(opts.ReadBurst, 8)
	opts.WriteBurst = cmp.Or(opts.WriteBurst, 8)
	opts.Attempts = cmp.Or(opts.Attempts, 6)
	opts.Timeout = cmp.Or(opts.Timeout, 10*time.Second)
	if opts.Random == nil {
		opts.Random = rand.Float64
	}
	return &Client{
		cfg: opts,
		ec2: ec2.NewFromConfig(cfg, func(o *ec2.Options) { o.Retryer = aws.NopRetryer{} }),
		imds: imds.NewFromConfig(cfg, func(o *imds.Options) {
			o.Endpoint = cmp.Or(opts.MetadataEndpoint, o.Endpoint)
		}),
		reads:  newBudget(opts.ReadRate, opts.ReadBurst),
		writes: newBudget(opts.WriteRate, opts.WriteBurst),
		spent:  map[Account]Spending{},
	}
}

// Account is who spent calls on what.
type Account struct {
	Caller, Action string
}

// Spending is how many tries were made, and how they ended.
type Spending struct {
	Tries, Throttled, Failed int
}

// Spent is what was called so far, by caller and action. Calls to the metadata
// service are not counted; EC2 does not limit them.
func (c *Client) Spent() map[Account]Spending {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[Account]Spending, len(c.spent))
	for k, v := range c.spent {
		out[k] = v
	}
	return out
}

type contextKey int

const (
	callerKey contextKey = iota
	priorityKey
)

// WithCaller names who makes the calls of ctx, for the accounting.
func WithCaller(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, callerKey, name)
}

// WithPriority sets the priority of the calls of ctx.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey, p)
}

func callerOf(ctx context.Context) string {
	name, _ := ctx.Value(callerKey).(string)
	return name
}

func priorityOf(ctx context.Context) Priority {
	p, ok := ctx.Value(priorityKey).(Priority)
	if !ok {
		return PriorityRefill
	}
	return p
}

// nature is what repeating a call does.
type nature uint8

const (
	read       nature = iota // changes nothing
	repeatable               // changes something, but only once however often it is sent
	once                     // changes something each time, or fails the second time
)

// call makes one call within its budget. It tries again when EC2 throttles, and
// when the answer is lost of a call that can be repeated. The error is an
// *OpError.
func (c *Client) call(ctx context.Context, action string, n nature, do func(context.Context) error) error {
	return c.callIf(ctx, action, n, nil, do)
}

// condition says whether a call may still be made; its error is an *OpError.
type condition func(ctx context.Context) error

// callIf is call with a condition that is checked before each try, after the
// wait for the budget: that wait can take minutes. An unmet condition ends the
// call. A nil condition always holds.
func (c *Client) callIf(ctx context.Context, action string, n nature, may condition, do func(context.Context) error) error {
	b := c.writes
	if n == read {
		b = c.reads
	}
	lost := false
	for try := 1; ; try++ {
		begin := time.Now()
		if err := b.wait(ctx, priorityOf(ctx)); err != nil {
			return &OpError{Op: action, Why: ReasonThrottled, Err: err}
		}
		if may != nil {
			if err := may(ctx); err != nil {
				return notMade(err, lost)
			}
		}
		sent := time.Now()
		failed := c.try(ctx, action, do)
		c.account(ctx, Call{
			Action: action, Caller: callerOf(ctx), Priority: priorityOf(ctx),
			Waited: sent.Sub(begin), Took: time.Since(sent),
		}, failed)
		if failed == nil {
			b.answered()
			return nil
		}
		if failed.Why == ReasonThrottled {
			b.throttled()
		}
		// A refusal says nothing about an earlier try whose answer was lost.
		lost = lost || failed.lost
		failed.lost = lost
		again := failed.Why == ReasonThrottled || failed.Why == ReasonUnreachable && n != once
		if !again || try >= c.cfg.Attempts || ctx.Err() != nil {
			return failed
		}
		first := backoffFirst
		if failed.Why == ReasonThrottled && priorityOf(ctx) < PriorityPod {
			first = backoffThrottled
		}
		if sleep(ctx, backoff(first, try, c.cfg.Random())) != nil {
			return failed
		}
	}
}

// notMade is the error of a call whose condition did not hold. lost says that the
// answer to an earlier try was lost.
func notMade(err error, lost bool) error {
	var op *OpError
	if !errors.As(err, &op) {
		return err
	}
	held := *op
	held.unmet, held.lost = true, lost
	return &held
}

// try makes one try, bounded by the timeout.
func (c *Client) try(ctx context.Context, action string, do func(context.Context) error) *OpError {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	return translate(action, do(ctx))
}

func (c *Client) account(ctx context.Context, call Call, failed *OpError) {
	c.mu.Lock()
	key := Account{Caller: callerOf(ctx), Action: call.Action}
	s := c.spent[key]
	s.Tries++
	if failed != nil {
		call.Code = cmp.Or(failed.Code, "error")
		s.Failed++
		if failed.Why == ReasonThrottled {
			s.Throttled++
		}
	}
	c.spent[key] = s
	c.mu.Unlock()
	if c.cfg.OnCall != nil {
		c.cfg.OnCall(call)
	}
}

// Bounds of the wait between tries of one call. When EC2 throttles, the first
// wait is longer, unless a pod waits: in a fleet of 500 nodes that start at once
// this halves the calls made in vain and costs the last node a tenth more time.
const (
	backoffFirst     = time.Second
	backoffThrottled = 4 * time.Second
	backoffMost      = 30 * time.Second
)

// backoff is the wait after the given try: twice as long each time, and
// anything between a tenth and all of it, so that a fleet that was throttled
// together does not come back together.
func backoff(first time.Duration, try int, random float64) time.Duration {
	most := min(backoffMost, first<<min(try-1, 6))
	return most/10 + time.Duration(random*0.9*float64(most))
}

// sleep waits for d or the end of ctx, whose error it returns.
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
