// SPDX-License-Identifier: Apache-2.0

package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/vpcnet/vpcnet/warmpool/sim"
)

//go:embed report.html
var reportHTML string

// page is the data of the report's template.
type page struct {
	Command  string
	World    []string
	Sections []section
}

// section is one workload.
type section struct {
	Trace, Doc, Summary string
	Rows                []row
	Pareto              template.HTML
	Policies            []panel
}

// row is one policy in the table of a section.
type row struct {
	sim.Report
	Key      int
	Frontier bool
	// DominatedBy names the policies that are at least as good in all three
	// measures and better in one.
	DominatedBy string
	// The parts are shares of the worst values, for the bars.
	WaitPart, CallsPart, IdlePart float64
}

// panel holds the plots over time of one policy.
type panel struct {
	Key           int
	Policy        string
	Supply, Calls template.HTML
}

// renderReport writes the HTML page. The page refers to no other files.
func renderReport(out io.Writer, reports []sim.Report, w *world, args []string) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"f0": func(v float64) string { return fmt.Sprintf("%.0f", v) },
		"f2": func(v float64) string { return fmt.Sprintf("%.2f", v) },
	}).Parse(reportHTML)
	if err != nil {
		return err
	}
	l := w.cfg.Limits
	p := page{
		Command: "vpcctl pool sim " + strings.Join(quoted(args), " "),
		World: []string{
			fmt.Sprintf("instance type %s: %d ENIs of %d slots, %d address(es) per slot, max-pods %d", w.instanceType, l.MaxENIs, l.SlotsPerENI, l.AddressesPerSlot, l.MaxPods),
			fmt.Sprintf("an EC2 call takes %v, to attach an ENI takes %v more (medians); the account can make %g calls of one action at once and %g per second", w.cfg.EC2.Call, w.cfg.EC2.Attach, w.cfg.EC2.Burst, w.cfg.EC2.Rate),
			fmt.Sprintf("the cooldown of a released address is %v; the subnet has %d addresses; seed %d", w.cfg.Cooldown, w.cfg.Subnet.Addresses, w.cfg.Seed),
		},
	}
	docs := map[string]string{}
	for name, doc := range sim.Shapes() {
		docs[name] = doc
	}
	for _, group := range byTrace(reports) {
		s := newSection(group)
		s.Doc = docs[s.Trace]
		p.Sections = append(p.Sections, s)
	}
	return t.Execute(out, p)
}

