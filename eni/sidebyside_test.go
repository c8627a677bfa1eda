// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// crowd is a node that creates several ENIs at the same time and that the test can
// kill at any point, which ends all its goroutines.
type crowd struct {
	*world
	inst    enitest.Instance
	m       *eni.Manager
	journal *eni.Memory
	random  func() float64

	mu     sync.Mutex
	fuse   int // how many points are left until the process is killed; 0 means never
	killed bool
	points int // passed by this process
	tokens map[string]url.Values
}

func newCrowd(t *testing.T) *crowd {
	x := &crowd{journal: eni.NewMemory(), tokens: map[string]url.Values{}, random: func() float64 { return 0.5 }, world: newWorld(t, enitest.Config{
		Delays: enitest.Delays{Attach: 1500 * time.Millisecond, Detach: time.Second, Call: 50 * time.Millisecond},
		Lag:    enitest.Lag{Describe: 3 * time.Second, Metadata: 2 * time.Second},
	})}
	x.inst = x.run("m5.4xlarge")
	time.Sleep(5 * time.Minute)
	x.boot()
	_, err := x.m.Discover(t.Context())
	x.check(err)
	return x
}

// boot starts a new process.
func (x *crowd) boot() {
	x.mu.Lock()
	x.fuse, x.killed, x.points = 0, false, 0
	x.mu.Unlock()
	cfg := fast
	cfg.Random = x.random
	x.m = x.manager(x.inst, eni.Config{
		Intents: &killable{Memory: x.journal, burn: x.burn},
		Client: eni.NewClient(x.config(x.inst.ID, func(rt http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				x.burn()
				if r.URL.Hostname() != "169.254.169.254" {
					x.checkJournalled(r)
				}
				resp, err := rt.RoundTrip(r)
				x.burn()
				return resp, err
			})
		}), cfg),
	})
}

// burn is called at every point where the process can be killed.
func (x *crowd) burn() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.points++; x.fuse > 0 {
		x.fuse--
		x.killed = x.fuse == 0
	}
	if x.killed {
		panic(killed{})
	}
}

// checkJournalled checks that the journal has the intent of a call before EC2 gets the
// call, and that no two creates share a client token.
func (x *crowd) checkJournalled(r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		x.t.Error(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	q, err := url.ParseQuery(string(body))
	if err != nil {
		x.t.Error(err)
	}
	action := q.Get("Action")
	if !mutates(action) {
		return
	}
	intents, err := x.journal.All(x.t.Context())
	if err != nil {
		x.t.Error(err)
	}
	for _, in := range intents {
		if !in.Done && (action == "CreateNetworkInterface" && in.Token == q.Get("ClientToken") || action != "CreateNetworkInterface" && in.ENI != "") {
			if action == "CreateNetworkInterface" {
				x.checkToken(in.Token, q)
			}
			return
		}
	}
	x.t.Errorf("%s without an intent in the journal: %v", action, q)
}

func (x *crowd) checkToken(token string, q url.Values) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if was, ok := x.tokens[token]; ok && was.Encode() != q.Encode() {
		x.t.Errorf("two creates with the token %s:\n%v\n%v", token, was, q)
	}
	x.tokens[token] = q
}

// provision creates n ENIs at the same time. It returns those that were finished.
func (x *crowd) provision(n int) (done []eni.ENI) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range n {
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil && p != (killed{}) {
					panic(p)
				}
			}()
			e, err := x.m.Provision(x.t.Context(), eni.ProvisionInput{Slots: 3})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				done = append(done, e)
			}
		})
	}
	wg.Wait()
	return done
}

// finish starts the next process and checks that it finishes all operations.
func (x *crowd) finish(least, most int) {
	x.t.Helper()
	x.boot()
	x.check(x.m.Resume(x.t.Context()))
	time.Sleep(5 * time.Minute)
	x.check(x.m.Resume(x.t.Context()))
	inv, err := x.m.Discover(x.t.Context())
	x.check(err)
	if open, err := x.m.Unfinished(x.t.Context()); err != nil || len(open) > 0 {
		x.t.Errorf("still unfinished: %+v, %v", open, err)
	}
	if have := len(x.ENIs()); have != len(inv.ENIs) || have < least || have > most {
		x.t.Errorf("%d ENIs in the cloud, %d known, want %d to %d", have, len(inv.ENIs), least, most)
	}
	x.complete(inv)
	for _, c := range x.Audit() {
		if c.Action == "AttachNetworkInterface" && c.Code == "InvalidParameterValue" {
			x.t.Errorf("a device index was used twice: %v", c.Parameters)
		}
	}
}

