// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// edit changes the state of EC2 outside of the agent.
func (c *cloud) edit(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
	c.record()
}

func (c *cloud) count(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[op]
}

// TestStaleMetadataRemovesNoENI is the outage of amazon-vpc-cni-k8s#1967: after a
// restart the metadata lacks an ENI, although pods use its addresses.
func TestStaleMetadataRemovesNoENI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		for i := range 8 {
			if err := p.add(fmt.Sprint("pod", i), time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		p.stop()
		w.cloud.lag = 2 * time.Minute // metadata still shows the bare primary ENI
		p = w.boot(0)
		defer p.stop()
		time.Sleep(10 * time.Second)
		if n := len(p.pool.View().ENIs); n != 2 {
			t.Errorf("%d ENIs in the pool, want 2", n)
		}
		w.check(p)
		waitUntilIdle()
		w.check(p)
		w.converged(p)
		if w.cloud.count("delete")+w.cloud.count("unassign") > 0 {
			t.Errorf("calls %v, want none that give back", w.cloud.calls)
		}
	})
}

// TestStaleMetadataAddsNoBlocks: a block that was given back just before a restart
// is not added again because late metadata still lists it.
func TestStaleMetadataAddsNoBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		for i := range 5 {
			if err := p.add(fmt.Sprint("pod", i), time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 5 {
			if err := p.del(fmt.Sprint("pod", i)); err != nil {
				t.Fatal(err)
			}
		}
		for w.cloud.count("unassign")+w.cloud.count("delete") == 0 {
			time.Sleep(time.Second)
		}
		time.Sleep(10 * time.Second)
		p.stop()
		w.cloud.lag = 2 * time.Minute
		p = w.boot(0)
		defer p.stop()
		time.Sleep(5 * time.Second)
		w.cloud.mu.Lock()
		inEC2 := map[netip.Prefix]bool{}
		for _, e := range w.cloud.enis {
			for _, b := range e.Blocks {
				inEC2[b] = true
			}
		}
		w.cloud.mu.Unlock()
		for _, n := range p.pool.View().ENIs {
			for _, b := range n.Blocks {
				if !inEC2[b.Prefix] {
					t.Errorf("%v is back in the pool", b.Prefix)
				}
			}
		}
		waitUntilIdle()
		w.converged(p)
	})
}

// TestBrokenENIServesNoPods: an ENI with a link that never comes up does not count as
// supply, and no more addresses are assigned to it. Pods are served from the
// other ENIs, and from a new one when these are full.
func TestBrokenENIServesNoPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		broken := []netip.Prefix{netip.MustParsePrefix("10.0.2.1/32"), netip.MustParsePrefix("10.0.2.2/32")}
		w.cloud.edit(func() { w.cloud.enis = append(w.cloud.enis, agent.ENI{ID: "eni-1", Device: 1, Blocks: broken}) })
		w.cloud.nextENI = 1
		w.kernel.failing["eni-1"] = 1000000
		p := w.boot(0)
		defer p.stop()
		for i := range 2 * w.cloud.slots {
			if err := p.add(fmt.Sprint("pod", i), time.Minute); err != nil {
				t.Fatalf("pod %d: %v", i, err)
			}
		}
		w.check(p)
		w.cloud.edit(func() {
			if got := w.cloud.find("eni-1").Blocks; len(got) != len(broken) {
				t.Errorf("the ENI has %v, want only the original %v", got, broken)
			}
			if w.cloud.find("eni-2") == nil {
				t.Error("no other ENI was created")
			}
		})
	})
}

// TestNoGrowthWhileEveryLinkFails: if no link comes up, the agent creates no ENIs,
// because their links would not come up either.
func TestNoGrowthWhileEveryLinkFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range w.cloud.maxENIs {
			w.kernel.failing[fmt.Sprint("eni-", i)] = 1000000
		}
		p := w.boot(0)
		defer p.stop()
		if err := p.add("a", time.Hour); !errors.Is(err, ipam.ErrExhausted) {
			t.Errorf("add: %v, want ErrExhausted", err)
		}
		if n := w.cloud.count("create"); n != 0 {
			t.Errorf("%d ENIs were created, want none", n)
		}
	})
}

