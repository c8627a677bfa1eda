// SPDX-License-Identifier: Apache-2.0

package warmpooltest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
)

// scenarios is how many pools Check tries.
const scenarios = 200

// Run checks the policy and reports what it does wrong as failures of t, each
// with the pool and the decision that show it.
func Run(t *testing.T, p warmpool.Policy) {
	t.Helper()
	for _, v := range Violations(p) {
		t.Error(v)
	}
}

// Fuzz checks the policy on pools that the fuzzer makes up.
func Fuzz(f *testing.F, p warmpool.Policy) {
	f.Add([]byte("a pool"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		src := &bytesSource{data: data}
		for _, v := range check(p, func() *rand.Rand { s := *src; return rand.New(&s) }) {
			t.Error(v)
		}
	})
}

// Violation is a rule that a policy breaks.
type Violation struct {
	Rule string
	// Err says what happened, on which pool and by which decision.
	Err error
	// Pools is on how many of the pools it happened; Err tells of the first.
	Pools int
}

func (v Violation) Error() string {
	return fmt.Sprintf("rule %s broken on %d of %d pools; the first: %v", v.Rule, v.Pools, scenarios, v.Err)
}

func (v Violation) Unwrap() error { return v.Err }

// Violations returns the rules that the policy breaks, in the order of the
// package documentation.
func Violations(p warmpool.Policy) []Violation {
	var out []Violation
	for seed := range uint64(scenarios) {
		for _, v := range check(p, func() *rand.Rand { return rand.New(rand.NewPCG(seed, 4711)) }) {
			i := slices.IndexFunc(out, func(o Violation) bool { return o.Rule == v.Rule })
			if i < 0 {
				out = append(out, v)
				continue
			}
			out[i].Pools++
		}
	}
	slices.SortStableFunc(out, func(a, b Violation) int { return ruleIndex(a.Rule) - ruleIndex(b.Rule) })
	return out
}

// rules are checked each on a fresh copy of the same pool.
var rules = []struct {
	name  string
	check func(warmpool.Policy, *Pool, *rand.Rand) error
}{
	{"deterministic", checkDeterministic},
	{"limits", checkLimits},
	{"in-use", checkInUse},
	{"rest", checkRest},
	{"flapping", checkFlapping},
	{"serving", checkServing},
}

func ruleIndex(name string) int {
	for i, r := range rules {
		if r.name == name {
			return i
		}
	}
	return len(rules)
}

func check(p warmpool.Policy, random func() *rand.Rand) []Violation {
	var out []Violation
	for _, r := range rules {
		rng := random()
		if err := r.check(p, randomPool(rng), rng); err != nil {
			out = append(out, Violation{Rule: r.name, Err: err, Pools: 1})
		}
	}
	return out
}

// bytesSource turns a fuzzer's bytes into random numbers; when they are used
// up it counts.
type bytesSource struct {
	data []byte
	n    uint64
}

func (s *bytesSource) Uint64() uint64 {
	s.n++
	if len(s.data) >= 8 {
		v := binary.LittleEndian.Uint64(s.data)
		s.data = s.data[8:]
		return v
	}
	var last [8]byte
	copy(last[:], s.data)
	return rand.NewPCG(s.n, binary.LittleEndian.Uint64(last[:])).Uint64()
}

// randomPool makes a pool in any state that a node can be in.
func randomPool(rng *rand.Rand) *Pool {
	l := warmpool.Limits{MaxENIs: 1 + rng.IntN(8), SlotsPerENI: 1 + rng.IntN(30), AddressesPerSlot: 1}
	if rng.IntN(2) == 0 {
		l.AddressesPerSlot = 16
		l.SlotsPerENI = 1 + rng.IntN(10)
	}
	if rng.IntN(2) == 0 {
		l.MaxPods = 1 + rng.IntN(250)
	}
	p := NewPool(l)
	p.Card = rng.IntN(8) / 7
	for range rng.IntN(l.MaxENIs) {
		p.AddENI(rng.IntN(l.SlotsPerENI + 1))
	}
	if rng.IntN(4) == 0 {
		last := &p.enis[len(p.enis)-1]
		last.noPods = !last.primary
	}
	p.enis[0].fill(rng.IntN(l.SlotsPerENI + 1))
	for i := range p.enis {
		p.enis[i].full = rng.IntN(8) == 0
	}
	p.Now = p.Now.Add(time.Duration(rng.IntN(120)) * time.Second)
	for range rng.IntN(p.most() + 1) {
		p.AddPod()
	}
	for range rng.IntN(60) {
		if e := rng.IntN(len(p.enis)); len(p.enis[e].used) > 0 {
			p.RemovePod(e, rng.IntN(len(p.enis[e].used)))
		}
	}
	return p
}

