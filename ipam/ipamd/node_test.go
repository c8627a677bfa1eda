// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// world is an agent without its kernel and its sockets, so that it can run in a
// synctest bubble: an instance, its manager, pool and provider.
type world struct {
	t        *testing.T
	cloud    *enitest.Cloud
	subnet   enitest.Subnet
	instance enitest.Instance
	client   *eni.Client
	manager  *eni.Manager
	pool     *ipam.Pool
	provider *Provider
	node     *node
	backend  *Backend
	log      lockedBuffer
	look     chan struct{} // makes the audit of run check at once

	mu    sync.Mutex
	calls []eni.Call
	// counted is the number of calls that the hook has got.
	counted atomic.Int64
}

func newNode(t *testing.T, intents eni.Intents) *world {
	t.Helper()
	n := &world{t: t, cloud: enitest.New(enitest.Config{}), look: make(chan struct{}, 1)}
	vpc, err := n.cloud.AddVPC(enitest.VPCInput{})
	n.check(err)
	n.subnet, err = n.cloud.AddSubnet(enitest.SubnetInput{VPC: vpc.ID, Prefix: netip.MustParsePrefix("10.0.0.0/24")})
	n.check(err)
	n.instance, err = n.cloud.RunInstance(enitest.InstanceInput{Subnet: n.subnet.ID, Type: "m5.large"})
	n.check(err)
	n.pool, err = ipam.Open(ipam.Config{Cooldown: -1})
	n.check(err)
	cfg, err := Config{StateDir: t.TempDir(), Logger: n.logger(), Hooks: Hooks{Called: func(eni.Call) { n.counted.Add(1) }}}.withDefaults()
	n.check(err)
	n.backend = NewBackend(cfg.backend(n.pool))
	n.node = &node{cfg: cfg, log: cfg.Logger, pool: n.pool, backend: n.backend, links: n.links()}
	n.client = eni.NewClient(n.config(n.instance.ID), eni.ClientConfig{OnCall: n.observeCall})
	n.manager, err = eni.New(eni.Config{Client: n.client, Intents: intents, InUse: InUse(n.pool, noUses)})
	n.check(err)
	n.provider = &Provider{Manager: n.manager, Pool: n.pool, Links: n.node.links, MTU: 9001}
	return n
}

// links returns the links of a node without a kernel.
func (n *world) links() *Links { return newLinks(LinksConfig{Pods: n.backend.Pods}) }

// noUses is a witness that reports no uses.
func noUses([]netip.Prefix) ([]ipam.Use, error) { return nil, nil }

func (n *world) check(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// config returns the SDK's configuration on an instance, or outside of any instance
// if id is empty.
func (n *world) config(id string) aws.Config {
	return aws.Config{
		Region:      n.cloud.Region(),
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""),
		HTTPClient:  &http.Client{Transport: n.cloud.Transport(id)},
	}
}

func (n *world) observeCall(c eni.Call) {
	n.node.observeCall(c)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, c)
}

// since returns all calls except the first skip, and the number of all calls.
func (n *world) since(skip int) ([]eni.Call, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.calls[skip:]), len(n.calls)
}

func (n *world) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(&n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// run starts the agent with a target of warm free addresses, and the audit.
func (n *world) run(ctx context.Context, warm int) *agent.Agent {
	n.t.Helper()
	limits, err := n.manager.Limits(ctx)
	n.check(err)
	cfg := n.node.cfg
	cfg.Prefixes = n.provider.Prefixes
	a, err := agent.New(agent.Config{
		Pool: n.pool, Provider: n.provider, Links: noLinks{}, Policy: warmpool.AWS{WarmIPTarget: warm},
		Limits: cfg.limits(limits, cfg.cards(limits, eni.Inventory{})), Logger: n.logger(), Rand: func() float64 { return 0.5 },
	})
	n.check(err)
	go a.Run(ctx)
	go n.node.audit(ctx, &started{manager: n.manager, agent: a, look: n.look})
	return a
}

// primary returns the instance's primary ENI.
func (n *world) primary() enitest.ENI {
	for _, e := range n.cloud.ENIs() {
		if e.Attachment != nil && e.Attachment.Device == 0 {
			return e
		}
	}
	n.t.Fatal("no primary ENI")
	return enitest.ENI{}
}

// otherClient returns an EC2 client of another program.
func (n *world) otherClient() *ec2.Client { return ec2.NewFromConfig(n.config("")) }

// blocks returns the blocks of the pool.
func (n *world) blocks() []netip.Prefix {
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
