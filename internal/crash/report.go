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

// tally counts. It is safe for concurrent use.
type tally struct {
	mu sync.Mutex
	r  report
}

// report is the outcome of the loop, as -json prints it.
type report struct {
	Layout  string  `json:"layout"`
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"seconds"`
	// Batches counts the check at the end too.
	Batches int `json:"batches"`
	// Broken are the batches with a violation.
	Broken     int `json:"brokenBatches"`
	AgentKills int `json:"agentKills"`
	// PluginKills are plugins that died of it; a kill may come too late.
	PluginKills int `json:"pluginKills"`
	// Verbs counts by verb and outcome: ok, killed, or the reason of the refusal.
	Verbs map[string]map[string]int `json:"verbs"`
	// Troubles counts by kind.
	Troubles map[kind]int `json:"troubles"`
	// Answers are answers of running pods during the trouble.
	Answers int `json:"answers"`
	// MaxSettleSeconds is the longest time from the end of trouble to a picture
	// without violation.
	MaxSettleSeconds float64 `json:"maxSettleSeconds"`
	// Violations counts by kind the batches that had it.
	Violations map[breach]int `json:"violations"`
	// Examples has the first of each kind.
	Examples map[breach]string `json:"examples,omitempty"`
	Error    string            `json:"error,omitempty"`
}

const ok = "ok"

func newTally(o options) *tally {
	return &tally{r: report{
		Layout: o.layout, Seed: o.seed, Verbs: map[string]map[string]int{}, Troubles: map[kind]int{},
		Violations: map[breach]int{}, Examples: map[breach]string{},
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
	t.r.Troubles[k]++
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

// settled takes in how long it took until a picture had no violation.
func (t *tally) settled(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.MaxSettleSeconds = max(t.r.MaxSettleSeconds, d.Seconds())
}

// batch takes in the outcome of a batch.
func (t *tally) batch(found []violation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.Batches++
	if len(found) == 0 {
		return
	}
	t.r.Broken++
	seen := map[breach]bool{}
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

// report returns a copy.
func (t *tally) report() report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.r
	r.Verbs = map[string]map[string]int{}
	for v, outcomes := range t.r.Verbs {
		r.Verbs[v] = maps.Clone(outcomes)
	}
	r.Troubles, r.Violations, r.Examples = maps.Clone(t.r.Troubles), maps.Clone(t.r.Violations), maps.Clone(t.r.Examples)
	return r
}

// outcomes returns how often a verb succeeded, and how often not.
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
		if n := r.Troubles[k]; n > 0 {
			row("trouble "+string(k), n)
		}
	}
	row("answers of pods during the trouble", r.Answers)
	row("longest time to settle", fmt.Sprintf("%.1f s", r.MaxSettleSeconds))
	for _, b := range breaches() {
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
