// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// node is an agent without its kernel and its sockets, so that it can run in a
// synctest bubble: an instance, its manager, pool and provider.
type node struct {
	t        *testing.T
	cloud    *enitest.Cloud
	subnet   enitest.Subnet
	instance enitest.Instance
	manager  *eni.Manager
	pool     *ipam.Pool
	provider *provider
	backend  *backend
	log      lockedBuffer

	mu    sync.Mutex
	calls []eni.Call
}

func newNode(t *testing.T, intents eni.Intents) *node {
	t.Helper()
	n := &node{t: t, cloud: enitest.New(enitest.Config{})}
	vpc, err := n.cloud.AddVPC(enitest.VPCInput{})
	n.check(err)
	n.subnet, err = n.cloud.AddSubnet(enitest.SubnetInput{VPC: vpc.ID, Prefix: netip.MustParsePrefix("10.0.0.0/24")})
	n.check(err)
	n.instance, err = n.cloud.RunInstance(enitest.InstanceInput{Subnet: n.subnet.ID, Type: "m5.large"})
	n.check(err)
	n.pool, err = ipam.Open(ipam.Config{Cooldown: -1})
	n.check(err)
	n.backend = newBackend(n.pool, intents, defaults())
	n.backend.settings.StateDir = t.TempDir()
	client := eni.NewClient(n.config(n.instance.ID), eni.ClientConfig{OnCall: n.observeCall})
	n.manager, err = eni.New(eni.Config{Client: client, Intents: intents, InUse: inUse(n.pool, noUses)})
	n.check(err)
	n.provider = &provider{manager: n.manager, pool: n.pool, links: n.links(), mtu: 9001, recorder: &recorder{}}
	return n
}

// links returns the links of a node without a kernel.
func (n *node) links() *links {
	return &links{enis: map[string]datapath.ENI{}, turn: make(chan struct{}, 1), pods: n.backend.pods}
}

// noUses is a witness that reports no uses.
func noUses([]netip.Prefix) ([]ipam.Use, error) { return nil, nil }

func (n *node) check(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// config returns the SDK's configuration on an instance, or outside of any instance
// if id is empty.
func (n *node) config(id string) aws.Config {
	return aws.Config{
		Region:      n.cloud.Region(),
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""),
		HTTPClient:  &http.Client{Transport: n.cloud.Transport(id)},
	}
}

func (n *node) observeCall(c eni.Call) {
	n.backend.observeCall(c)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, c)
}

// since returns all calls except the first skip, and the number of all calls.
func (n *node) since(skip int) ([]eni.Call, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.calls[skip:]), len(n.calls)
}

// counted returns the number of calls to EC2 in the metrics.
func (n *node) counted() int {
	n.t.Helper()
	families, err := n.backend.metrics.registry.Gather()
	n.check(err)
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "vpcnet_ec2_calls_total" {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return int(sum)
}

func (n *node) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(&n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// run starts the agent with a target of warm free addresses, and the audit.
func (n *node) run(ctx context.Context, warm int) *agent.Agent {
	n.t.Helper()
	limits, err := n.manager.Limits(ctx)
	n.check(err)
	s := defaults()
	s.Prefixes = n.provider.prefixes
	a, err := agent.New(agent.Config{
		Pool: n.pool, Provider: n.provider, Links: noLinks{}, Policy: warmpool.AWS{WarmIPTarget: warm},
		Limits: s.limits(limits), Logger: n.logger(), Rand: func() float64 { return 0.5 },
	})
	n.check(err)
	go a.Run(ctx)
	go audit(ctx, n.backend, n.provider.links, n.manager, a, n.logger())
	return a
}

// primary returns the instance's primary ENI.
func (n *node) primary() enitest.ENI {
	for _, e := range n.cloud.ENIs() {
		if e.Attachment != nil && e.Attachment.Device == 0 {
			return e
		}
	}
	n.t.Fatal("no primary ENI")
	return enitest.ENI{}
}

// otherClient returns an EC2 client of another program.
func (n *node) otherClient() *ec2.Client { return ec2.NewFromConfig(n.config("")) }

// blocks returns the blocks of the pool.
func (n *node) blocks() []netip.Prefix {
	var out []netip.Prefix
	for _, e := range n.pool.View().ENIs {
		for _, b := range e.Blocks {
			out = append(out, b.Prefix)
		}
	}
	return out
}

// names lists the actions of calls, each once.
func names(calls []eni.Call) []string {
	set := map[string]bool{}
	for _, c := range calls {
		set[c.Action] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// noLinks is a kernel in which everything succeeds.
type noLinks struct{}

func (noLinks) Ensure(context.Context, agent.ENI) error { return nil }
func (noLinks) Remove(context.Context, string) error    { return nil }

// attachment returns the attachment of a pod with the given container ID.
func attachment(id string) ipam.Attachment {
	return ipam.Attachment{Network: "vpcnet", ContainerID: id, IfName: "eth0"}
}

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
