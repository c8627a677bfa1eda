// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/vpcnet/vpcnet/warmpool/sim"
)

const tuneAbout = `tune searches the settings of a policy on workloads and prints the frontier: the
settings for which no other settings are at least as good in p99 wait, EC2 calls and
idle address-hours, and better in one. It marks the best settings that meet the
objective.

  vpcctl pool tune -policy band -shape cron,rollout -objective 'p99<=1, calls<=2000, min idle'
  vpcctl pool tune -policy aws -range WARM_IP_TARGET=1..8 -range MINIMUM_IP_TARGET=0,8,16

Several workloads count as one: waits and peaks are the largest, and the other
numbers are summed. An objective is a list of limits on p99, max (seconds), calls,
peak (calls per second), idle (address-hours), high (addresses of the subnet) and
churn (ENIs), and the measure to minimise.`

// defaultRanges are the ranges to search if the command line has none.
var defaultRanges = map[string][]string{
	"band":                {"low=1,2,4", "high=5,9,17", "batch=2,4,8", "hold-down=1m,5m,20m"},
	"aws":                 {"WARM_IP_TARGET=1,2,4,8,16", "MINIMUM_IP_TARGET=0,8,16,32"},
	"cilium":              {"pre-allocate=2,4,8,16", "max-above-watermark=0,4,8", "release=true", "release-after=1m,3m,10m"},
	"azure-v1":            {"batch=4,8,16", "request-percent=25,50,100", "release-percent=150,200"},
	"azure-v2":            {"batch=4,8,16", "request-percent=25,50,100"},
	"terway":              {"min-idle=0,2,5", "max-idle=5,10,20"},
	"resource-controller": {"warm-ip-target=1,3,6,12", "minimum-ip-target=1,12,24"},
}

// setting is a key with the values to try.
type setting struct {
	key    string
	values []string
}

// outcome is one set of values with its report over all workloads.
type outcome struct {
	Settings map[string]string `json:"settings"`
	Best     bool              `json:"best"`
	Meets    bool              `json:"meetsObjective"`
	Report   sim.Report        `json:"report"`
}

func poolTune(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("pool tune", flag.ContinueOnError)
	var w world
	var c choices
	var given []string
	c.register(fs, "the policy to tune; its settings here stay fixed")
	w.register(fs, "churn")
	fs.Func("range", "values to try, `key=a,b,c` or key=1..8, can be repeated (default: some for each policy)", func(v string) error {
		given = append(given, v)
		return nil
	})
	wish := fs.String("objective", "p99<=1, min idle", "`limits` to meet and the measure to minimise")
	most := fs.Int("runs", 400, "most settings to try; if there are more, a random sample")
	out := outputFlag(fs, formatTable, formatJSON)
	if err := parse(fs, std, args, tuneAbout+"\n\n"+policyHelp()); err != nil {
		return err
	}
	if *most < 1 {
		return wrong(fs, std, fmt.Sprintf("-runs %d: want 1 or more", *most))
	}
	goal, err := parseObjective(*wish)
	if err != nil {
		return wrong(fs, std, err.Error())
	}
	tries, err := settingsToTry(&c, given, *most, w.workload.Seed)
	if err != nil {
		return wrong(fs, std, err.Error())
	}
	jobs, err := w.jobs(&choices{list: tries})
	if err != nil {
		return wrong(fs, std, err.Error())
	}
	reports, err := simulate(ctx, jobs, newProgress(std.err, len(jobs)))
	if err != nil {
		return err
	}
	front := frontier(tries, reports, goal)
	if out.format == formatJSON {
		enc := json.NewEncoder(std.out)
		enc.SetIndent("", "  ")
		return enc.Encode(front)
	}
	return printFrontier(std.out, front, len(tries))
}