func quoted(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = a
		if strings.ContainsAny(a, " <>*;&|'\"$") {
			out[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return out
}

// byTrace groups consecutive reports with the same trace.
func byTrace(reports []sim.Report) [][]sim.Report {
	var out [][]sim.Report
	for _, r := range reports {
		if n := len(out); n > 0 && out[n-1][0].Trace == r.Trace {
			out[n-1] = append(out[n-1], r)
			continue
		}
		out = append(out, []sim.Report{r})
	}
	return out
}

func newSection(reports []sim.Report) section {
	s := section{Trace: reports[0].Trace}
	s.Summary = fmt.Sprintf("%d pods started in the measured time.", reports[0].Pods)
	s.Rows = newRows(reports)
	supply, rate := highest(reports)
	for i, r := range reports {
		s.Policies = append(s.Policies, panel{
			Key: i + 1, Policy: r.Policy,
			Supply: template.HTML(supplyChart(r, supply).svg()), Calls: template.HTML(callsChart(r, rate).svg()),
		})
	}
	s.Pareto = template.HTML(paretoChart(s.Trace, s.Rows).svg())
	return s
}

// highest returns the highest values of all curves.
func highest(reports []sim.Report) (supply, calls float64) {
	for _, r := range reports {
		for _, p := range r.Series {
			supply, calls = max(supply, p.Supply, float64(p.PeakDemand)), max(calls, float64(p.Calls))
		}
	}
	return supply, calls
}

func newRows(reports []sim.Report) []row {
	var rows []row
	var wait, calls, idle float64
	for _, r := range reports {
		wait, calls, idle = max(wait, r.WaitP99Seconds), max(calls, float64(r.EC2CallsTotal)), max(idle, r.IdleAddressHours)
	}
	for i, r := range reports {
		var better []string
		for _, o := range reports {
			if o.Dominates(r) {
				better = append(better, o.Policy)
			}
		}
		rows = append(rows, row{
			Report: r, Key: i + 1, Frontier: len(better) == 0, DominatedBy: strings.Join(better, "; "),
			WaitPart: part(r.WaitP99Seconds, wait), CallsPart: part(math.Log10(1+float64(r.EC2CallsTotal)), math.Log10(1+calls)), IdlePart: part(r.IdleAddressHours, idle),
		})
	}
	return rows
}

func part(v, most float64) float64 {
	if most == 0 {
		return 0
	}
	return math.Round(100 * v / most)
}

// writeSVG writes each plot of the report as a file.
func writeSVG(dir string, reports []sim.Report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string]chart{}
	for _, group := range byTrace(reports) {
		trace := group[0].Trace
		supply, calls := highest(group)
		files[trace] = paretoChart(trace, newRows(group))
		for i, r := range group {
			files[fmt.Sprintf("%s-%d-supply", trace, i+1)] = supplyChart(r, supply)
			files[fmt.Sprintf("%s-%d-calls", trace, i+1)] = callsChart(r, calls)
		}
	}
	for name, c := range files {
		if err := os.WriteFile(filepath.Join(dir, name+".svg"), []byte(c.file()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// paretoChart plots idle addresses against calls. Policies with waiting pods have
// their own class.
func paretoChart(trace string, rows []row) chart {
	c := chart{
		title:  trace + ": idle addresses against EC2 calls, lower left is better",
		xLabel: "idle address-hours", yLabel: "EC2 calls", logY: true, points: true, width: 720, height: 330,
	}
	for _, r := range rows {
		class := "dot"
		if r.WaitP99Seconds > 0 {
			class = "dot waits"
		}
		if r.Frontier {
			class += " front"
		}
		c.series = append(c.series, series{
			name: fmt.Sprint(r.Key), class: class,
			x: []float64{r.IdleAddressHours}, y: []float64{float64(r.EC2CallsTotal)},
			tips: []string{fmt.Sprintf("%s: p99 wait %.2f s, %d calls, %.0f idle address-hours", r.Policy, r.WaitP99Seconds, r.EC2CallsTotal, r.IdleAddressHours)},
		})
	}
	return c
}

// hours returns the points as a line over hours.
func hours(name, class string, points []sim.Point, value func(sim.Point) float64) series {
	s := series{name: name, class: class}
	for _, p := range points {
		s.x = append(s.x, p.Seconds/3600)
		s.y = append(s.y, value(p))
	}
	return s
}

func supplyChart(r sim.Report, most float64) chart {
	return chart{
		title: r.Policy + ": held and used", xLabel: "hours", yLabel: "addresses", yMax: most, width: 470, height: 190,
		series: []series{
			hours("used at most", "peak", r.Series, func(p sim.Point) float64 { return float64(p.PeakDemand) }),
			hours("held", "held", r.Series, func(p sim.Point) float64 { return p.Supply }),
			hours("used by pods", "used", r.Series, func(p sim.Point) float64 { return p.Demand }),
			hours("pods waiting", "waiting", r.Series, func(p sim.Point) float64 { return float64(p.Waiting) }),
		},
	}
}

func callsChart(r sim.Report, most float64) chart {
	return chart{
		title: r.Policy + ": EC2 calls", xLabel: "hours", yLabel: "calls", yMax: max(most, 1), width: 470, height: 190,
		series: []series{hours("EC2 calls", "calls", r.Series, func(p sim.Point) float64 { return float64(p.Calls) })},
	}
}
