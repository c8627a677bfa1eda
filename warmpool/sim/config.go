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

// Config describes the world in which a policy is tried. The zero value of
// each field but Policy means the default given with it.
type Config struct {
	// Name stands in the report. Empty means the policy's type.
	Name string
	// Policy of each node, as it is configured there. It runs as
	// warmpool.AgentPolicy composes it. Required.
	Policy warmpool.Policy
	// Limits of each node. Zero means those of an m5.xlarge: 4 ENIs with 14
	// secondary addresses each, 58 pods.
	Limits warmpool.Limits
	// Placement of pods over the addresses of a node.
	Placement Placement
	// Cooldown is how long a released address rests. Zero means 30 s, negative none.
	Cooldown time.Duration
	// Lead is how long before its ADD a bound pod is known to the agent. Zero
	// means that the agent learns of a pod by its ADD.
	Lead time.Duration
	// Period makes each agent look only so often. Zero means at each change.
	Period time.Duration
	EC2    EC2
	Subnet Subnet
	// Seed of all that is random but the trace.
	Seed uint64
	// Sample is the distance of the points of Report.Series. Zero means a
	// 288th of the trace.
	Sample time.Duration
	// Progress, if not nil, is called now and then with the simulated time.
	Progress func(at time.Duration)
	// Decided, if not nil, is called with each decision of a node, from 0 on,
	// and the snapshot that led to it. The snapshot's slices are valid only
	// until it returns.
	Decided func(node int, s warmpool.Snapshot, d warmpool.Decision)
}

// Placement is the choice of an address for a pod.
type Placement string

// The placements.
const (
	// Pack takes the first ENI with a free address and its fullest prefix, as
	// package ipam does. It is the default.
	Pack Placement = "pack"
	// Spread takes any free address, as amazon-vpc-cni-k8s does.
	Spread Placement = "spread"
)

// EC2 is how fast the control plane is and how much it bears. Times are
// medians of a log-normal distribution.
type EC2 struct {
	// Call is the time of one API call. Zero means 250 ms.
	Call time.Duration
	// Visible is the time from the call until a new address or prefix can be
	// used. Zero means 500 ms.
	Visible time.Duration
	// Attach is the time from the attach call until the interface is ready on
	// the node; Detach the time until a detached one can be deleted. Zero
	// means 4 s and 3 s.
	Attach, Detach time.Duration
	// Sigma is the width of the distribution. Zero means 0.35, negative none.
	Sigma float64
	// Burst and Rate are the token bucket that each mutating action has in the
	// account; the whole fleet shares it. Zero means 50 and 5 a second, EC2's
	// default for mutating actions
	// (https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html).
	// Describe calls have twice that.
	Burst, Rate float64
}

// Subnet is what the fleet's addresses come from.
type Subnet struct {
	// Addresses is the size, a multiple of 16. Zero means 65536 (a /16); EC2
	// keeps five of them.
	Addresses int
	// Fragmented is the share of /28 blocks in which somebody else has an
	// address, so that no prefix can be had there.
	Fragmented float64
	// Backoff is how long a node takes the subnet for exhausted after it was
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
	c.Placement = cmp.Or(c.Placement, Pack)
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

// ErrTrace is returned for a trace that is not one: out of order, a pod that
// leaves before it comes, a node that is not there.
var ErrTrace = errors.New("bad trace")

// Run simulates the policy over the trace. The same arguments give the same
// report, whatever the machine. It returns early with the context's error when
// that ends, and an error that wraps ErrTrace for a bad trace.
func Run(ctx context.Context, c Config, t Trace) (Report, error) {
	if c.Policy == nil {
		return Report{}, errors.New("sim: no policy")
	}
	if t.Nodes <= 0 || t.Horizon <= 0 {
		return Report{}, fmt.Errorf("sim: %w: %d nodes for %v", ErrTrace, t.Nodes, t.Horizon)
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
