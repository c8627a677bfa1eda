// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
)

// Config describes a simulation. Policy is required. For other fields the zero
// value means the default of the field.
type Config struct {
	// Name is the name of the policy in the report. Empty means its Go type.
	Name string
	// Policy is the configured policy of each node. The nodes run what
	// warmpool.AgentPolicy makes of it. Required.
	Policy warmpool.Policy
	// Limits are those of each node. Zero means those of an m5.xlarge: 4 ENIs
	// with 14 secondary addresses each, 58 pods.
	Limits warmpool.Limits
	// AddressChoice says which free address of the node a pod gets. Empty means
	// Pack.
	AddressChoice AddressChoice
	// Cooldown is the time until a released address can be allocated again. Zero
	// means 30 s, a negative value no cooldown.
	Cooldown time.Duration
	// Lead is the time between the binding of a pod, when the agent learns of it,
	// and its ADD. Zero means that the agent learns of a pod by its ADD.
	Lead time.Duration
	// Period is the time between two decisions of an agent. Zero means that the
	// agent decides at each change.
	Period time.Duration
	EC2    EC2
	Subnet Subnet
	// Seed is the seed of all randomness except that of the trace.
	Seed uint64
	// Sample is the time between two points of Report.Series. Zero means a 288th
	// of the trace, but at least 1 s.
	Sample time.Duration
	// Progress, if not nil, is called from time to time with the simulated time.
	Progress func(at time.Duration)
	// Decided, if not nil, is called with each decision, the number of the node,
	// which starts at 0, and the snapshot of the decision. The slices of the
	// snapshot are valid only until Decided returns.
	Decided func(node int, s warmpool.Snapshot, d warmpool.Decision)
}

// AddressChoice says which free address of the node a pod gets.
type AddressChoice string

// The choices.
const (
	// Pack chooses the first ENI with a free address, and there the fullest
	// prefix, as package ipam does. It is the default.
	Pack AddressChoice = "pack"
	// Spread chooses any free address at random, as amazon-vpc-cni-k8s does.
	Spread AddressChoice = "spread"
)

// EC2 gives the speed and the request limits of the EC2 API. Times are medians of
// a log-normal distribution.
type EC2 struct {
	// Call is the time of one API call. Zero means 250 ms.
	Call time.Duration
	// Visible is the time from the end of the call until a new address or prefix
	// can be used. Zero means 500 ms.
	Visible time.Duration
	// Attach is the time from the end of the attach call until the ENI is ready
	// on the node, Detach the time until a detached ENI can be deleted. Zero
	// means 4 s and 3 s.
	Attach, Detach time.Duration
	// Sigma is the standard deviation of the logarithm of the times. Zero means
	// 0.35, a negative value constant times.
	Sigma float64
	// Burst and Rate are the size of the token bucket of each mutating action and
	// its refill per second. The whole fleet shares the buckets. Zero means 50 and
	// 5, EC2's default for mutating actions
	// (https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html).
	// The buckets of describe actions have twice the size and refill.
	Burst, Rate float64
}

// Subnet is the VPC subnet of the fleet.
type Subnet struct {
	// Addresses is the size, a multiple of 16. Zero means 65536 (a /16). EC2
	// reserves five of them.
	Addresses int
	// Fragmented is the share of /28 blocks in which other users of the subnet
	// have an address, so that they cannot become prefixes.
	Fragmented float64
	// Backoff is how long a node treats the subnet as exhausted after EC2 has
	// refused a single slot. Zero means 2 minutes.
	Backoff time.Duration
}

func (c Config) withDefaults(t Trace) Config {
	if c.Name == "" {
		c.Name = fmt.Sprintf("%T", c.Policy)
	}
	if c.Limits == (warmpool.Limits{}) {
		c.Limits = warmpool.Limits{MaxENIs: 4, SlotsPerENI: 14, MaxPods: 58}
	}
	c.Limits.AddressesPerSlot = max(1, c.Limits.AddressesPerSlot)
	c.AddressChoice = cmp.Or(c.AddressChoice, Pack)
	c.Cooldown = max(0, cmp.Or(c.Cooldown, 30*time.Second))
	c.Sample = cmp.Or(c.Sample, max(time.Second, t.Horizon/288))
	e := &c.EC2
	e.Call = cmp.Or(e.Call, 250*time.Millisecond)
	e.Visible = cmp.Or(e.Visible, 500*time.Millisecond)
	e.Attach = cmp.Or(e.Attach, 4*time.Second)
	e.Detach = cmp.Or(e.Detach, 3*time.Second)
	e.Sigma = max(0, cmp.Or(e.Sigma, 0.35))
	e.Burst, e.Rate = cmp.Or(e.Burst, 50), cmp.Or(e.Rate, 5)
	c.Subnet.Addresses = cmp.Or(c.Subnet.Addresses, 1<<16)
	c.Subnet.Backoff = cmp.Or(c.Subnet.Backoff, 2*time.Minute)
	return c
}

// ErrTrace is the error for an invalid trace: events out of order, a pod that stops
// before it starts, or an unknown node.
var ErrTrace = errors.New("bad trace")

// Run simulates the policy on the trace. The same arguments give the same report
// on every machine. When ctx ends, Run returns early with its error. For an invalid
// trace it returns an error that wraps ErrTrace.
func Run(ctx context.Context, c Config, t Trace) (Report, error) {
	if c.Policy == nil {
		return Report{}, errors.New("sim: no policy, want Config.Policy")
	}
	if err := warmpool.CheckPolicy(c.Policy); err != nil {
		return Report{}, fmt.Errorf("sim: Config.Policy: %w", err)
	}
	if t.Nodes <= 0 || t.Horizon <= 0 {
		return Report{}, fmt.Errorf("sim: %w: %d nodes for %v, want at least 1 node and a positive time", ErrTrace, t.Nodes, t.Horizon)
	}
	c = c.withDefaults(t)
	if c.Limits.MaxENIs < 1 || c.Limits.SlotsPerENI < 1 {
		return Report{}, fmt.Errorf("sim: limits of %d ENIs with %d slots leave no room for pods", c.Limits.MaxENIs, c.Limits.SlotsPerENI)
	}
	e := newEngine(c, t)
	if err := e.run(ctx, t); err != nil {
		return Report{}, err
	}
	return e.report(), nil
}
