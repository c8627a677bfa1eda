// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// piped runs a command with the given standard input and returns its exit status and
// its outputs.
func piped(t *testing.T, in string, args ...string) (code int, out, err string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), stdio{in: strings.NewReader(in), out: &stdout, err: &stderr}, args)
	return code, stdout.String(), stderr.String()
}

const fullENI = `{"limits":{"maxENIs":3,"slotsPerENI":6,"addressesPerSlot":1,"maxPods":20},
	"enis":[{"id":"eni-1","primary":true,"slots":5,"addresses":5,"assigned":5,"cooling":0,"ageSeconds":300,"assignedPerSlot":[1,1,1,1,1]}],
	"demand":{"waiting":0,"bound":0}}`

func TestPoolPlan(t *testing.T) {
	args := []string{"pool", "plan", "-policy", "aws", "-set", "WARM_IP_TARGET=2", "-set", "MINIMUM_IP_TARGET=5"}
	code, out, stderr := piped(t, fullENI, append(args, "-o", "json")...)
	if code != 0 {
		t.Fatalf("exit status %d: %s", code, stderr)
	}
	const reason = "WARM_IP_TARGET 2, MINIMUM_IP_TARGET 5: want 7, have 5 usable addresses, 5 assigned"
	want := decisionJSON{Short: 2, Actions: []actionJSON{{"assign", "eni-1", 1, reason}}, Reason: reason}
	var got decisionJSON
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decision (-want +got):\n%s", diff)
	}
	_, out, _ = piped(t, fullENI, args...)
	const text = `short 2 slots, over 0 slots: ` + reason + `
1. assign 1 on eni-1
   because ` + reason + `
`
	if diff := cmp.Diff(text, out); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}

// TestPoolPlanServesWaiting checks that plan decides as the agent does: two pods wait,
// the policy alone would do nothing, and EC2 refuses more slots on the first ENI.
func TestPoolPlanServesWaiting(t *testing.T) {
	const pool = `{"limits":{"maxENIs":3,"slotsPerENI":6},"enis":[{"id":"eni-1","primary":true,"full":true,"slots":5,"assigned":5},
		{"id":"eni-2","slots":4,"assigned":4}],"demand":{"waiting":2}}`
	code, out, stderr := piped(t, pool, "pool", "plan", "-policy", "aws:WARM_ENI_TARGET=0,MINIMUM_IP_TARGET=1")
	const want = `short 2 slots, over 0 slots: 2 pods wait, 0 addresses are free or on their way
1. assign 2 on eni-2
   because 2 pods wait, 0 addresses are free or on their way
`
	if diff := cmp.Diff(want, out); diff != "" || code != 0 {
		t.Errorf("exit status %d: %s\ntext (-want +got):\n%s", code, stderr, diff)
	}
}