// TestBlockUnassignedByOperator: an operator unassigns the addresses of an ENI. The
// pod that has one of them keeps it, none of them is allocated again, and when
// the pod ends, its block is removed.
func TestBlockUnassignedByOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		defer p.stop()
		if err := p.add("a", time.Minute); err != nil {
			t.Fatal(err)
		}
		waitUntilIdle()
		var taken []netip.Prefix
		w.cloud.edit(func() {
			e := w.cloud.find("eni-0")
			taken, e.Blocks = e.Blocks, nil
		})
		p.Refresh()
		waitUntilIdle()
		for _, n := range p.pool.View().ENIs {
			for _, b := range n.Blocks {
				if slices.Contains(taken, b.Prefix) && (b.Used == 0 || !b.Doubted) {
					t.Errorf("got %+v, want a doubted block in use", b)
				}
			}
		}
		if err := p.add("b", time.Minute); err != nil {
			t.Error(err)
		}
		w.check(p)
		if err := p.del("a"); err != nil {
			t.Error(err)
		}
		waitUntilIdle()
		w.converged(p)
	})
}

// TestENIAttachedByOperator: the agent follows when an operator attaches and
// detaches an ENI.
func TestENIAttachedByOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		defer p.stop()
		waitUntilIdle()
		w.cloud.edit(func() {
			blocks, _ := w.cloud.blocks(3)
			w.cloud.enis = append(w.cloud.enis, agent.ENI{ID: "eni-9", Device: 1, Blocks: blocks})
		})
		p.Refresh()
		time.Sleep(2 * time.Second)
		if v := p.pool.View(); len(v.ENIs) != 2 || !v.ENIs[1].Ready {
			t.Errorf("got ENIs %+v, want eni-9 ready", v.ENIs)
		}
		w.cloud.edit(func() {
			w.cloud.enis = slices.DeleteFunc(w.cloud.enis, func(e agent.ENI) bool { return e.ID == "eni-9" })
		})
		before := w.cloud.count("delete")
		p.Refresh()
		waitUntilIdle()
		w.converged(p)
		if w.cloud.count("delete") != before {
			t.Errorf("the agent deleted an ENI that was already gone")
		}
	})
}

// TestForeignENIsAreLeftAlone: ENIs that are not for pods count against the limit,
// and the agent does not touch them.
func TestForeignENIsAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cloud.enis = append(w.cloud.enis,
			agent.ENI{ID: "eni-trunk", Device: 1, NoPods: true}, agent.ENI{ID: "eni-other", Device: 2, NoPods: true})
		w.cloud.record()
		p := w.boot(0)
		defer p.stop()
		for i := range w.cloud.slots {
			if err := p.add(fmt.Sprint("pod", i), time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		if e := reasonOf(t, p.add("one more", time.Minute)); e.Reason != ipam.ReasonENILimit {
			t.Errorf("got %v, want %s", e, ipam.ReasonENILimit)
		}
		if n := w.cloud.count("create") + w.cloud.count("delete"); n > 0 {
			t.Errorf("calls %v, want none that create or delete", w.cloud.calls)
		}
		if _, ok := w.kernel.links["eni-trunk"]; ok {
			t.Error("the trunk's link was set up")
		}
	})
}

// TestLateMetadataDuringEnsure: an observation that lacks newly assigned blocks
// does not remove them while they wait for their link.
func TestLateMetadataDuringEnsure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cloud.lag = 2 * time.Minute
		p := w.boot(0)
		defer p.stop()
		time.Sleep(600 * time.Millisecond) // observed; blocks are being assigned
		w.kernel.mu.Lock()
		w.kernel.failing["eni-0"] = 3
		w.kernel.mu.Unlock()
		time.Sleep(time.Second)
		p.Refresh()
		if err := p.add("a", 20*time.Second); err != nil {
			t.Error(err)
		}
		if n := w.cloud.count("assign"); n != 1 {
			t.Errorf("%d calls to assign, want 1", n)
		}
	})
}

// TestUnassignDuringEnsure: blocks that are unassigned during Links.Ensure are not
// added to the pool when it returns.
func TestUnassignDuringEnsure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		defer p.stop()
		for i := range 5 {
			if err := p.add(fmt.Sprint("pod", i), time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		waitUntilIdle()
		for i := range 5 {
			if err := p.del(fmt.Sprint("pod", i)); err != nil {
				t.Fatal(err)
			}
		}
		w.kernel.mu.Lock()
		w.kernel.latency = time.Minute
		w.kernel.mu.Unlock()
		before := w.cloud.count("unassign")
		p.Refresh()
		for w.cloud.count("unassign") == before {
			time.Sleep(time.Second)
		}
		waitUntilIdle()
		w.check(p)
		w.converged(p)
	})
}