// most is a number of pods that the card and max-pods can bear, and no more
// than 200, because some policies have a limit of their own.
func (p *Pool) most() int {
	n := min(200, p.capacity())
	if p.Limits.MaxPods > 0 {
		n = min(n, p.Limits.MaxPods)
	}
	return n
}

func (p *Pool) capacity() int {
	slots := p.Limits.MaxENIs * p.Limits.SlotsPerENI
	for _, e := range p.enis {
		switch {
		case e.noPods:
			slots -= p.Limits.SlotsPerENI
		case e.full:
			slots -= p.Limits.SlotsPerENI - len(e.used)
		}
	}
	return slots * p.unit()
}

func checkDeterministic(p warmpool.Policy, pool *Pool, _ *rand.Rand) error {
	s, same := pool.Snapshot(), pool.Snapshot()
	first := p.Decide(s)
	if !reflect.DeepEqual(s, same) {
		return fmt.Errorf("the policy has changed the snapshot it was given\n%s", describe(same, first))
	}
	for range 3 {
		if second := p.Decide(s); !reflect.DeepEqual(first, second) {
			return fmt.Errorf("the same snapshot gave two decisions; does the policy keep state outside Memory, or look at a clock?\n%sand then\n%s",
				describe(s, first), describeDecision(second))
		}
	}
	return nil
}

func checkLimits(p warmpool.Policy, pool *Pool, rng *rand.Rand) error {
	return pool.walk(p, rng, func(s warmpool.Snapshot, d warmpool.Decision) error {
		created, added := len(s.ENIs), map[string]int{}
		for _, a := range d.Actions {
			e, found := findENI(s, a.ENI)
			room := s.Limits.SlotsPerENI - e.Slots - e.PendingSlots - added[a.ENI]
			if e.Full {
				room = 0
			}
			switch {
			case a.Op == warmpool.OpCreate:
				if created++; created > s.Limits.MaxENIs {
					return fmt.Errorf("creates ENI number %d on a card that can have %d", created, s.Limits.MaxENIs)
				}
				if a.N < 1 || a.N > s.Limits.SlotsPerENI {
					return fmt.Errorf("creates an ENI with %d slots, an ENI has 1 to %d", a.N, s.Limits.SlotsPerENI)
				}
			case !found:
				return fmt.Errorf("%s %d on ENI %q, which is not there", a.Op, a.N, a.ENI)
			case a.Op == warmpool.OpAssign && (e.NoPods || a.N < 1 || a.N > room):
				return fmt.Errorf("assigns %d slots to %q, which has room for %d (not for pods: %v, full: %v)", a.N, a.ENI, room, e.NoPods, e.Full)
			case a.Op == warmpool.OpAssign:
				added[a.ENI] += a.N
			}
		}
		return nil
	})
}

func checkInUse(p warmpool.Policy, pool *Pool, rng *rand.Rand) error {
	return pool.walk(p, rng, func(s warmpool.Snapshot, d warmpool.Decision) error {
		gone := map[string]int{}
		for _, a := range d.Actions {
			e, _ := findENI(s, a.ENI)
			switch a.Op {
			case warmpool.OpUnassign:
				gone[a.ENI] += a.N
				if free := freeSlots(e); e.NoPods || gone[a.ENI] > free {
					return fmt.Errorf("unassigns %d slots of %q, of which %d have neither an assigned nor a cooling address (not for pods: %v)",
						gone[a.ENI], a.ENI, free, e.NoPods)
				}
			case warmpool.OpDelete:
				if e.Primary || e.NoPods || e.Assigned+e.Cooling > 0 {
					return fmt.Errorf("deletes %q with %d assigned and %d cooling addresses (primary: %v, not for pods: %v)",
						a.ENI, e.Assigned, e.Cooling, e.Primary, e.NoPods)
				}
			}
		}
		return nil
	})
}

