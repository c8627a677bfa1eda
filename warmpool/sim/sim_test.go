// SPDX-License-Identifier: Apache-2.0

package sim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/warmpool"
	"github.com/vpcnet/vpcnet/warmpool/sim"
)

func run(t *testing.T, c sim.Config, tr sim.Trace) sim.Report {
	t.Helper()
	r, err := sim.Run(t.Context(), c, tr)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func generate(t testing.TB, w sim.Workload) sim.Trace {
	t.Helper()
	tr, err := w.Trace()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// exact gives every call a constant time.
var exact = sim.EC2{Call: time.Second, Visible: time.Second, Attach: 4 * time.Second, Detach: 3 * time.Second, Sigma: -1}

func parse(t *testing.T, csv string) sim.Trace {
	t.Helper()
	tr, err := sim.ReadCSV(strings.NewReader(csv))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// TestByHand runs a trace that is small enough to calculate by hand: one node, at
// most 2 addresses per ENI, and no spare addresses.
func TestByHand(t *testing.T) {
	tr := parse(t, "10,n,add,a\n10,n,add,b\n20,n,add,c\n100,n,delete,c\n")
	r := run(t, sim.Config{
		Name: "on demand", Policy: warmpool.Band{Low: -1, Batch: 1, HoldDown: time.Minute, KeepENI: time.Minute},
		Limits: warmpool.Limits{MaxENIs: 3, SlotsPerENI: 2}, EC2: exact,
	}, tr)
	// Pod a gets the node's first address, which was fetched from 0 to 2 s. Pod b
	// waits 2 s for a call and its address. Pod c needs an ENI: three calls of 1 s
	// and 4 s to attach, 7 s in all.
	want := sim.Report{
		Policy: "on demand", Trace: "trace", Pods: 3, PodsThatWaited: 2,
		WaitP50Seconds: 2, WaitP99Seconds: 7, WaitMaxSeconds: 7, PodWaitSeconds: 9,
		EC2Calls: map[string]int{
			"AssignPrivateIpAddresses": 2, "CreateNetworkInterface": 1, "AttachNetworkInterface": 1, "ModifyNetworkInterfaceAttribute": 1,
		},
		EC2CallsTotal: 5, PeakCallsPerSecond: 1, ENIChurn: 1, SubnetHighWater: 1 + 2 + 2,
	}
	got := r
	got.Series, got.Events, got.Decisions = nil, 0, 0
	got.IdleAddressHours, got.HeldAddressHours = 0, 0
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	// The address of a is idle from the call at 0 s until the pod starts at 10 s,
	// that of b for 2 s, that of c and the one of its ENI for 7 s. The ENI's own
	// address is then idle to 100 s, and both to the end at 700 s.
	idle := (10.0 + 2 + 7*2 + (100 - 27) + 600*2) / 3600
	if math.Abs(r.IdleAddressHours-idle) > 1e-6 {
		t.Errorf("idle address-hours %v; want %v", r.IdleAddressHours, idle)
	}
}

func TestShapesAreTraces(t *testing.T) {
	for name := range sim.Shapes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := generate(t, sim.Workload{Shape: name, Nodes: 5, Pods: 10, Horizon: 6 * time.Hour})
			live, last := map[[2]int]bool{}, time.Duration(0)
			most, n := 0, 0
			for ev := range tr.Events {
				pod := [2]int{ev.Node, ev.Pod}
				if ev.At < last || live[pod] == !ev.Delete {
					t.Fatalf("event %+v after %v, live %v", ev, last, live[pod])
				}
				if last = ev.At; ev.Delete {
					delete(live, pod)
				} else {
					live[pod] = true
				}
				most = max(most, len(live))
				n++
			}
			if n < 50 || most < 30 || most > 200 {
				t.Errorf("%d events, %d pods at most; want at least 50 events and 30 to 200 pods", n, most)
			}
		})
	}
}

func TestDeterministic(t *testing.T) {
	tr := generate(t, sim.Workload{Shape: "churn", Nodes: 3, Horizon: 3 * time.Hour, Seed: 7})
	c := sim.Config{Policy: warmpool.AWS{WarmIPTarget: 2}, AddressChoice: sim.Spread, Seed: 3}
	a, b := run(t, c, tr), run(t, c, tr)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("two runs with the same arguments (-first +second):\n%s", diff)
	}
	c.Seed = 4
	if cmp.Equal(a, run(t, c, tr)) {
		t.Error("another seed gives the same report")
	}
}

