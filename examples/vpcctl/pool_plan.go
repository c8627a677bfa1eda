// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
)

const planAbout = `plan reads a pool as JSON on standard input and prints what the node agent would
do with a policy, and why. The agent serves waiting pods if the card has room,
whatever the policy's targets are. plan changes nothing.

  echo '{"limits":{"maxENIs":3,"slotsPerENI":5,"maxPods":17},
         "enis":[{"id":"eni-1","primary":true,"slots":5,"addresses":5,"assigned":4}],
         "demand":{"waiting":0,"bound":0}}' |
    vpcctl pool plan -policy aws -set WARM_IP_TARGET=2 -set MINIMUM_IP_TARGET=5

The pool has these fields: limits {maxENIs, slotsPerENI, addressesPerSlot, maxPods};
enis [{id, primary, noPods, full, slots, pendingSlots, addresses, assigned, cooling,
ageSeconds, assignedPerSlot, coolingPerSlot}]; demand {waiting, bound};
subnet {free, freePrefixes, exhausted}; card; now; memory.
A slot is a secondary private IP, or a /28 prefix if addressesPerSlot is 16.
slotsPerENI does not count the primary private IP of the ENI. EC2 accepts no more
slots on a full ENI. Policies that wait need the memory of one decision in the next
pool.`

// poolJSON is a warmpool.Snapshot as JSON.
type poolJSON struct {
	Now    time.Time `json:"now"`
	Card   int       `json:"card"`
	Limits struct {
		MaxENIs          int `json:"maxENIs"`
		SlotsPerENI      int `json:"slotsPerENI"`
		AddressesPerSlot int `json:"addressesPerSlot"`
		MaxPods          int `json:"maxPods"`
	} `json:"limits"`
	ENIs   []eniJSON `json:"enis"`
	Demand struct {
		Waiting int `json:"waiting"`
		Bound   int `json:"bound"`
	} `json:"demand"`
	Subnet struct {
		Free         int  `json:"free"`
		FreePrefixes int  `json:"freePrefixes"`
		Exhausted    bool `json:"exhausted"`
	} `json:"subnet"`
	Memory warmpool.Memory `json:"memory,omitzero"`
}

type eniJSON struct {
	ID              string  `json:"id"`
	Primary         bool    `json:"primary"`
	NoPods          bool    `json:"noPods"`
	Full            bool    `json:"full"`
	Slots           int     `json:"slots"`
	PendingSlots    int     `json:"pendingSlots"`
	Addresses       int     `json:"addresses"`
	Assigned        int     `json:"assigned"`
	Cooling         int     `json:"cooling"`
	AgeSeconds      float64 `json:"ageSeconds"`
	AssignedPerSlot []int   `json:"assignedPerSlot"`
	CoolingPerSlot  []int   `json:"coolingPerSlot"`
}

// decisionJSON is a warmpool.Decision as JSON.
type decisionJSON struct {
	Short       int             `json:"short"`
	Over        int             `json:"over"`
	Actions     []actionJSON    `json:"actions"`
	Reason      string          `json:"reason"`
	Capped      string          `json:"capped,omitempty"`
	NextSeconds float64         `json:"nextSeconds,omitempty"`
	Memory      warmpool.Memory `json:"memory,omitzero"`
}

type actionJSON struct {
	Op     string `json:"op"`
	ENI    string `json:"eni"`
	N      int    `json:"n"`
	Reason string `json:"reason"`
}

func poolPlan(_ context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("pool plan", flag.ContinueOnError)
	var c choices
	c.register(fs, "the policy")
	out := outputFlag(fs, formatText, formatJSON, formatYAML)
	if err := parse(fs, std, args, planAbout+"\n\n"+policyHelp()); err != nil {
		return err
	}
	policies, err := c.build(false)
	if err != nil {
		return wrong(fs, std, err.Error())
	}
	if len(policies) != 1 {
		return wrong(fs, std, fmt.Sprintf("%d policies, want one policy", len(policies)))
	}
	s, err := readPool(std.in)
	if err != nil {
		return fmt.Errorf("pool on standard input: %w", err)
	}
	d := warmpool.Plan(warmpool.AgentPolicy(policies[0].policy), s)
	return out.print(std.out, newDecisionJSON(d), func() { printDecision(std.out, d) })
}

