// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vpctest_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// balanced is a client, two targets with echo servers, and a balancer with a listener for TCP
// and one for UDP. The health checks open TCP connections to the echo servers.
type balanced struct {
	vpc      *vpctest.VPC
	client   *vpctest.Node
	targets  [2]*vpctest.Node
	stop     [2]func()
	balancer *vpctest.Balancer
	captures [2]*vpctest.Capture
}

const nodePort = 30080

func newBalanced(t *testing.T) *balanced {
	t.Helper()
	b := &balanced{vpc: vpctest.New(t)}
	b.client = b.vpc.Node(t, "m5.large")
	in := vpctest.BalancerInput{Listeners: []vpctest.Listener{
		{Network: "tcp", Port: 80, Check: vpctest.HealthCheck{Interval: 20 * time.Millisecond}},
		{Network: "udp", Port: 53, Check: vpctest.HealthCheck{Interval: 20 * time.Millisecond}},
	}}
	for i := range b.targets {
		n := b.vpc.Node(t, "m5.large")
		b.targets[i], b.stop[i] = n, n.Echo(t, netip.AddrPortFrom(netip.IPv4Unspecified(), nodePort))
		b.captures[i] = n.Capture(t, "ens5")
		for j := range in.Listeners {
			in.Listeners[j].Targets = append(in.Listeners[j].Targets, n.Target(nodePort))
		}
	}
	b.balancer = b.vpc.Balancer(t, in)
	b.waitHealthy(t, 0, 1)
	return b
}

// waitHealthy waits until the targets with the given numbers are the healthy ones.
func (b *balanced) waitHealthy(t *testing.T, numbers ...int) {
	t.Helper()
	var want []netip.AddrPort
	for _, i := range numbers {
		want = append(want, b.targets[i].Target(nodePort))
	}
	b.balancer.WaitHealthy(t, "tcp", 80, want...)
	b.balancer.WaitHealthy(t, "udp", 53, want...)
}

// flows counts the flows of the client, by source port, that target i has received so far.
func (b *balanced) flows(t *testing.T, i int) int {
	t.Helper()
	ports := map[string]bool{}
	for _, p := range b.captures[i].Packets(t) {
		if p.Src.Addr() == b.client.Addr && p.Dst == b.targets[i].Target(nodePort) {
			ports[fmt.Sprint(p.Protocol, p.Src)] = true
		}
	}
	return len(ports)
}

// TestBalancer checks the address that the targets see, the shares of the targets, and what
// happens when one becomes unhealthy and healthy again.
func TestBalancer(t *testing.T) {
	b := newBalanced(t)
	const rounds = 6
	ask := func() {
		for range rounds {
			for network, port := range map[string]uint16{"tcp": 80, "udp": 53} {
				if seen := b.client.Ask(t, network, b.balancer.At(port)); seen.Addr() != b.client.Addr {
					t.Errorf("over %s the target sees %v, want the client %v", network, seen.Addr(), b.client.Addr)
				}
			}
		}
	}
	ask()
	// Each of the two listeners gives the targets a flow in turn; Ask may need several flows.
	if one, two := b.flows(t, 0), b.flows(t, 1); one+two < 2*rounds || max(one, two)-min(one, two) > 2 {
		t.Errorf("the targets got %d and %d flows, want at least %d in equal shares", one, two, 2*rounds)
	}
	// The health checks come from the balancer.
	var checks int
	for _, p := range b.captures[0].Packets(t) {
		if p.Src.Addr() == b.balancer.Addr && p.Dst == b.targets[0].Target(nodePort) {
			checks++
		}
	}
	if checks == 0 {
		t.Error("no health check from the balancer's address arrived at the target")
	}
	b.stop[0]()
	b.waitHealthy(t, 1)
	before := b.flows(t, 0)
	ask()
	if after := b.flows(t, 0); after != before {
		t.Errorf("the unhealthy target got %d new flows", after-before)
	}
	stop := b.targets[0].Echo(t, netip.AddrPortFrom(netip.IPv4Unspecified(), nodePort))
	b.waitHealthy(t, 0, 1)
	before = b.flows(t, 0)
	ask()
	if after := b.flows(t, 0); after == before {
		t.Error("the target got no new flow after it had become healthy again")
	}
	stop()
	b.stop[1]()
	b.waitHealthy(t)
	b.client.NoAnswer(t, "tcp", b.balancer.At(80))
	b.client.NoPing(t, b.balancer.Addr)
}

