// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// slowLinks is a node on which each change of a link takes 10 ms.
type slowLinks struct{}

func (slowLinks) Ensure(ctx context.Context, _ agent.ENI) error { return sleep(ctx) }
func (slowLinks) Remove(ctx context.Context, _ string) error    { return sleep(ctx) }

func sleep(ctx context.Context) error {
	select {
	case <-time.After(10 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// burstNode is an agent with the real Manager on an instance in enitest.
type burstNode struct {
	*enitest.Node
	pool  *ipam.Pool
	agent *agent.Agent
	start time.Time

	mu    sync.Mutex
	calls map[string]int
}

// newBurstNode returns a node on which pods can ask for addresses, but the agent of
// which does not run yet.
func newBurstNode(t *testing.T, kind string, call time.Duration, p warmpool.Policy) *burstNode {
	t.Helper()
	n := &burstNode{calls: map[string]int{}, Node: enitest.NewNodeIn(t, enitest.New(enitest.Config{
		Delays: enitest.Delays{Attach: 1500 * time.Millisecond, Call: call},
	}), kind)}
	client := eni.NewClient(aws.Config{
		Region:      n.Region(),
		HTTPClient:  n.HTTPClient,
		Credentials: credentials.NewStaticCredentialsProvider(n.AccessKeyID, n.SecretAccessKey, n.SessionToken),
	}, eni.ClientConfig{OnCall: func(c eni.Call) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.calls[c.Action]++
	}})
	m, err := eni.New(eni.Config{Client: client})
	if err != nil {
		t.Fatal(err)
	}
	if n.pool, err = ipam.Open(ipam.Config{}); err != nil {
		t.Fatal(err)
	}
	n.start = time.Now()
	limits, err := m.Limits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n.agent, err = agent.New(agent.Config{
		Pool: n.pool, Provider: &Provider{Manager: m, Pool: n.pool}, Links: slowLinks{}, Policy: p,
		Limits: []warmpool.Limits{{MaxENIs: limits.MaxENIs(0), SlotsPerENI: limits.SlotsPerENI(), MaxPods: 250}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// run runs the agent until the test ends.
func (n *burstNode) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.agent.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// add asks for the addresses of n pods at once, and returns when each got one.
func (n *burstNode) add(t *testing.T, pods int) (served []time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	begin := time.Now()
	for i := range pods {
		wg.Go(func() {
			_, err := n.agent.Allocate(ctx, ipam.Request{Attachment: ipam.Attachment{Network: "n", ContainerID: fmt.Sprint(begin.Unix(), i), IfName: "eth0"}})
			if err != nil {
				t.Errorf("pod %d: %v", i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			served = append(served, time.Since(begin))
		})
	}
	wg.Wait()
	return served
}

func (n *burstNode) count() (calls map[string]int, sum int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.calls {
		sum += c
	}
	return maps.Clone(n.calls), sum
}

func TestBurst(t *testing.T) {
	for _, c := range []struct {
		kind  string
		pods  int
		call  time.Duration
		took  time.Duration
		calls int
		enis  int
		after time.Duration // the pods come this long after the start of the agent
	}{
		{"m5.xlarge", 30, 200 * time.Millisecond, 3200 * time.Millisecond, 10, 3, 0},
		{"m5.4xlarge", 200, 500 * time.Millisecond, 7 * time.Second, 21, 7, 0},
		{"m5.xlarge", 30, 200 * time.Millisecond, 3200 * time.Millisecond, 10, 3, time.Minute},
		{"m5.4xlarge", 200, 500 * time.Millisecond, 7 * time.Second, 21, 7, time.Minute},
	} {
		t.Run(fmt.Sprint(c.pods, " on ", c.kind, " after ", c.after), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newBurstNode(t, c.kind, c.call, warmpool.Band{})
				n.run(t)
				time.Sleep(c.after)
				_, before := n.count()
				served := n.add(t, c.pods)
				last := served[len(served)-1]
				calls, sum := n.count()
				if c.after > 0 {
					sum -= before // of the start
				}
				t.Logf("last of %d pods after %v, half after %v, %d calls: %v", len(served), last, served[len(served)/2], sum, calls)
				if last > c.took || sum > c.calls {
					t.Errorf("%d pods took %v and %d calls, want at most %v and %d", c.pods, last, sum, c.took, c.calls)
				}
				time.Sleep(time.Minute)
				if got := len(n.ENIs()); got != c.enis {
					t.Errorf("%d ENIs, want %d", got, c.enis)
				}
			})
		})
	}
}
