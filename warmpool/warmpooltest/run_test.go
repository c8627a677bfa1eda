// SPDX-License-Identifier: Apache-2.0

package warmpooltest_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
	"github.com/vpcnet/vpcnet/warmpool/warmpooltest"
)

// decide is a policy that calls a function.
type decide func(warmpool.Snapshot) warmpool.Decision

func (f decide) Decide(s warmpool.Snapshot) warmpool.Decision { return f(s) }

func assign(eni string, n int) warmpool.Action {
	return warmpool.Action{Op: warmpool.OpAssign, ENI: eni, N: n}
}

func unassign(eni string, n int) warmpool.Action {
	return warmpool.Action{Op: warmpool.OpUnassign, ENI: eni, N: n}
}

// TestPlantedFaults checks policies with one fault each: Violations must report the
// right rule and describe the fault.
func TestPlantedFaults(t *testing.T) {
	var calls atomic.Int64
	var memory time.Time
	good := warmpool.Band{}
	for _, tc := range []struct {
		name, rule, want string
		policy           decide
	}{
		{"uses its own counter", "deterministic", "two decisions; does the policy keep state outside Memory", func(s warmpool.Snapshot) warmpool.Decision {
			return warmpool.Decision{Next: time.Duration(calls.Add(1))}
		}},
		{"remembers outside Memory", "deterministic", "the same snapshot gave two decisions", func(s warmpool.Snapshot) warmpool.Decision {
			d := warmpool.Decision{Next: s.Now.Sub(memory)}
			memory = s.Now
			return d
		}},
		{"modifies its snapshot", "deterministic", "has modified its snapshot", func(s warmpool.Snapshot) warmpool.Decision {
			s.ENIs[0].Slots++
			return warmpool.Decision{}
		}},
		{"assigns all slots to one ENI", "limits", "which has room for", func(s warmpool.Snapshot) warmpool.Decision {
			d := good.Decide(s)
			if d.Short > 0 {
				d.Actions = []warmpool.Action{assign(s.ENIs[0].ID, d.Short)}
			}
			return d
		}},
		{"creates ENIs beyond the limit", "limits", "on a card that can have", func(s warmpool.Snapshot) warmpool.Decision {
			d := good.Decide(s)
			if d.Short > 0 {
				d.Actions = append(d.Actions, warmpool.Action{Op: warmpool.OpCreate, N: 1})
			}
			return d
		}},
		{"creates an ENI with too many slots", "limits", "creates an ENI with", func(s warmpool.Snapshot) warmpool.Decision {
			d := good.Decide(s)
			if d.Short > 0 && len(s.ENIs) < s.Limits.MaxENIs {
				d.Actions = []warmpool.Action{{Op: warmpool.OpCreate, N: 16 * s.Limits.SlotsPerENI}}
			}
			return d
		}},
		{"names an unknown ENI", "limits", "which does not exist", func(s warmpool.Snapshot) warmpool.Decision {
			return warmpool.Decision{Actions: []warmpool.Action{assign("eni-new", 1)}}
		}},
		{"assigns slots to a trunk ENI", "limits", "not for pods: true", func(s warmpool.Snapshot) warmpool.Decision {
			d := good.Decide(s)
			if e := s.ENIs[len(s.ENIs)-1]; e.NoPods && d.Short > 0 {
				d.Actions = []warmpool.Action{assign(e.ID, 1)}
			}
			return d
		}},
		{"assigns slots to a full ENI", "limits", "full: true", func(s warmpool.Snapshot) warmpool.Decision {
			d := good.Decide(s)
			for _, e := range s.ENIs {
				if e.Full && !e.NoPods && e.Slots < s.Limits.SlotsPerENI && d.Short > 0 {
					d.Actions = []warmpool.Action{assign(e.ID, 1)}
				}
			}
			return d
		}},
		{"waits for a full ENI", "serving", "pods still wait", func(s warmpool.Snapshot) warmpool.Decision {
			for _, e := range s.ENIs {
				if e.Full && !e.NoPods && e.Slots < s.Limits.SlotsPerENI {
					return warmpool.Decision{}
				}
			}
			return good.Decide(s)
		}},
		{"treats cooling addresses as free", "in-use", "neither an assigned nor a cooling address", func(s warmpool.Snapshot) warmpool.Decision {
			d := good.Decide(s)
			for _, e := range s.ENIs {
				if n := e.Slots - e.Assigned; s.Limits.AddressesPerSlot == 1 && d.Short == 0 && n > 8 {
					d.Actions = []warmpool.Action{unassign(e.ID, n)}
				}
			}
			return d
		}},
		{"counts addresses instead of prefixes", "in-use", "of which", func(s warmpool.Snapshot) warmpool.Decision {
			d := good.Decide(s)
			if over := s.Limits.AddressesPerSlot * d.Over; over > 0 {
				d.Actions = []warmpool.Action{unassign(s.ENIs[0].ID, over)}
			}
			return d
		}},
		{"deletes the primary ENI", "in-use", "(primary: true", func(s warmpool.Snapshot) warmpool.Decision {
			d := good.Decide(s)
			if s.ENIs[0].Assigned == 0 && len(s.ENIs) > 1 {
				d.Actions = []warmpool.Action{{Op: warmpool.OpDelete, ENI: s.ENIs[0].ID}}
			}
			return d
		}},
		{"deletes ENIs in use", "in-use", "deletes \"eni-", func(s warmpool.Snapshot) warmpool.Decision {
			if len(s.ENIs) > 1 {
				return warmpool.Decision{Actions: []warmpool.Action{{Op: warmpool.OpDelete, ENI: s.ENIs[1].ID}}}
			}
			return good.Decide(s)
		}},
		{"has a low mark above its high mark", "settling", "does not settle within", func(s warmpool.Snapshot) warmpool.Decision {
			v := s.Supply()
			d := warmpool.Decision{Next: time.Second}
			d.Short, d.Over = warmpool.Corridor{Min: v.Assigned + 40, GrowTo: v.Assigned + 40, Max: v.Assigned + 60, ShrinkTo: v.Assigned}.Slots(v)
			d.Actions = warmpool.Placer{}.Grow(nil, &s, d.Short, d.Explanation)
			if d.Short == 0 {
				d.Actions = warmpool.Placer{}.Shrink(nil, &s, v.FreeSlots/2, d.Explanation)
			}
			return d
		}},
		{"changes its targets with the time of day", "flapping", "needs a dead band or a longer hold-down", func(s warmpool.Snapshot) warmpool.Decision {
			p := warmpool.Band{Low: 1, High: 5, HoldDown: time.Second}
			if s.Now.Hour()%8 >= 4 {
				p.Low, p.High = 40, 80
			}
			d := p.Decide(s)
			d.Next = time.Hour
			return d
		}},
		{"ignores demand", "serving", "pods still wait although the card has room", func(s warmpool.Snapshot) warmpool.Decision {
			v := s.Supply()
			d := warmpool.Decision{}
			d.Short, _ = warmpool.Corridor{Min: 10, GrowTo: 10, Max: 1000}.Slots(v)
			d.Actions = warmpool.Placer{}.Grow(nil, &s, d.Short, d.Explanation)
			return d
		}},
		{"uses only its first ENI", "serving", "pods still wait", func(s warmpool.Snapshot) warmpool.Decision {
			s.Limits.MaxENIs = 1
			return good.Decide(s)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var broken []string
			for _, v := range warmpooltest.Violations(tc.policy) {
				if v.Rule == tc.rule {
					if !strings.Contains(v.Error(), tc.want) {
						t.Errorf("violation does not contain %q:\n%v", tc.want, v)
					}
					return
				}
				broken = append(broken, v.Rule)
			}
			t.Errorf("broken rules %v; want %s", broken, tc.rule)
		})
	}
}