// complete checks that all ENIs of an inventory are completely set up.
func (x *crowd) complete(inv eni.Inventory) {
	x.t.Helper()
	places, addrs := map[int]string{}, map[netip.Prefix]string{}
	for _, e := range inv.ENIs {
		have, _ := x.ENI(e.ID)
		if e.InFlight || !e.Primary && (have.Attachment == nil || !have.Attachment.DeleteOnTermination || !e.ForPods() || len(e.Blocks()) != 3) {
			x.t.Errorf("%s is not complete: %+v", e.ID, e)
		}
		if places[e.Device] != "" {
			x.t.Errorf("%s and %s have the device index %d", places[e.Device], e.ID, e.Device)
		}
		places[e.Device] = e.ID
		for _, b := range e.Blocks() {
			if addrs[b] != "" {
				x.t.Errorf("%s and %s have %s", addrs[b], e.ID, b)
			}
			addrs[b] = e.ID
		}
	}
}

// TestKillWithSeveralCreates kills the process at each point while it creates three
// ENIs side by side.
func TestKillWithSeveralCreates(t *testing.T) {
	const enis = 3
	for fuse, survived := 1, false; !survived; fuse++ {
		t.Run(fmt.Sprint(fuse), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newCrowd(t)
				x.mu.Lock()
				x.fuse, x.points = fuse, 0
				x.mu.Unlock()
				done := x.provision(enis)
				x.mu.Lock()
				survived = !x.killed
				x.mu.Unlock()
				if survived && len(done) != enis {
					t.Errorf("%d ENIs, want %d", len(done), enis)
				}
				x.finish(1+len(done), 1+enis)
			})
		})
		if t.Failed() {
			return
		}
	}
}

// TestModelWithSeveralCreates creates several ENIs side by side while EC2 fails, loses
// answers and throttles, and kills the process now and then.
func TestModelWithSeveralCreates(t *testing.T) {
	rounds := uint64(60)
	if testing.Short() {
		rounds = 15
	}
	made, kills := 0, 0
	for seed := range rounds {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			rnd := rand.New(rand.NewPCG(seed, 2))
			x := newCrowd(t)
			jitter := rand.New(rand.NewPCG(seed, 3))
			x.random = func() float64 {
				x.mu.Lock()
				defer x.mu.Unlock()
				return jitter.Float64()
			}
			faults := &model{rnd: rnd}
			for range 6 {
				var remove []func()
				for range rnd.IntN(4) {
					remove = append(remove, x.AddFault(faults.fault()))
				}
				x.mu.Lock()
				if rnd.IntN(3) == 0 {
					x.fuse = 1 + rnd.IntN(40)
				}
				x.mu.Unlock()
				made += len(x.provision(1 + rnd.IntN(4)))
				for _, f := range remove {
					f()
				}
				x.mu.Lock()
				dead := x.killed
				x.fuse = 0
				x.mu.Unlock()
				if dead {
					kills++
					x.boot()
				}
				time.Sleep(time.Duration(rnd.IntN(60)) * time.Second)
			}
			time.Sleep(30 * time.Minute)
			x.finish(1, 8)
		})
		if t.Failed() {
			return
		}
	}
	if made < 2*int(rounds) || kills < int(rounds)/3 {
		t.Errorf("%d ENIs and %d kills, want at least %d and %d", made, kills, 2*rounds, rounds/3)
	}
}

// TestPlaceOfNewENIStaysTaken: while an ENI that has just been finished goes from the
// journal to the inventory, no other one gets its device index.
func TestPlaceOfNewENIStaysTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newCrowd(t)
		slow := &slowJournal{Memory: eni.NewMemory()}
		x.m = x.manager(x.inst, eni.Config{Intents: slow, Client: eni.NewClient(x.config(x.inst.ID, nil), fast)})
		// Each ENI begins while the one before is being finished.
		slow.onDone = func() {
			if slow.begun++; slow.begun < 5 {
				slow.wg.Go(func() {
					if _, err := x.m.Provision(t.Context(), eni.ProvisionInput{Slots: 3}); err != nil {
						t.Error(err)
					}
				})
			}
		}
		if _, err := x.m.Provision(t.Context(), eni.ProvisionInput{Slots: 3}); err != nil {
			t.Error(err)
		}
		slow.wg.Wait()
		x.complete(x.m.Inventory())
		if n := len(x.attached(x.inst.ID)); n != 6 {
			t.Errorf("%d ENIs, want 6", n)
		}
		for _, c := range x.Audit() {
			if c.Action == "AttachNetworkInterface" && c.Code != "" {
				t.Errorf("attach was refused with %s: %v", c.Code, c.Parameters)
			}
		}
	})
}

// slowJournal is a journal that takes a second to write that an intent is done.
type slowJournal struct {
	*eni.Memory
	onDone func()
	begun  int
	wg     sync.WaitGroup
}

func (j *slowJournal) Put(ctx context.Context, in eni.Intent) error {
	if in.Done && in.Op == eni.OpProvision {
		j.onDone()
		time.Sleep(time.Second)
	}
	return j.Memory.Put(ctx, in)
}