// settingsToTry returns the product of the ranges, or a sample of it.
func settingsToTry(c *choices, given []string, most int, seed uint64) ([]choice, error) {
	if len(c.list) == 0 {
		c.list = []choice{{label: "band", name: "band"}}
	}
	if len(c.list) != 1 || c.list[0].name == "presets" {
		return nil, fmt.Errorf("tune needs exactly one policy")
	}
	base := c.list[0]
	if len(given) == 0 {
		given = defaultRanges[base.name]
	}
	list := []choice{base}
	for _, g := range given {
		s, err := parseRange(g)
		if err != nil {
			return nil, err
		}
		if _, fixed := base.set[s.key]; fixed {
			continue
		}
		list = product(list, s)
		if len(list) > 1e6 {
			return nil, fmt.Errorf("the ranges have more than a million settings, want fewer")
		}
	}
	if len(list) > most {
		rng := rand.New(rand.NewPCG(seed, 0x7e57))
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		list = list[:most]
	}
	for i := range list {
		list[i].label = labelOf(list[i])
	}
	return list, nil
}

func product(list []choice, s setting) []choice {
	var out []choice
	for _, c := range list {
		for _, v := range s.values {
			x := c
			if x.set = maps.Clone(c.set); x.set == nil {
				x.set = map[string]string{}
			}
			x.set[s.key] = v
			out = append(out, x)
		}
	}
	return out
}

func labelOf(c choice) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(c.set)) {
		parts = append(parts, k+"="+c.set[k])
	}
	return strings.TrimSuffix(c.name+":"+strings.Join(parts, ","), ":")
}

func parseRange(v string) (setting, error) {
	key, list, ok := strings.Cut(v, "=")
	if !ok || list == "" {
		return setting{}, fmt.Errorf("range %q is not of the form key=values", v)
	}
	from, to, ok := strings.Cut(list, "..")
	if !ok {
		return setting{key, strings.Split(list, ",")}, nil
	}
	a, err1 := strconv.Atoi(from)
	b, err2 := strconv.Atoi(to)
	if err1 != nil || err2 != nil || b < a || b-a > 1000 {
		return setting{}, fmt.Errorf("range %q: want two numbers from..to, at most 1000 apart", v)
	}
	s := setting{key: key}
	for ; a <= b; a++ {
		s.values = append(s.values, strconv.Itoa(a))
	}
	return s, nil
}

// frontier joins the reports of each setting, returns the ones on the frontier, and
// marks the best that meets the objective.
func frontier(tries []choice, reports []sim.Report, goal objective) []outcome {
	joined := make([]sim.Report, len(tries))
	for i := range tries {
		for k := i; k < len(reports); k += len(tries) {
			joined[i] = join(joined[i], reports[k])
		}
	}
	onFrontier := map[string]bool{}
	for _, r := range sim.Frontier(joined) {
		onFrontier[r.Policy] = true
	}
	var out []outcome
	for i, r := range joined {
		if onFrontier[r.Policy] {
			out = append(out, outcome{Settings: tries[i].set, Meets: goal.met(r), Report: r})
		}
	}
	slices.SortStableFunc(out, func(a, b outcome) int {
		if a.Meets != b.Meets {
			if a.Meets {
				return -1
			}
			return 1
		}
		return cmp.Compare(goal.minimise(a.Report), goal.minimise(b.Report))
	})
	if len(out) > 0 {
		out[0].Best = out[0].Meets
	}
	return out
}