// TestThrottling scales a fleet with a small token bucket: calls are throttled and
// repeated, and pods wait long.
func TestThrottling(t *testing.T) {
	tr := generate(t, sim.Workload{Shape: "scale", Nodes: 100, Horizon: 3 * time.Hour})
	r := run(t, sim.Config{Policy: warmpool.AWS{WarmIPTarget: 1}, EC2: sim.EC2{Burst: 5, Rate: 1}}, tr)
	if r.Throttled == 0 || r.WaitMaxSeconds < 10 {
		t.Errorf("throttled %d, longest wait %.1f s; want more than 0 and at least 10 s", r.Throttled, r.WaitMaxSeconds)
	}
	if free := run(t, sim.Config{Policy: warmpool.AWS{WarmIPTarget: 1}, EC2: sim.EC2{Burst: 1e6, Rate: 1e6}}, tr); free.Throttled != 0 || free.PodWaitSeconds > r.PodWaitSeconds/10 {
		t.Errorf("without limits: throttled %d, %.0f pod-seconds of waiting; want 0, and at most a tenth of the %.0f with limits", free.Throttled, free.PodWaitSeconds, r.PodWaitSeconds)
	}
}

func TestSubnet(t *testing.T) {
	tr := generate(t, sim.Workload{Shape: "steady", Nodes: 10, Pods: 20, Horizon: 2 * time.Hour})
	small := sim.Config{Policy: warmpool.Band{}, Subnet: sim.Subnet{Addresses: 160}}
	r := run(t, small, tr)
	if r.SubnetHighWater > 155 || r.Refused == 0 || r.Unserved == 0 {
		t.Errorf("200 pods on 155 addresses: high water %d, refused %d, unserved %d; want at most 155, and some of both", r.SubnetHighWater, r.Refused, r.Unserved)
	}
	prefixes := sim.Config{
		Policy: warmpool.Band{}, Limits: warmpool.Limits{MaxENIs: 4, SlotsPerENI: 14, AddressesPerSlot: 16, MaxPods: 110},
		Subnet: sim.Subnet{Addresses: 4096, Fragmented: 0.95},
	}
	if r := run(t, prefixes, tr); r.Refused == 0 || r.SubnetHighWater > 400 {
		t.Errorf("fragmented subnet: refused %d, high water %d; want some, and at most 400", r.Refused, r.SubnetHighWater)
	}
	prefixes.Subnet.Fragmented = 0
	if r := run(t, prefixes, tr); r.Refused != 0 || r.Unserved != 0 {
		t.Errorf("unfragmented subnet: refused %d, unserved %d; want 0, 0", r.Refused, r.Unserved)
	}
}

// TestCooldownIsNoSupply checks that a pod on a node with one address waits until
// the cooldown of the previous pod's address has ended.
func TestCooldownIsNoSupply(t *testing.T) {
	tr := parse(t, "0,n,add,a\n60,n,delete,a\n70,n,add,b\n")
	c := sim.Config{Policy: warmpool.Band{}, Limits: warmpool.Limits{MaxENIs: 1, SlotsPerENI: 1}, EC2: exact}
	if r := run(t, c, tr); r.WaitMaxSeconds != 20 {
		t.Errorf("waited %v s; want 20, what is left of the cooldown of 30", r.WaitMaxSeconds)
	}
	c.Cooldown = -1
	if r := run(t, c, tr); r.WaitMaxSeconds != 2 {
		t.Errorf("without a cooldown: waited %v s; want 2, for the first address", r.WaitMaxSeconds)
	}
}

func TestLeadAndPeriod(t *testing.T) {
	tr := parse(t, "60,n,add,a\n60,n,add,b\n60,n,add,c\n")
	c := sim.Config{Policy: warmpool.Band{Low: -1, Batch: 1}, Limits: warmpool.Limits{MaxENIs: 1, SlotsPerENI: 10}, EC2: exact, Lead: 5 * time.Second}
	if r := run(t, c, tr); r.WaitMaxSeconds > 0 {
		t.Errorf("waited %v s; want 0, because the agent knew of the pods 5 s before", r.WaitMaxSeconds)
	}
	c.Lead, c.Period = 0, 45*time.Second
	if r := run(t, c, tr); r.WaitMaxSeconds != 32 {
		t.Errorf("waited %v s; want 32, because the agent decides at 90 s and the call takes 2 s", r.WaitMaxSeconds)
	}
}

