// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// ClientConfig configures a Client. The zero value is useful.
type ClientConfig struct {
	// MetadataEndpoint is the base URL of the instance metadata service, for
	// example "http://169.254.169.254". Optional; empty means the URL of the SDK
	// configuration, or the SDK's default.
	MetadataEndpoint string
	// Endpoint is the URL of the EC2 API. Optional; empty means the URL of the SDK
	// configuration and its environment, or else that of the region.
	Endpoint string
	// ReadRate and WriteRate limit the calls to EC2 that describe and that change
	// something, in calls a second. ReadBurst and WriteBurst are the numbers of
	// calls allowed at once. Optional; defaults 4, 2, 8 and 8.
	ReadRate, WriteRate   float64
	ReadBurst, WriteBurst int
	// Attempts is the total number of tries of a call when EC2 throttles, or when
	// the network fails and the call can be repeated. Optional; default 6.
	Attempts int
	// Timeout limits each try. Optional; default 10 seconds.
	Timeout time.Duration
	// Coalesce is how long a describe call for one ENI waits for others, which it
	// then covers too. Optional; default 0, with which it covers only those that
	// come while it waits for the budget.
	Coalesce time.Duration
	// Random returns a number in [0,1) for jitter. Optional; default
	// math/rand/v2.
	Random func() float64
	// OnCall is called after every try. It must not block. Optional.
	OnCall func(Call)
}

// Call is one try of one call to EC2, for metrics and logs.
type Call struct {
	Action   string // "AttachNetworkInterface"
	Caller   string // from WithCaller
	Priority Priority
	// Waited is the time spent on waiting for the budget, Took the time from
	// sending the request to the answer.
	Waited, Took time.Duration
	// Code is EC2's error code, "no-credentials" for a call that could not be signed
	// and was not sent, "error" for another failure without a code of EC2, or empty.
	Code string
	// Unknown says that this package does not know the Code. The Manager then
	// looks at the state of the object and tries again later.
	Unknown bool
	// ClockSkew is how far EC2's clock is ahead of that of this node, if EC2
	// refused the try because of that, or 0. The Client repeats such a call at
	// once, signed with EC2's time.
	ClockSkew time.Duration
}

// Client makes all calls to EC2 and the instance metadata service. It is safe
// for concurrent use.
type Client struct {
	cfg           ClientConfig
	ec2           *ec2.Client
	imds          *imds.Client
	reads, writes *budget
	spacing       spacing
	skew          atomic.Int64 // of the latest refusal that was due to a clock
	batch         batcher
}

// NewClient returns a Client with the region, credentials, HTTP client and
// endpoints of cfg. It makes no calls. The SDK's own retries are switched off
// for EC2; the Client retries within its budget. After a call that changes something
// has failed, further calls of the same action wait, for longer after each failure in
// a row, up to 30 seconds.
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
		ec2: ec2.NewFromConfig(cfg, func(o *ec2.Options) {
			o.Retryer, o.Credentials = aws.NopRetryer{}, nameCredentials(o.Credentials)
			o.APIOptions = append(o.APIOptions, checkAnswers)
			if opts.Endpoint != "" {
				o.BaseEndpoint = aws.String(opts.Endpoint)
			}
		}),
		imds: imds.NewFromConfig(cfg, func(o *imds.Options) {
			o.Endpoint = cmp.Or(opts.MetadataEndpoint, o.Endpoint)
			o.HTTPClient = withoutProxy(o.HTTPClient)
		}),
		reads:   newBudget(opts.ReadRate, opts.ReadBurst),
		writes:  newBudget(opts.WriteRate, opts.WriteBurst),
		spacing: spacing{next: map[string]nextCall{}},
	}
}

type contextKey int

const (
	callerKey contextKey = iota
	priorityKey
	oneAnswerKey
)

// withOneAnswer makes the calls with ctx retry only after throttling, because the
// caller has another source.
func withOneAnswer(ctx context.Context) context.Context {
	return context.WithValue(ctx, oneAnswerKey, true)
}

// WithCaller names the caller of the calls made with ctx, for Call.Caller.
func WithCaller(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, callerKey, name)
}

// WithPriority sets the priority of the calls made with ctx.
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

// callKind says what happens if a call is sent twice.
type callKind uint8

const (
	read       callKind = iota // the call changes nothing
	repeatable                 // the call changes something only the first time
	once                       // the call changes something each time, or fails the second time
)

// call makes one call within its budget. It retries when EC2 throttles, and when
// the answer of a repeatable call is lost. The error is an *OpError.
func (c *Client) call(ctx context.Context, action string, kind callKind, do func(context.Context) error) error {
	return c.callIf(ctx, action, kind, nil, do)
}

// condition returns nil if a call may still be made, and else an *OpError.
type condition func(ctx context.Context) error

