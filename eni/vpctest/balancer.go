// SPDX-License-Identifier: Apache-2.0

package vpctest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// BalancerInput describes a network load balancer.
type BalancerInput struct {
	// Subnet is the ID of its subnet; empty means the first one.
	Subnet string
	// Public makes the balancer internet-facing: the internet gateway passes flows to its
	// address, whether the targets have public addresses or not.
	Public bool
	// Groups are the security groups of its ENI, which decide about the health checks that it
	// sends. None means the default group of the VPC; its members accept the health checks.
	Groups    []string
	Listeners []Listener
}

// Listener passes the flows to a port of the balancer on to targets, each of which gets an
// equal share of the new flows.
type Listener struct {
	// Network is "tcp" or "udp".
	Network string
	// Port is the port of the balancer, 1 to 65535.
	Port uint16
	// Targets are IPv4 addresses with ports: [Node.Target], or the address of a pod.
	Targets []netip.AddrPort
	Check   HealthCheck
}

// HealthCheck describes how a balancer finds out which targets are healthy. The zero value
// opens a TCP connection to the port of the target every 100 ms.
type HealthCheck struct {
	// HTTPPath makes the balancer send an HTTP request for the path, which begins with "/".
	// Answers with the statuses 200 to 399 are good.
	HTTPPath string
	// Port is the port of the checks; 0 means that of the target.
	Port uint16
	// Interval is the time between two checks; 0 means 100 ms. Timeout is how long a check may
	// take; 0 means one second.
	Interval, Timeout time.Duration
	// Healthy and Unhealthy are the numbers of checks in succession, good or bad, that change
	// the state of a target; 0 means 2. The first check decides about the first state.
	Healthy, Unhealthy int
}

// Balancer is a network load balancer with an ENI that Elastic Load Balancing manages. It is
// safe for concurrent use.
//
// The targets see the address of the client, and their answers reach the client with the
// address of the balancer. The health checks come from the address of the balancer, so that
// the security groups of the targets must accept both. The balancer's own security groups do
// not decide about the flows of clients. A target that is not healthy gets no
// new flows; the flows that it has stay with it. If no target is healthy, new flows get no
// answer, whereas AWS would pass them on to all targets.
type Balancer struct {
	// Addr is the address of the balancer.
	Addr netip.Addr
	// ENI is the ID of its ENI.
	ENI string

	b *fabric.Balancer
}

// Balancer adds a network load balancer, which is removed when the test ends.
func (v *VPC) Balancer(t TB, in BalancerInput) *Balancer {
	t.Helper()
	b, err := v.addBalancer(in)
	fatal(t, err, "balancer")
	t.Cleanup(func() {
		if err := errors.Join(b.b.Err(), b.b.Close()); err != nil {
			t.Errorf("balancer: %v", err)
		}
	})
	return b
}

func (v *VPC) addBalancer(in BalancerInput) (*Balancer, error) {
	if in.Subnet == "" && len(v.Subnets) > 0 {
		in.Subnet = v.Subnets[0].ID
	}
	e, err := v.Cloud.AddForeignENI(enitest.ForeignENIInput{Subnet: in.Subnet, Service: enitest.NetworkLoadBalancer, Groups: in.Groups})
	if err != nil {
		return nil, err
	}
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return nil, err
	}
	s := fabric.Subnet{ID: e.Subnet, Zone: e.Zone, Prefixes: []netip.Prefix{e.SubnetPrefix}}
	if e.SubnetIPv6.IsValid() {
		s.Prefixes = append(s.Prefixes, e.SubnetIPv6)
	}
	if err := v.fabric.AddSubnet(s); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	v.mu.Lock()
	v.balancers++
	name := fmt.Sprintf("balancer-%d", v.balancers)
	v.mu.Unlock()
	out := fabric.BalancerInput{Name: name, ENI: fabric.ENI{ID: e.ID, MAC: mac, Subnet: e.Subnet, Addr: e.Addr, Groups: e.Groups, Public: in.Public}}
	for _, l := range in.Listeners {
		l.Targets = slices.Clone(l.Targets)
		out.Listeners = append(out.Listeners, fabric.Listener{Network: l.Network, Port: l.Port, Targets: l.Targets, Check: fabric.HealthCheck(l.Check)})
	}
	b, err := v.fabric.AddBalancer(out)
	if err != nil {
		return nil, err
	}
	return &Balancer{Addr: e.Addr, ENI: e.ID, b: b}, nil
}

// Target returns the node as an instance target: its primary address with a port, such as a
// node port.
func (n *Node) Target(port uint16) netip.AddrPort { return netip.AddrPortFrom(n.Addr, port) }

// At returns the address of the balancer with a port.
func (b *Balancer) At(port uint16) netip.AddrPort { return netip.AddrPortFrom(b.Addr, port) }

// Healthy returns the healthy targets of the listener on a port, in order.
func (b *Balancer) Healthy(network string, port uint16) []netip.AddrPort {
	return b.b.Healthy(network, port)
}

// WaitHealthy waits until the given targets of the listener on a port are the healthy ones. It
// ends the test if they are not within ten seconds.
func (b *Balancer) WaitHealthy(t TB, network string, port uint16, want ...netip.AddrPort) {
	t.Helper()
	want = slices.SortedFunc(slices.Values(want), netip.AddrPort.Compare)
	ctx, cancel := within(t, patience)
	defer cancel()
	have, err := retry(ctx, func(context.Context) ([]netip.AddrPort, error) {
		have := b.Healthy(network, port)
		if !slices.Equal(have, want) {
			return have, errors.New("not yet")
		}
		return have, nil
	})
	if err != nil {
		t.Fatalf("balancer %v: the healthy targets of %s port %d are %v, want %v", b.Addr, network, port, have, want)
	}
}