func TestReadTrace(t *testing.T) {
	const csv = "time,node,op\n1,b,add\n0.5,a,add\n3,b,delete\n"
	const lines = `{"time":1,"node":"b","op":"add"}
		{"time":0.5,"node":"a","op":"add","pod":""} {"time":3,"node":"b","op":"delete"}`
	want := []sim.Event{{At: 500 * time.Millisecond, Node: 0}, {At: time.Second, Node: 1}, {At: 3 * time.Second, Node: 1, Delete: true}}
	a := parse(t, csv)
	b, err := sim.ReadJSONLines(strings.NewReader(lines))
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range []sim.Trace{a, b} {
		if diff := cmp.Diff(want, slices.Collect(tr.Events)); diff != "" || tr.Nodes != 2 || tr.Horizon != 10*time.Minute+3*time.Second {
			t.Errorf("%d nodes, %v, events (-want +got):\n%s", tr.Nodes, tr.Horizon, diff)
		}
	}
	for text, want := range map[string]string{
		"":                          "no events",
		"1,a,add,x\n2,a,add,x\n":    "starts twice",
		"1,a,delete,x\n":            "does not run",
		"1,a,grow\n":                "want add or delete",
		"0,a,add\nsoon,a,add\n":     "is not a number of seconds",
		"1,a\n":                     "has 2 fields",
		"-1,a,add\n":                "time -1",
		"1,,add\n":                  `node ""`,
		"1,a,add,x,y,z\n1,a,\"add":  "has 6 fields",
		"1,a,add\n1,a,\"add\nquote": "extraneous or missing",
	} {
		_, err := sim.ReadCSV(strings.NewReader(text))
		if !errors.Is(err, sim.ErrTrace) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v; want %q", text, err, want)
		}
	}
	if _, err := sim.ReadJSONLines(strings.NewReader(`{"time":1}{`)); !errors.Is(err, sim.ErrTrace) {
		t.Errorf("bad JSON: error %v; want ErrTrace", err)
	}
}

func FuzzReadTrace(f *testing.F) {
	f.Add("1,a,add,x\n2,a,delete,x\n")
	f.Add(`{"time":1,"node":"b","op":"add"}`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, read := range []func(s string) (sim.Trace, error){
			func(s string) (sim.Trace, error) { return sim.ReadCSV(strings.NewReader(s)) },
			func(s string) (sim.Trace, error) { return sim.ReadJSONLines(strings.NewReader(s)) },
		} {
			tr, err := read(text)
			if err != nil || tr.Horizon > 24*time.Hour {
				continue
			}
			if _, err := sim.Run(t.Context(), sim.Config{Policy: warmpool.Band{}}, tr); err != nil {
				t.Errorf("the trace can be read but not simulated: %v", err)
			}
		}
	})
}

func TestBadInput(t *testing.T) {
	if _, err := (sim.Workload{Shape: "flood"}).Trace(); !errors.Is(err, sim.ErrShape) {
		t.Errorf("unknown shape: error %v; want ErrShape", err)
	}
	if _, err := (sim.Workload{Shape: "churn", Nodes: -1}).Trace(); !errors.Is(err, sim.ErrTrace) {
		t.Errorf("-1 nodes: error %v; want ErrTrace", err)
	}
	ok := parse(t, "1,a,add\n")
	for name, tc := range map[string]struct {
		cfg   sim.Config
		trace sim.Trace
		want  string
	}{
		"no policy": {sim.Config{}, ok, "no policy"},
		"no nodes":  {sim.Config{Policy: warmpool.Band{}}, sim.Trace{}, "0 nodes"},
		"no room":   {sim.Config{Policy: warmpool.Band{}, Limits: warmpool.Limits{MaxENIs: 1}}, ok, "no room"},
		"unsorted": {sim.Config{Policy: warmpool.Band{}}, sim.Trace{Nodes: 1, Horizon: time.Hour,
			Events: slices.Values([]sim.Event{{At: time.Minute}, {At: time.Second, Pod: 1}})}, "at 1m0s"},
		"unknown pod": {sim.Config{Policy: warmpool.Band{}}, sim.Trace{Nodes: 1, Horizon: time.Hour,
			Events: slices.Values([]sim.Event{{Delete: true}})}, "does not run there"},
	} {
		_, err := sim.Run(t.Context(), tc.cfg, tc.trace)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v; want %q", name, err, tc.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	long := generate(t, sim.Workload{Shape: "churn"})
	if _, err := sim.Run(ctx, sim.Config{Policy: warmpool.Band{}}, long); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v; want context.Canceled", err)
	}
}

func TestReports(t *testing.T) {
	r := run(t, sim.Config{Name: "band", Policy: warmpool.Band{}}, parse(t, "1,a,add\n"))
	var table, csv, js bytes.Buffer
	if err := errors.Join(sim.WriteTable(&table, []sim.Report{r}), sim.WriteCSV(&csv, []sim.Report{r}), json.NewEncoder(&js).Encode(r)); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimRight(table.String(), "\n"), "\n"); len(lines) != 2 || len(lines[0]) != len(lines[1]) {
		t.Errorf("table:\n%s", table.String())
	}
	if !strings.Contains(csv.String(), "AssignPrivateIpAddresses\nband,") {
		t.Errorf("CSV:\n%s", csv.String())
	}
	var got map[string]any
	if err := json.Unmarshal(js.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"policy", "pods", "waitP50Seconds", "waitP99Seconds", "podWaitSeconds", "ec2Calls",
		"peakCallsPerSecond", "idleAddressHours", "eniChurn", "subnetHighWater"} {
		if _, ok := got[key]; !ok {
			t.Errorf("JSON has no %s", key)
		}
	}
}