// callIf is call with a condition. It checks the condition before each try, after
// the wait for the budget, which can take minutes. It ends without a further try
// if the condition fails. A nil condition always holds.
func (c *Client) callIf(ctx context.Context, action string, kind callKind, allowed condition, do func(context.Context) error) error {
	b := c.writes
	if kind == read {
		b = c.reads
	}
	lost, skewed := false, false
	for try := 1; ; try++ {
		begin := time.Now()
		if err := c.waitTurn(ctx, action, kind, b); err != nil {
			err.lost = lost
			return err
		}
		if allowed != nil {
			if err := allowed(ctx); err != nil {
				return conditionError(err, lost)
			}
		}
		sent := time.Now()
		failed := c.try(ctx, action, do)
		c.report(Call{
			Action: action, Caller: callerOf(ctx), Priority: priorityOf(ctx),
			Waited: sent.Sub(begin), Took: time.Since(sent),
		}, failed)
		if kind != read {
			c.spacing.record(action, failed, c.cfg.Random())
		}
		if failed == nil {
			b.answered()
			return nil
		}
		if failed.reason == ReasonThrottled {
			b.throttled()
		}
		// A refusal of this try does not rule out that an earlier one, which lost
		// its answer, was executed.
		lost = lost || failed.lost
		failed.lost = lost
		if failed.clock && !skewed && ctx.Err() == nil {
			skewed = true // the SDK signs the next try with EC2's time
			continue
		}
		repeat := kind != once && ctx.Value(oneAnswerKey) == nil
		again := failed.reason == ReasonThrottled || failed.reason == ReasonUnreachable && repeat ||
			failed.reason == ReasonUnknown && repeat && try < unknownAttempts
		if !again || try >= c.cfg.Attempts || ctx.Err() != nil {
			return failed
		}
		first := backoffFirst
		if failed.reason == ReasonThrottled && priorityOf(ctx) < PriorityPod {
			first = backoffThrottled
		}
		if sleep(ctx, backoff(first, try, c.cfg.Random())) != nil {
			return failed
		}
	}
}

// waitTurn waits until a call may be sent. It returns an error if ctx ends before.
func (c *Client) waitTurn(ctx context.Context, action string, kind callKind, b *budget) *OpError {
	begin := time.Now()
	var err error
	if kind != read {
		err = c.spacing.wait(ctx, action)
	}
	if err == nil {
		err = b.wait(ctx, priorityOf(ctx))
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		return nil
	}
	reason := ReasonUnreachable
	if b.slowed() {
		reason = ReasonThrottled
	}
	return &OpError{Op: action, reason: reason, unsent: true, Err: fmt.Errorf("not sent in %v: %w", time.Since(begin), err)}
}

// conditionError returns the error of a call that its condition forbade. lost says
// that the answer to an earlier try was lost.
func conditionError(err error, lost bool) error {
	var op *OpError
	if !errors.As(err, &op) {
		return err
	}
	vetoed := *op
	vetoed.inUseVeto, vetoed.lost = true, lost
	return &vetoed
}

// try makes one try, limited by the timeout.
func (c *Client) try(parent context.Context, action string, do func(context.Context) error) *OpError {
	ctx, cancel := context.WithTimeout(parent, c.cfg.Timeout)
	defer cancel()
	err := do(ctx)
	failed := translate(action, err)
	if failed == nil {
		return nil
	}
	if failed.unsent && parent.Err() != nil {
		failed.reason = ReasonUnreachable // the caller gave up while the credentials were fetched
	}
	c.blameClock(failed, err)
	return failed
}

// report passes a try, which may have failed, to ClientConfig.OnCall.
func (c *Client) report(call Call, failed *OpError) {
	if failed != nil {
		call.Code, call.Unknown = cmp.Or(failed.Code, "error"), failed.reason == ReasonUnknown
		call.ClockSkew = failed.skew
		if errors.Is(failed, ErrNoCredentials) {
			call.Code = "no-credentials"
		}
	}
	if c.cfg.OnCall != nil {
		c.cfg.OnCall(call)
	}
}

// Bounds of the wait between tries of one call. When EC2 throttles and no pod
// waits, the first wait is longer: in a fleet of 500 nodes that start at the same
// time this halves the number of throttled calls, and the last node takes a tenth
// longer.
const (
	backoffFirst     = time.Second
	backoffThrottled = 4 * time.Second
	backoffMax       = 30 * time.Second
)

// unknownAttempts is the number of tries of a call that EC2 refuses with a code
// that this package does not know. Such a refusal may last, so it is less than
// ClientConfig.Attempts.
const unknownAttempts = 3

// backoff returns the wait after a try. Its upper bound doubles with each try. The
// wait is between a tenth of the bound and the bound, so that nodes that were
// throttled together do not retry together.
func backoff(first time.Duration, try int, random float64) time.Duration {
	bound := min(backoffMax, first<<min(try-1, 6))
	return bound/10 + time.Duration(random*0.9*float64(bound))
}

// sleep waits for d. It returns the error of ctx if ctx ends first.
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
