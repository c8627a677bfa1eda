// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// BalancerInput describes a network load balancer in one subnet.
type BalancerInput struct {
	// Name is the name of the balancer's namespace.
	Name string
	// ENI is the balancer's ENI: ID, MAC, Subnet, Addr, and optionally Addrs. AddBalancer
	// attaches it.
	ENI       ENI
	Listeners []Listener
}

// Listener passes the flows to a port of the balancer on to targets. The targets see the
// address of the client.
type Listener struct {
	// Network is "tcp" or "udp".
	Network string
	Port    uint16
	// Targets are addresses in the VPC, of a node or a pod, with ports.
	Targets []netip.AddrPort
	Check   HealthCheck
}

// HealthCheck describes how the balancer finds out which targets are healthy.
type HealthCheck struct {
	// HTTPPath makes the balancer send a request for the path, which begins with "/".
	// Answers with the statuses 200 to 399 are good. With "" it only opens a TCP
	// connection.
	HTTPPath string
	// Port is the port of the checks; 0 means that of the target.
	Port uint16
	// Interval is the time between two checks; 0 means 100 ms. Timeout is how long a
	// check may take; 0 means one second.
	Interval, Timeout time.Duration
	// Healthy and Unhealthy are the numbers of checks in succession, good or bad, that
	// change the state of a target; 0 means 2. The first check of a target alone decides
	// about its first state.
	Healthy, Unhealthy int
}

func (c HealthCheck) withDefaults() HealthCheck {
	c.Interval, c.Timeout = cmp.Or(c.Interval, 100*time.Millisecond), cmp.Or(c.Timeout, time.Second)
	c.Healthy, c.Unhealthy = cmp.Or(c.Healthy, 2), cmp.Or(c.Unhealthy, 2)
	return c
}

func (l Listener) validate() error {
	var errs []error
	if l.Network != "tcp" && l.Network != "udp" {
		errs = append(errs, fmt.Errorf("network %q is neither tcp nor udp", l.Network))
	}
	if l.Port == 0 {
		errs = append(errs, errors.New("port is 0, want 1 to 65535"))
	}
	for _, t := range l.Targets {
		if !t.IsValid() || t.Port() == 0 {
			errs = append(errs, fmt.Errorf("target %q is not an address with a port", t))
		}
	}
	c := l.Check
	if c.HTTPPath != "" && c.HTTPPath[0] != '/' {
		errs = append(errs, fmt.Errorf("health check: path %q does not begin with /", c.HTTPPath))
	}
	if c.Interval < 0 || c.Timeout < 0 || c.Healthy < 0 || c.Unhealthy < 0 {
		errs = append(errs, fmt.Errorf("health check: %+v has a negative value", c))
	}
	return errors.Join(errs...)
}

// health is the state of a target.
type health struct {
	known, healthy bool
	// opposed is the number of the last checks that disagreed with healthy.
	opposed int
}

// after returns the state after a check. A target without a check is not healthy.
func (h health) after(good bool, c HealthCheck) health {
	if !h.known {
		return health{known: true, healthy: good}
	}
	if good == h.healthy {
		h.opposed = 0
		return h
	}
	needed := c.Unhealthy
	if good {
		needed = c.Healthy
	}
	if h.opposed++; h.opposed >= needed {
		return health{known: true, healthy: good}
	}
	return h
}