// TestPoolPlanMemory plans twice. The second pool has the memory of the first decision.
func TestPoolPlanMemory(t *testing.T) {
	const idle = `{"now":"2026-01-05T12:%s:00Z","limits":{"maxENIs":1,"slotsPerENI":30},"enis":[{"id":"e","primary":true,"slots":20}]%s}`
	plan := func(minute, rest string) (d struct {
		decisionJSON
		Memory json.RawMessage `json:"memory"`
	}) {
		code, out, stderr := piped(t, strings.Replace(strings.Replace(idle, "%s", minute, 1), "%s", rest, 1), "pool", "plan", "-o", "json")
		if code != 0 {
			t.Fatal(stderr)
		}
		if err := json.Unmarshal([]byte(out), &d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := plan("00", "")
	if first.Over != 16 || len(first.Actions) != 0 || first.NextSeconds != 300 {
		t.Fatalf("first: %+v; want 16 over, no actions, next in 300 s", first.decisionJSON)
	}
	second := plan("05", `,"memory":`+string(first.Memory))
	if len(second.Actions) != 1 || second.Actions[0].N != 16 {
		t.Errorf("five minutes later: %+v; want 16 slots unassigned", second.decisionJSON)
	}
}

func TestPoolSim(t *testing.T) {
	dir := t.TempDir()
	html, trace := filepath.Join(dir, "report.html"), filepath.Join(dir, "pods.csv")
	if err := os.WriteFile(trace, []byte("time,node,op,pod\n1,n,add,a\n5,n,add,b\n60,n,delete,a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := piped(t, "", "pool", "sim", "-policy", "band", "-policy", "presets", "-trace", trace, "-html", html, "-o", "json")
	if code != 0 {
		t.Fatalf("exit status %d: %s", code, stderr)
	}
	var reports []struct {
		Policy   string
		Pods     int
		EC2Calls map[string]int
	}
	if err := json.Unmarshal([]byte(out), &reports); err != nil {
		t.Fatal(err)
	}
	if len(reports) != 1+len(presets) || reports[0].Policy != "band" || reports[0].Pods != 2 || reports[0].EC2Calls["AssignPrivateIpAddresses"] != 1 {
		t.Errorf("reports %+v", reports)
	}
	page, err := os.ReadFile(html)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<h2>pods</h2>", "resource-controller", "<polyline"} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("report without %q", want)
		}
	}
	for _, foreign := range []string{"http://", "https://", "<script", "<link"} {
		if bytes.Contains(page, []byte(foreign)) {
			t.Errorf("report with %q, want no references to other files", foreign)
		}
	}
	for _, format := range []string{"table", "csv"} {
		if code, out, _ := piped(t, "", "pool", "sim", "-trace", trace, "-prefix", "-o", format); code != 0 || strings.Count(out, "\n") != 2 {
			t.Errorf("-o %s: exit status %d:\n%s", format, code, out)
		}
	}
}

func TestPoolTune(t *testing.T) {
	args := []string{"pool", "tune", "-policy", "aws", "-shape", "rollout,churn", "-nodes", "2", "-for", "3h", "-range", "WARM_IP_TARGET=1..3"}
	code, out, stderr := piped(t, "", append(args, "-objective", "p99<=1s, calls<100000, min idle", "-o", "json")...)
	if code != 0 {
		t.Fatalf("exit status %d: %s", code, stderr)
	}
	var front []outcome
	if err := json.Unmarshal([]byte(out), &front); err != nil {
		t.Fatal(err)
	}
	if len(front) == 0 || !front[0].Best || front[0].Report.Trace != "rollout,churn" {
		t.Fatalf("frontier %+v", front)
	}
	for _, o := range front[1:] {
		if o.Best || o.Meets && o.Report.IdleAddressHours < front[0].Report.IdleAddressHours {
			t.Errorf("%v is better than the best, %v", o.Settings, front[0].Settings)
		}
	}
	_, out, _ = piped(t, "", append(args, "-objective", "calls<1")...)
	if !strings.Contains(out, "no setting meets the objective") {
		t.Errorf("objective that no setting meets:\n%s", out)
	}
}

// TestWrongArguments checks the message and the exit status of wrong arguments: 2, or
// 1 for errors in the input.
func TestWrongArguments(t *testing.T) {
	for _, tc := range []struct {
		args []string
		in   string
		code int
		want string
	}{
		{nil, "", 2, "Usage: vpcctl COMMAND"},
		{[]string{"puddle"}, "", 2, `unknown command "puddle"`},
		{[]string{"pool", "fill"}, "", 2, `unknown command "fill"`},
		{[]string{"pool", "sim", "band"}, "", 2, `unexpected argument "band"`},
		{[]string{"pool", "sim", "-policy", "bend"}, "", 2, `unknown policy "bend"`},
		{[]string{"pool", "sim", "-policy", "band:low"}, "", 2, `"low" is not of the form key=value`},
		{[]string{"pool", "sim", "-set", "deep=3"}, "", 2, `no setting "deep"`},
		{[]string{"pool", "sim", "-shape", "flood"}, "", 2, `unknown workload shape "flood"`},
		{[]string{"pool", "sim", "-instance-type", "m5.tiny"}, "", 2, `"m5.tiny" is not in the built-in table`},
		{[]string{"pool", "sim", "-trace", "/nowhere.csv"}, "", 2, "no such file"},
		{[]string{"pool", "sim", "-o", "xml"}, "", 2, "want table, json or csv"},
		{[]string{"pool", "sim", "-placement", "heap"}, "", 2, "want pack or spread"},
		{[]string{"pool", "sim", "-nodes", "0"}, "", 2, "-nodes: want 1 or more"},
		{[]string{"pool", "sim", "-pods", "-3"}, "", 2, "-pods: want 1 or more"},
		{[]string{"pool", "sim", "-for", "0"}, "", 2, "-for: want more than 0"},
		{[]string{"pool", "sim", "-max-pods", "-1"}, "", 2, "-max-pods: want 0 or more"},
		{[]string{"pool", "sim", "-cooldown", "-1s"}, "", 2, "-cooldown: want 0 or more"},
		{[]string{"pool", "sim", "-ec2-rate", "0"}, "", 2, "-ec2-rate: want more than 0"},
		{[]string{"pool", "sim", "-ec2-burst", "-1"}, "", 2, "-ec2-burst: want more than 0"},
		{[]string{"pool", "sim", "-fragmented", "3"}, "", 2, "-fragmented: want a share from 0 to 1"},
		{[]string{"pool", "tune", "-runs", "0"}, "", 2, "-runs 0: want 1 or more"},
		{[]string{"state", "save", "x"}, "", 2, `unexpected argument "x"`},
		{[]string{"max-pods", "-instance-type", "m5.large", "-cap", "-1"}, "", 2, "want 0 or more"},
		{[]string{"max-pods", "-instance-type", "m5.large", "-max-enis", "-1"}, "", 2, "want 0 or more"},
		{[]string{"sweep", "-vpc", "vpc-1", "-min-age", "-5s"}, "", 2, "-min-age -5s: want more than 0"},
		{[]string{"preflight", "-peers", "-1"}, "", 2, "-peers -1: want 0 or more"},
		{[]string{"preflight", "-root", "/nowhere"}, "", 1, "no such file"},
		{[]string{"preflight", "-root", "/dev/null"}, "", 1, "-root /dev/null is not a directory"},
		{[]string{"pool", "tune", "-objective", "p99"}, "", 2, "neither `measure<=number`"},
		{[]string{"pool", "tune", "-objective", "joy<=1"}, "", 2, `no measure "joy"`},
		{[]string{"pool", "tune", "-range", "low=3..1"}, "", 2, "want two numbers from..to"},
		{[]string{"pool", "tune", "-policy", "presets"}, "", 2, "one policy"},
		{[]string{"pool", "plan"}, "", 1, "no input"},
		{[]string{"pool", "plan"}, `{"limit":{}}`, 1, `unknown field "limit"`},
		{[]string{"pool", "plan"}, `{"enis":[{"slots":3}]}`, 1, "has no id"},
		{[]string{"pool", "plan"}, `{"enis":[{"id":"e","slots":3,"assigned":4}]}`, 1, "3 addresses, but 4 assigned"},
		{[]string{"pool", "plan"}, `{"enis":[{"id":"e","slots":-3}]}`, 1, "negative"},
		{[]string{"pool", "plan", "-policy", "band", "-policy", "aws"}, "", 2, "one policy"},
	} {
		code, _, stderr := piped(t, tc.in, tc.args...)
		if code != tc.code || !strings.Contains(stderr, tc.want) || strings.Contains(stderr, "Policies and their settings") {
			t.Errorf("%q: exit status %d, error %q; want %d and %q", tc.args, code, stderr, tc.code, tc.want)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"help"}, {"pool", "-h"}, {"pool", "sim", "-h"}, {"pool", "plan", "--help"}, {"pool", "tune", "-h"}} {
		code, out, stderr := piped(t, "", args...)
		if code != 0 || stderr != "" || !strings.Contains(out, "Usage: vpcctl") {
			t.Errorf("%q: exit status %d, to stderr %q, to stdout %q", args, code, stderr, out)
		}
	}
}