// TestBalancerENI checks that EC2 shows the ENI as one of the load balancer.
func TestBalancerENI(t *testing.T) {
	b := newBalanced(t)
	e, ok := b.vpc.Cloud.ENI(b.balancer.ENI)
	if !ok || e.Type != "network_load_balancer" || !e.RequesterManaged || e.Addr != b.balancer.Addr {
		t.Errorf("EC2 has the ENI %+v, want one of a network load balancer with the address %v", e, b.balancer.Addr)
	}
	if n := b.client.ENIs(); len(n) != 1 {
		t.Errorf("the client has the ENIs %v", n)
	}
	// A flow that is established stays with its target.
	c := b.client.Dial(t, "tcp", b.balancer.At(80))
	say := func() {
		t.Helper()
		if _, err := c.Write([]byte("hello\n")); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 100)); n == 0 {
			t.Fatal(err)
		}
	}
	say()
	say()
	if got := c.RemoteAddr().String(); got != b.balancer.At(80).String() {
		t.Errorf("the client talks to %s, want the balancer", got)
	}
	// From the peered network as well, which the security group of the targets has to accept.
	b.vpc.EC2(t, "AuthorizeSecurityGroupIngress", "GroupId", b.vpc.DefaultGroup(), "IpPermissions.1.IpProtocol", "tcp",
		"IpPermissions.1.FromPort", fmt.Sprint(nodePort), "IpPermissions.1.ToPort", fmt.Sprint(nodePort),
		"IpPermissions.1.IpRanges.1.CidrIp", vpctest.PeerAddr.String()+"/32")
	if seen := b.vpc.Peer().Ask(t, "tcp", b.balancer.At(80)); seen.Addr() != vpctest.PeerAddr {
		t.Errorf("the target sees %v, want the peer", seen)
	}
}

// TestPublicBalancer has a target without a public address behind a balancer that the internet
// reaches, and one that it does not reach.
func TestPublicBalancer(t *testing.T) {
	subnet := enitest.SubnetInput{Prefix: netip.MustParsePrefix("10.0.1.0/24")}
	vpc := vpctest.NewWith(t, vpctest.Config{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, Subnets: []enitest.SubnetInput{subnet}})
	n := vpc.Node(t, "m5.large")
	target := n.Target(8080)
	n.Echo(t, target)
	vpc.EC2(t, "AuthorizeSecurityGroupIngress", "GroupId", vpc.DefaultGroup(), "IpPermissions.1.IpProtocol", "tcp",
		"IpPermissions.1.FromPort", "8080", "IpPermissions.1.ToPort", "8080", "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0")
	vpc.Internet().NoAnswer(t, "tcp", target)
	for _, public := range []bool{false, true} {
		b := vpc.Balancer(t, vpctest.BalancerInput{Public: public, Listeners: []vpctest.Listener{{Network: "tcp", Port: 80, Targets: []netip.AddrPort{target}}}})
		b.WaitHealthy(t, "tcp", 80, target)
		if !public {
			vpc.Internet().NoAnswer(t, "tcp", b.At(80))
			continue
		}
		if seen := vpc.Internet().Ask(t, "tcp", b.At(80)); seen.Addr() != vpctest.InternetAddr {
			t.Errorf("the target sees %v, want the host in the internet", seen)
		}
	}
}

// TestHTTPCheck has a target that listens while its health endpoint answers with an error, and
// that later has a security group without a rule for the health checks.
func TestHTTPCheck(t *testing.T) {
	vpc := vpctest.New(t)
	n := vpc.Node(t, "m5.large")
	n.Echo(t, netip.AddrPortFrom(n.Addr, 8080))
	var status atomic.Int64
	status.Store(http.StatusOK)
	var path atomic.Pointer[string]
	s := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path.Store(&r.URL.Path)
		w.WriteHeader(int(status.Load()))
	})}
	l := n.Listen(t, netip.AddrPortFrom(n.Addr, 10254))
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	target := n.Target(8080)
	b := vpc.Balancer(t, vpctest.BalancerInput{Listeners: []vpctest.Listener{{
		Network: "tcp", Port: 80, Targets: []netip.AddrPort{target},
		Check: vpctest.HealthCheck{HTTPPath: "/healthz", Port: 10254, Interval: 20 * time.Millisecond, Timeout: 200 * time.Millisecond},
	}}})
	b.WaitHealthy(t, "tcp", 80, target)
	if p := path.Load(); *p != "/healthz" {
		t.Errorf("the check asks for %s, want /healthz", *p)
	}
	for _, bad := range []int{http.StatusServiceUnavailable, http.StatusNotFound} {
		status.Store(int64(bad))
		b.WaitHealthy(t, "tcp", 80)
		status.Store(http.StatusNoContent)
		b.WaitHealthy(t, "tcp", 80, target)
	}
	// A flow stays with its target while that is unhealthy, and a new flow gets no answer.
	client := vpc.Node(t, "m5.large")
	c := client.Dial(t, "tcp", b.At(80))
	talk := func() {
		t.Helper()
		if _, err := c.Write([]byte("hello\n")); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	talk()
	status.Store(http.StatusServiceUnavailable)
	b.WaitHealthy(t, "tcp", 80)
	for range 20 { // the kernel may forget about connections only after a moment
		talk()
		time.Sleep(10 * time.Millisecond)
	}
	client.NoAnswer(t, "tcp", b.At(80))
	status.Store(http.StatusOK)
	b.WaitHealthy(t, "tcp", 80, target)
	// Health checks pass the security groups of the target.
	none := element(vpc.EC2(t, "CreateSecurityGroup", "GroupName", "none", "GroupDescription", "accepts nothing", "VpcId", vpc.ID), "<groupId>")
	vpc.EC2(t, "ModifyNetworkInterfaceAttribute", "NetworkInterfaceId", n.ENIs()[0].ID, "SecurityGroupId.1", none)
	b.WaitHealthy(t, "tcp", 80)
	if got := fails(t, func(t vpctest.TB) { b.WaitHealthy(t, "tcp", 81, target) }); !strings.Contains(got, "healthy targets of tcp port 81 are [], want [") {
		t.Errorf("WaitHealthy for a port without listener: %q", got)
	}
}