func TestFrontier(t *testing.T) {
	r := func(name string, wait float64, calls int, idle float64) sim.Report {
		return sim.Report{Policy: name, WaitP99Seconds: wait, EC2CallsTotal: calls, IdleAddressHours: idle}
	}
	all := []sim.Report{r("a", 1, 10, 5), r("b", 0, 20, 5), r("c", 1, 10, 6), r("d", 0, 20, 5)}
	var got []string
	for _, x := range sim.Frontier(all) {
		got = append(got, x.Policy)
	}
	if diff := cmp.Diff([]string{"a", "b", "d"}, got); diff != "" {
		t.Errorf("frontier (-want +got):\n%s", diff)
	}
}

// ExampleRun compares two policies over the same day of a small fleet.
func ExampleRun() {
	trace, err := sim.Workload{Shape: "rollout", Nodes: 10}.Trace()
	if err != nil {
		fmt.Println(err)
		return
	}
	var reports []sim.Report
	for name, p := range map[string]warmpool.Policy{"band": warmpool.Band{}, "warm 5": warmpool.AWS{WarmIPTarget: 5}} {
		r, err := sim.Run(context.Background(), sim.Config{Name: name, Policy: p}, trace)
		if err != nil {
			fmt.Println(err)
			return
		}
		reports = append(reports, r)
	}
	slices.SortFunc(reports, func(a, b sim.Report) int { return strings.Compare(a.Policy, b.Policy) })
	for _, r := range reports {
		fmt.Printf("%s: p99 wait %.0f s, more than 1000 EC2 calls: %v\n", r.Policy, r.WaitP99Seconds, r.EC2CallsTotal > 1000)
	}
	// Output:
	// band: p99 wait 0 s, more than 1000 EC2 calls: false
	// warm 5: p99 wait 0 s, more than 1000 EC2 calls: true
}

// ExampleConfig prints the decisions of a node with their explanations. The first
// decision is for the first address, which each node always gets.
func ExampleConfig() {
	trace, err := sim.ReadCSV(strings.NewReader("10,n,add,a\n10,n,add,b\n10,n,add,c\n"))
	if err != nil {
		fmt.Println(err)
		return
	}
	c := sim.Config{Policy: warmpool.AWS{MinimumIPTarget: 1}}
	c.Decided = func(node int, _ warmpool.Snapshot, d warmpool.Decision) {
		for _, a := range d.Actions {
			fmt.Printf("node %d: %s %d: %s\n", node, a.Op, a.N, a.Explanation)
		}
	}
	if _, err := sim.Run(context.Background(), c, trace); err != nil {
		fmt.Println(err)
	}
	// Output:
	// node 0: assign 1: WARM_IP_TARGET 0, MINIMUM_IP_TARGET 1: want 1, have 0 usable addresses, 0 assigned
	// node 0: assign 2: 2 pods wait, 0 addresses are free or on their way
}

// BenchmarkFleetDay simulates a day of 1,000 nodes with 25 pods each, in which 1.7
// million pods start.
func BenchmarkFleetDay(b *testing.B) {
	tr := generate(b, sim.Workload{Shape: "churn", Nodes: 1000})
	events, pods := 0, 0
	for b.Loop() {
		r, err := sim.Run(b.Context(), sim.Config{Policy: warmpool.Band{}}, tr)
		if err != nil {
			b.Fatal(err)
		}
		events += r.Events
		pods = r.Pods
	}
	b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(pods), "pods")
}

// TestEventsOfOneMoment checks that the agent decides once for all events of one moment:
// five pods that end at once cost one call.
func TestEventsOfOneMoment(t *testing.T) {
	var csv strings.Builder
	for _, op := range []string{"10,n,add", "1000,n,delete"} {
		for pod := range 5 {
			fmt.Fprintf(&csv, "%s,%d\n", op, pod)
		}
	}
	r := run(t, sim.Config{
		Policy: warmpool.AWS{WarmIPTarget: 2}, Limits: warmpool.Limits{MaxENIs: 3, SlotsPerENI: 10}, EC2: exact,
	}, parse(t, csv.String()))
	if n := r.EC2Calls["UnassignPrivateIpAddresses"]; n != 1 {
		t.Errorf("%d calls to unassign, want 1; all calls: %v", n, r.EC2Calls)
	}
}