// walk lets pods come and go and hands each decision to check, before it is
// carried out through the frame.
func (p *Pool) walk(policy warmpool.Policy, rng *rand.Rand, check func(warmpool.Snapshot, warmpool.Decision) error) error {
	for range 12 {
		s := p.Snapshot()
		d := policy.Decide(s)
		if err := check(s, d); err != nil {
			return fmt.Errorf("%w\n%s", err, describe(s, d))
		}
		if err := p.Apply(warmpool.Plan(policy, s)); err != nil {
			return fmt.Errorf("not to be carried out: %w\n%s", err, describe(s, d))
		}
		for range rng.IntN(8) {
			if p.pods() < p.most() {
				p.AddPod()
			}
		}
		for range rng.IntN(12) {
			if e := rng.IntN(len(p.enis)); len(p.enis[e].used) > 0 {
				p.RemovePod(e, rng.IntN(len(p.enis[e].used)))
			}
		}
		if rng.IntN(3) == 0 {
			p.Cool()
		}
		p.Now = p.Now.Add(time.Duration(rng.IntN(400)) * time.Second)
	}
	return nil
}

// errRestless is what a pool gives that does not come to rest.
var errRestless = errors.New("the pool does not come to rest")

func checkRest(p warmpool.Policy, pool *Pool, _ *rand.Rand) error {
	pool.Cool()
	start := pool.Snapshot()
	if err := pool.restOrFail(p); err != nil {
		return fmt.Errorf("%w\nit began as %s", err, describePool(start))
	}
	s := pool.Snapshot()
	if d := warmpool.Plan(p, s); len(d.Actions) > 0 {
		return fmt.Errorf("planning again at rest still does something\n%s", describe(s, d))
	}
	return nil
}

func (p *Pool) restOrFail(policy warmpool.Policy) error {
	const steps = 600
	ok, err := p.Settle(policy, steps)
	if err != nil || ok {
		return err
	}
	s := p.Snapshot()
	return fmt.Errorf("%w within %d looks; the last is\n%s", errRestless, steps, describe(s, warmpool.Plan(policy, s)))
}

func checkFlapping(p warmpool.Policy, pool *Pool, _ *rand.Rand) error {
	pool.Cool()
	if pool.restOrFail(p) != nil {
		return nil // said by rest
	}
	grown, shrunk := 0, 0
	for end := pool.Now.Add(24 * time.Hour); pool.Now.Before(end); {
		s := pool.Snapshot()
		d := warmpool.Plan(p, s)
		for _, a := range d.Actions {
			switch a.Op {
			case warmpool.OpCreate, warmpool.OpAssign:
				grown += a.N
			default:
				shrunk += a.N
			}
		}
		if grown > 0 && shrunk > 0 {
			return fmt.Errorf("under constant demand %d slots were added and %d given back; a dead band or a longer hold-down is missing\n%s", grown, shrunk, describe(s, d))
		}
		if err := pool.Apply(d); err != nil {
			return err
		}
		if d.Next == 0 && len(d.Actions) == 0 {
			return nil // it will not look again
		}
		pool.Now = pool.Now.Add(max(time.Minute, d.Next))
	}
	return nil
}

func checkServing(p warmpool.Policy, pool *Pool, rng *rand.Rand) error {
	for range rng.IntN(80) {
		if pool.pods() < pool.most() {
			pool.AddPod()
		}
	}
	pool.Cool()
	start := pool.Snapshot()
	if pool.restOrFail(p) != nil {
		return nil // said by rest
	}
	pool.Cool()
	if s := pool.Snapshot(); pool.Waiting > 0 {
		return fmt.Errorf("%d pods still wait although the card has room for more addresses\n%sit began as %s",
			pool.Waiting, describe(s, warmpool.Plan(p, s)), describePool(start))
	}
	return nil
}
