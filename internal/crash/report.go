// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// tally collects the numbers of the report. It is safe for concurrent use.
type tally struct {
	mu sync.Mutex
	r  report
}

// report is the outcome of the loop, as -json prints it.
type report struct {
	Layout  string  `json:"layout"`
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"seconds"`
	// Batches is the number of batches, including the check at the end.
	Batches int `json:"batches"`
	// Broken is the number of batches with a violation.
	Broken     int `json:"brokenBatches"`
	AgentKills int `json:"agentKills"`
	// PluginKills is the number of plugins that a signal killed. It does not count
	// signals that came too late.
	PluginKills int `json:"pluginKills"`
	// Verbs counts commands by verb and outcome: ok, killed, or the reason of the
	// refusal.
	Verbs map[string]map[string]int `json:"verbs"`
	// Faults counts injected faults by kind.
	Faults map[kind]int `json:"troubles"`
	// Answers is the number of answers of running pods during the faults.
	Answers int `json:"answers"`
	// MaxSettleSeconds is the longest time from the end of the faults to an
	// observation without violations.
	MaxSettleSeconds float64 `json:"maxSettleSeconds"`
	// Violations counts the batches with a violation, by kind.
	Violations map[violationKind]int `json:"violations"`
	// Examples has the first violation of each kind.
	Examples map[violationKind]string `json:"examples,omitempty"`
	Error    string                   `json:"error,omitempty"`
}

const ok = "ok"

func newTally(o options) *tally {
	return &tally{r: report{
		Layout: o.layout, Seed: o.seed, Verbs: map[string]map[string]int{}, Faults: map[kind]int{},
		Violations: map[violationKind]int{}, Examples: map[violationKind]string{},
	}}
}

func (t *tally) verb(name string, err error) {
	outcome := ok
	if err != nil {
		outcome = reason(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if outcome == "killed" {
		t.r.PluginKills++
	}
	if t.r.Verbs[name] == nil {
		t.r.Verbs[name] = map[string]int{}
	}
	t.r.Verbs[name][outcome]++
}

func (t *tally) count(k kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.Faults[k]++
}

func (t *tally) killedAgent() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.AgentKills++
}

func (t *tally) answered() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.Answers++
}

// recordSettleTime records the time until an observation had no violations.
func (t *tally) recordSettleTime(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.MaxSettleSeconds = max(t.r.MaxSettleSeconds, d.Seconds())
}

// batch records the violations of a batch.
func (t *tally) batch(found []violation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.Batches++
	if len(found) == 0 {
		return
	}
	t.r.Broken++
	seen := map[violationKind]bool{}
	for _, v := range found {
		if _, ok := t.r.Examples[v.Kind]; !ok {
			t.r.Examples[v.Kind] = v.String()
		}
		if !seen[v.Kind] {
			seen[v.Kind] = true
			t.r.Violations[v.Kind]++
		}
	}
}

// report returns a copy of the report.
func (t *tally) report() report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.r
	r.Verbs = map[string]map[string]int{}
	for v, outcomes := range t.r.Verbs {
		r.Verbs[v] = maps.Clone(outcomes)
	}
	r.Faults, r.Violations, r.Examples = maps.Clone(t.r.Faults), maps.Clone(t.r.Violations), maps.Clone(t.r.Examples)
	return r
}

// outcomes returns how often a verb succeeded and how often it was refused.
func (r report) outcomes(verb string) (succeeded, refused int) {
	for outcome, n := range r.Verbs[verb] {
		switch outcome {
		case ok:
			succeeded += n
		case "killed":
		default:
			refused += n
		}
	}
	return succeeded, refused
}

// print writes the report as a table, or as JSON.
func (r report) print(out io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	row("layout, first seed", fmt.Sprintf("%s, %d", r.Layout, r.Seed))
	row("batches, with violations", fmt.Sprintf("%d in %.0f s, %d", r.Batches, r.Seconds, r.Broken))
	row("agents killed", r.AgentKills)
	row("plugins killed", r.PluginKills)
	for _, verb := range []string{"ADD", "CHECK", "DEL"} {
		succeeded, refused := r.outcomes(verb)
		row(verb+" ok, refused", fmt.Sprintf("%d, %d", succeeded, refused))
		for _, outcome := range slices.Sorted(maps.Keys(r.Verbs[verb])) {
			if outcome != ok && outcome != "killed" {
				row("  "+outcome, r.Verbs[verb][outcome])
			}
		}
	}
	for _, k := range kinds() {
		if n := r.Faults[k]; n > 0 {
			row("fault "+string(k), n)
		}
	}
	row("answers of pods during the faults", r.Answers)
	row("longest time to settle", fmt.Sprintf("%.1f s", r.MaxSettleSeconds))
	for _, b := range violationKinds() {
		row("violation "+string(b), r.Violations[b])
		if r.Violations[b] > 0 {
			row("  first", r.Examples[b])
		}
	}
	if r.Error != "" {
		row("error", r.Error)
	}
	return w.Flush()
}