func TestViolationError(t *testing.T) {
	p := decide(func(s warmpool.Snapshot) warmpool.Decision {
		return warmpool.Decision{Actions: []warmpool.Action{assign("eni-new", 1)}}
	})
	v := warmpooltest.Violations(p)
	if len(v) == 0 {
		t.Fatal("no violations, want limits")
	}
	const want = `rule limits broken on 200 of 200 pools; first: assign 1 on ENI "eni-new", which does not exist
pool: `
	if got := v[0].Error(); !strings.HasPrefix(got, want) {
		t.Errorf("got %s\nwant the prefix %s", got, want)
	}
}

func ExampleViolations() {
	// This policy assigns more slots to an ENI than it can have.
	greedy := decide(func(s warmpool.Snapshot) warmpool.Decision {
		return warmpool.Decision{Actions: []warmpool.Action{assign(s.ENIs[0].ID, 1000)}}
	})
	for _, v := range warmpooltest.Violations(greedy) {
		fmt.Println("broken:", v.Rule, "on", v.Pools, "pools")
	}
	// Output:
	// broken: limits on 200 pools
	// broken: serving on 98 pools
}

func TestPool(t *testing.T) {
	pool := warmpooltest.NewPool(warmpool.Limits{MaxENIs: 2, SlotsPerENI: 2})
	for _, d := range []struct {
		action warmpool.Action
		want   string
	}{
		{assign("eni-0", 3), "an ENI has at most 2 slots"},
		{assign("eni-7", 1), "no ENI has this ID"},
		{unassign("eni-0", 1), "not free"},
		{warmpool.Action{Op: warmpool.OpDelete, ENI: "eni-0"}, "primary"},
		{warmpool.Action{Op: warmpool.OpCreate, N: 3}, "an ENI has at most 2 slots"},
		{warmpool.Action{Op: "swap", ENI: "eni-0"}, "unknown operation"},
	} {
		err := pool.Apply(warmpool.Decision{Actions: []warmpool.Action{d.action}})
		if err == nil || !strings.Contains(err.Error(), d.want) {
			t.Errorf("%s: error %v; want %q", d.action.Op, err, d.want)
		}
	}
	for range 5 {
		pool.AddPod()
	}
	if ok, err := pool.Settle(warmpool.AWS{WarmIPTarget: 1}, 100); !ok || err != nil || pool.Waiting != 1 {
		t.Errorf("settled %v, error %v, %d pods wait; want 1 of 5 pods to wait, because there are 4 addresses", ok, err, pool.Waiting)
	}
}