// TestTwoFamilies: every ENI that serves pods has an IPv6 prefix, and pods get
// both addresses on one ENI.
func TestTwoFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config = func(c *agent.Config) { c.Families = []ipam.Family{ipam.IPv4, ipam.IPv6} }
		p := w.boot(0)
		defer p.stop()
		for i := range 8 {
			if err := p.add(fmt.Sprint("pod", i), time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		for pod, have := range w.pods {
			if len(have) != 2 || have[0].ENI != have[1].ENI || !have[0].Addr.Is4() || !have[1].Addr.Is6() {
				t.Errorf("%s has %v, want an address of each family on one ENI", pod, have)
			}
		}
		waitUntilIdle()
		w.converged(p)
	})
}

// TestIPv6Alone: one prefix is enough for all pods, and no policy is needed.
func TestIPv6Alone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config = func(c *agent.Config) { c.Families, c.Policy = []ipam.Family{ipam.IPv6}, nil }
		p := w.boot(0)
		defer p.stop()
		for i := range 200 {
			if err := p.add(fmt.Sprint("pod", i), time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		waitUntilIdle()
		w.converged(p)
		if w.cloud.calls["assign"] != 1 || len(w.cloud.calls) != 2 {
			t.Errorf("calls %v, want one assignment and observations", w.cloud.calls)
		}
	})
}

// TestCards: each network card has its own pool.
func TestCards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config = func(c *agent.Config) {
			c.Limits = []warmpool.Limits{{MaxENIs: 2, SlotsPerENI: 5}, {MaxENIs: 2, SlotsPerENI: 5}}
			c.Policy = warmpool.AWS{MinimumIPTarget: 1}
		}
		w.cloud.maxENIs = 4
		p := w.boot(0)
		defer p.stop()
		for card := range 2 {
			got, err := p.Allocate(t.Context(), ipam.Request{Attachment: attachment(fmt.Sprint("card", card)), Card: card})
			if err != nil {
				t.Fatal(err)
			}
			if got[0].Card != card {
				t.Errorf("got %+v, want card %d", got, card)
			}
		}
		waitUntilIdle()
		w.converged(p)
	})
}

// TestSlowEC2BlocksNoPods: while a call to EC2 hangs, pods get the addresses of the
// pool.
func TestSlowEC2BlocksNoPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		defer p.stop()
		waitUntilIdle()
		w.cloud.mu.Lock()
		w.cloud.latency = time.Hour
		w.cloud.mu.Unlock()
		for i := range 3 {
			if err := p.add(fmt.Sprint("pod", i), time.Second); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(50 * time.Millisecond) // the pool begins to grow
		start := time.Now()
		if err := p.add("pod3", time.Second); err != nil {
			t.Error(err)
		}
		if err := p.del("pod0"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if s := p.Status(); len(s.InFlight) == 0 || time.Since(start) > time.Millisecond {
			t.Errorf("served after %v with tasks %v, want at once during a task", time.Since(start), s.InFlight)
		}
	})
}

// TestLinkBreaksLater: no address of an ENI is allocated while its link is broken,
// and pods keep the addresses that they have.
func TestLinkBreaksLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cloud.maxENIs = 1
		p := w.boot(0)
		defer p.stop()
		if err := p.add("a", time.Minute); err != nil {
			t.Fatal(err)
		}
		waitUntilIdle()
		w.kernel.mu.Lock()
		w.kernel.failing["eni-0"] = 3
		w.kernel.mu.Unlock()
		p.Refresh()
		time.Sleep(time.Second)
		if e := reasonOf(t, p.add("b", 100*time.Millisecond)); e.Reason != ipam.ReasonLinkNotReady || !strings.Contains(e.Evidence, "MAC") {
			t.Errorf("got %v, want %s with the error of the link", e, ipam.ReasonLinkNotReady)
		}
		w.check(p)
		if err := p.add("b", time.Minute); err != nil {
			t.Error(err)
		}
	})
}

// TestLostAnswers: a call to EC2 has its effect, but its answer is lost.
func TestLostAnswers(t *testing.T) {
	for _, op := range []string{"assign", "create", "unassign", "delete"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.cloud.faults[op] = []error{errLost}
			w.day(0)
			if len(w.cloud.faults[op]) > 0 {
				t.Errorf("%s was never called", op)
			}
		})
	}
}

// TestSubnetFullForAWhile: the agent does not rely for ever on the observation that
// a subnet is full. It grows again without another observation.
func TestSubnetFullForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cloud.free = 0
		p := w.boot(0)
		defer p.stop()
		e := reasonOf(t, p.add("a", 10*time.Second))
		if e.Reason != ipam.ReasonSubnetFull || e.RetryAfter == 0 {
			t.Errorf("got %v, want %s with a retry", e, ipam.ReasonSubnetFull)
		}
		w.cloud.edit(func() { w.cloud.free = 10 })
		if err := p.add("a", 3*time.Minute); err != nil {
			t.Error(err)
		}
		if n := w.cloud.count("observe"); n != 1 {
			t.Errorf("%d observations, want 1", n)
		}
	})
}