func readPool(r io.Reader) (warmpool.Snapshot, error) {
	var in poolJSON
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("no input")
		}
		return warmpool.Snapshot{}, err
	}
	s := warmpool.Snapshot{
		Now: in.Now, Card: in.Card, Memory: in.Memory,
		Limits: warmpool.Limits(in.Limits), Demand: warmpool.Demand(in.Demand), Subnet: warmpool.Subnet(in.Subnet),
	}
	if s.Now.IsZero() {
		s.Now = time.Unix(0, 0).UTC()
	}
	unit := max(1, s.Limits.AddressesPerSlot)
	for i, e := range in.ENIs {
		x, err := e.eni(unit, i)
		if err != nil {
			return warmpool.Snapshot{}, err
		}
		s.ENIs = append(s.ENIs, x)
	}
	return s, nil
}

// eni checks the fields of an ENI and computes missing ones from the others.
func (e eniJSON) eni(unit, i int) (warmpool.ENI, error) {
	name := fmt.Sprintf("enis[%d] (%s)", i, e.ID)
	if e.ID == "" {
		return warmpool.ENI{}, fmt.Errorf("%s has no id", name)
	}
	if e.Slots == 0 {
		e.Slots = (e.Addresses + unit - 1) / unit
	}
	if e.Addresses == 0 {
		e.Addresses = e.Slots * unit
	}
	if e.Assigned == 0 {
		for _, n := range e.AssignedPerSlot {
			e.Assigned += n
		}
	}
	for _, n := range append(append([]int{e.Slots, e.PendingSlots, e.Addresses, e.Assigned, e.Cooling}, e.AssignedPerSlot...), e.CoolingPerSlot...) {
		if n < 0 {
			return warmpool.ENI{}, fmt.Errorf("%s has a negative number", name)
		}
	}
	if e.Assigned+e.Cooling > e.Addresses {
		return warmpool.ENI{}, fmt.Errorf("%s has %d addresses, but %d assigned and %d cooling", name, e.Addresses, e.Assigned, e.Cooling)
	}
	if len(e.AssignedPerSlot) > e.Slots || len(e.CoolingPerSlot) > e.Slots {
		return warmpool.ENI{}, fmt.Errorf("%s has counts for more than its %d slots", name, e.Slots)
	}
	return warmpool.ENI{
		ID: e.ID, Primary: e.Primary, NoPods: e.NoPods, Full: e.Full, Slots: e.Slots, PendingSlots: e.PendingSlots,
		Addresses: e.Addresses, Assigned: e.Assigned, Cooling: e.Cooling,
		AssignedPerSlot: e.AssignedPerSlot, CoolingPerSlot: e.CoolingPerSlot,
		Age: time.Duration(e.AgeSeconds * float64(time.Second)),
	}, nil
}

func newDecisionJSON(d warmpool.Decision) decisionJSON {
	out := decisionJSON{
		Short: d.Short, Over: d.Over, Actions: []actionJSON{}, Reason: d.Explanation.String(), Capped: d.Capped.String(),
		NextSeconds: d.Next.Seconds(), Memory: d.Memory,
	}
	for _, a := range d.Actions {
		out.Actions = append(out.Actions, actionJSON{a.Op.String(), a.ENI, a.N, a.Explanation.String()})
	}
	return out
}

func printDecision(w io.Writer, d warmpool.Decision) {
	fmt.Fprintf(w, "short %d slots, over %d slots: %s\n", d.Short, d.Over, d.Explanation)
	if !d.Capped.IsZero() {
		fmt.Fprintf(w, "limited: %s\n", d.Capped)
	}
	for i, a := range d.Actions {
		where := a.ENI
		if a.Op == warmpool.OpCreate {
			where = "a new ENI"
		}
		fmt.Fprintf(w, "%d. %s %d on %s\n   because %s\n", i+1, a.Op, a.N, where, a.Explanation)
	}
	if len(d.Actions) == 0 {
		fmt.Fprintln(w, "nothing to do")
	}
	if d.Next > 0 {
		fmt.Fprintf(w, "decide again in %s\n", d.Next)
	}
}