// join adds a report of the same policy over another workload.
func join(a, b sim.Report) sim.Report {
	if a.Policy == "" {
		b.Series = nil
		b.EC2Calls = maps.Clone(b.EC2Calls)
		return b
	}
	a.Trace += "," + b.Trace
	a.Pods += b.Pods
	a.Unserved += b.Unserved
	a.WaitP50Seconds = max(a.WaitP50Seconds, b.WaitP50Seconds)
	a.WaitP99Seconds = max(a.WaitP99Seconds, b.WaitP99Seconds)
	a.WaitMaxSeconds = max(a.WaitMaxSeconds, b.WaitMaxSeconds)
	a.PodWaitSeconds += b.PodWaitSeconds
	a.PodsThatWaited += b.PodsThatWaited
	a.EC2CallsTotal += b.EC2CallsTotal
	a.PeakCallsPerSecond = max(a.PeakCallsPerSecond, b.PeakCallsPerSecond)
	a.Throttled += b.Throttled
	a.Refused += b.Refused
	a.IdleAddressHours += b.IdleAddressHours
	a.HeldAddressHours += b.HeldAddressHours
	a.ENIChurn += b.ENIChurn
	a.SubnetHighWater = max(a.SubnetHighWater, b.SubnetHighWater)
	a.Released += b.Released
	a.Events += b.Events
	a.Decisions += b.Decisions
	for k, n := range b.EC2Calls {
		a.EC2Calls[k] += n
	}
	return a
}

func printFrontier(w io.Writer, front []outcome, tried int) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "\tsettings\twait p99 s\twait max s\tEC2 calls\tidle addr-h\tsubnet high")
	for _, o := range front {
		mark := " "
		if o.Meets {
			mark = "+"
		}
		if o.Best {
			mark = "*"
		}
		r := o.Report
		fmt.Fprintf(out, "%s\t%s\t%.2f\t%.2f\t%d\t%.0f\t%d\n", mark, r.Policy, r.WaitP99Seconds, r.WaitMaxSeconds, r.EC2CallsTotal, r.IdleAddressHours, r.SubnetHighWater)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	note := "* best that meets the objective, + meets the objective"
	if len(front) == 0 || !front[0].Meets {
		note = "no setting meets the objective"
	}
	_, err := fmt.Fprintf(w, "%d of %d settings are on the frontier; %s\n", len(front), tried, note)
	return err
}

// objective is the objective of a search.
type objective struct {
	limits   []limit
	minimise func(sim.Report) float64
}

type limit struct {
	value  func(sim.Report) float64
	most   float64
	strict bool
}

// measures maps the names of measures in objectives to their values.
var measures = map[string]func(sim.Report) float64{
	"p99":   func(r sim.Report) float64 { return r.WaitP99Seconds },
	"max":   func(r sim.Report) float64 { return r.WaitMaxSeconds },
	"calls": func(r sim.Report) float64 { return float64(r.EC2CallsTotal) },
	"peak":  func(r sim.Report) float64 { return float64(r.PeakCallsPerSecond) },
	"idle":  func(r sim.Report) float64 { return r.IdleAddressHours },
	"high":  func(r sim.Report) float64 { return float64(r.SubnetHighWater) },
	"churn": func(r sim.Report) float64 { return float64(r.ENIChurn) },
}

func parseObjective(text string) (objective, error) {
	o := objective{minimise: measures["idle"]}
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if name, ok := strings.CutPrefix(part, "min "); ok {
			if o.minimise, ok = measures[strings.TrimSpace(name)]; !ok {
				return o, fmt.Errorf("objective: no measure %q, only %s", name, measureNames())
			}
			continue
		}
		name, most, ok := strings.Cut(part, "<")
		l := limit{strict: true}
		if rest, equal := strings.CutPrefix(most, "="); equal {
			most, l.strict = rest, false
		}
		var err error
		if l.most, err = strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(most), "s"), 64); !ok || err != nil {
			return o, fmt.Errorf("objective %q is neither `measure<=number` nor `min measure`", part)
		}
		if l.value = measures[strings.TrimSpace(name)]; l.value == nil {
			return o, fmt.Errorf("objective: no measure %q, only %s", name, measureNames())
		}
		o.limits = append(o.limits, l)
	}
	return o, nil
}

func measureNames() string { return strings.Join(slices.Sorted(maps.Keys(measures)), ", ") }

// met reports whether all limits hold.
func (o objective) met(r sim.Report) bool {
	for _, l := range o.limits {
		if v := l.value(r); v > l.most || l.strict && v == l.most {
			return false
		}
	}
	return true
}