// TestNoPrefixYet: while an ENI gets no prefix because another subnet may have one, the
// agent creates an ENI. If that fails, it asks again as soon as the provider has said, and
// a pod then gets what the provider assigns instead.
func TestNoPrefixYet(t *testing.T) {
	for name, c := range map[string]struct {
		create []error
		least  time.Duration
	}{
		"the new ENI has one":          {},
		"no new ENI":                   {[]error{refusal{reason: "quota"}}, 10 * time.Second},
		"no new ENI, throttled before": {[]error{refusal{reason: "throttled"}, refusal{reason: "quota"}}, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.config = func(c *agent.Config) { c.Policy = warmpool.Band{Low: -1} }
				w.cloud.faults["assign"] = []error{refusal{"no-free-prefix", 10 * time.Second}}
				w.cloud.faults["create"] = c.create
				p := w.boot(0)
				defer p.stop()
				served, last := addBurst(p, 1)
				if served != 1 || last < c.least || last > c.least+2*time.Second {
					t.Errorf("%d pods served after %v, want 1 after %v, calls %v", served, last, c.least, w.cloud.calls)
				}
				if w.cloud.count("create") == 0 {
					t.Error("no ENI was created")
				}
			})
		})
	}
}

func TestDecisionsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := newWorld(t)
		w.cloud.faults["assign"] = []error{refusal{reason: "throttled"}}
		w.config = func(c *agent.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }
		p := w.boot(0)
		waitUntilIdle()
		p.stop()
		for _, want := range []string{
			`msg=action op=assign card=0 eni=eni-0 slots=4 reason="WARM_IP_TARGET 2`,
			`msg="action failed" op=assign card=0 eni=eni-0 reason=throttled`,
			`msg="blocks ready" eni=eni-0 blocks=4`,
		} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, &log)
			}
		}
	})
}

func TestNewRefuses(t *testing.T) {
	pool, err := ipam.Open(ipam.Config{})
	if err != nil {
		t.Fatal(err)
	}
	good := agent.Config{Pool: pool, Provider: newCloud(), Links: newKernel(), Policy: warmpool.Band{}, Limits: []warmpool.Limits{{MaxENIs: 1}}}
	if _, err := agent.New(good); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*agent.Config){
		"no pool":      func(c *agent.Config) { c.Pool = nil },
		"no provider":  func(c *agent.Config) { c.Provider = nil },
		"no links":     func(c *agent.Config) { c.Links = nil },
		"no limits":    func(c *agent.Config) { c.Limits = nil },
		"no policy":    func(c *agent.Config) { c.Policy = nil },
		"nil inside":   func(c *agent.Config) { c.Policy = warmpool.Bounds{Policy: warmpool.HoldDown{}} },
		"family 5":     func(c *agent.Config) { c.Families = []ipam.Family{5} },
		"family twice": func(c *agent.Config) { c.Families = []ipam.Family{4, 4} },
	} {
		bad := good
		spoil(&bad)
		if _, err := agent.New(bad); !errors.Is(err, agent.ErrConfig) {
			t.Errorf("%s: %v, want ErrConfig", name, err)
		}
	}
}

func TestRunOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.boot(0)
		waitUntilIdle()
		p.stop()
		if err := p.Run(t.Context()); !errors.Is(err, agent.ErrConfig) {
			t.Errorf("second Run: %v, want ErrConfig", err)
		}
	})
}

// waitedError is an error of Links after a wait that is long enough for a pod.
type waitedError struct{ error }

func (waitedError) Final() bool { return true }

// TestFinalLinkError: a pod that needs an ENI is refused as soon as Links has waited for as
// long as a pod may. Later pods get its addresses.
func TestFinalLinkError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.kernel.failing["eni-0"], w.kernel.latency, w.kernel.err = 2, 10*time.Second, waitedError{errors.New("a lock is held")}
		p := w.boot(0)
		defer p.stop()
		began := time.Now()
		e := reasonOf(t, p.add("a", time.Hour))
		if e.Reason != ipam.ReasonLinkNotReady || !strings.Contains(e.Evidence, "a lock is held") || e.RetryAfter == 0 || errors.Is(e, context.DeadlineExceeded) {
			t.Errorf("got %v, want %s with the error of the link", e, ipam.ReasonLinkNotReady)
		}
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("the pod was refused after %v, want the wait of one attempt", took)
		}
		time.Sleep(time.Minute)
		if err := p.add("a", time.Minute); err != nil {
			t.Error(err)
		}
		w.check(p)
	})
}
