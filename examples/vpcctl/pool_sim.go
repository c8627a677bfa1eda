// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/warmpool/sim"
)

const simAbout = `sim runs warm pool policies on workloads of a simulated fleet and reports how long
pods waited for an address, the EC2 calls, and the idle addresses.

  vpcctl pool sim -policy band -policy presets -shape rollout,cron -html report.html
  vpcctl pool sim -policy aws:WARM_IP_TARGET=5,MINIMUM_IP_TARGET=10 -trace pods.csv -o json

-policy presets means the policies of other CNI plugins with common settings.`

func poolSim(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("pool sim", flag.ContinueOnError)
	var w world
	var c choices
	c.register(fs, "a policy to simulate, can be repeated")
	w.register(fs, "churn")
	out := outputFlag(fs, formatTable, formatJSON, "csv")
	series := fs.Bool("series", false, "with -o json, add the points over time")
	html := fs.String("html", "", "write a report with plots to this `file`")
	svg := fs.String("svg", "", "write the plots of the report as files to this `directory`")
	if err := parse(fs, std, args, simAbout+"\n\n"+policyHelp()); err != nil {
		return err
	}
	jobs, err := w.jobs(&c)
	if err != nil {
		return wrong(fs, std, err.Error())
	}
	start := time.Now()
	reports, err := simulate(ctx, jobs, newProgress(std.err, len(jobs)))
	if err != nil {
		return err
	}
	took := time.Since(start)
	if *html != "" {
		if err := writeHTML(*html, reports, &w, args); err != nil {
			return err
		}
		fmt.Fprintln(std.err, "report:", *html)
	}
	if *svg != "" {
		if err := writeSVG(*svg, reports); err != nil {
			return err
		}
	}
	return printReports(std, reports, out.format, *series, took)
}

// printReports writes the reports in the given format.
func printReports(std stdio, reports []sim.Report, format string, series bool, took time.Duration) error {
	switch format {
	case "json":
		if !series {
			reports = slices.Clone(reports)
			for i := range reports {
				reports[i].Series = nil
			}
		}
		enc := json.NewEncoder(std.out)
		enc.SetIndent("", "  ")
		return enc.Encode(reports)
	case "csv":
		return sim.WriteCSV(std.out, reports)
	}
	if err := sim.WriteTable(std.out, reports); err != nil {
		return err
	}
	events := 0
	for _, r := range reports {
		events += r.Events
	}
	fmt.Fprintf(std.err, "%d events in %s, %.0f per second\n", events, took.Round(time.Millisecond), float64(events)/took.Seconds())
	return nil
}

// jobs returns a job for each policy on each trace.
func (w *world) jobs(c *choices) ([]job, error) {
	if err := w.ready(); err != nil {
		return nil, err
	}
	policies, err := c.build(w.prefixes)
	if err != nil {
		return nil, err
	}
	traces, err := w.traces()
	if err != nil {
		return nil, err
	}
	var jobs []job
	for _, t := range traces {
		for _, p := range policies {
			cfg := w.cfg
			cfg.Name, cfg.Policy = p.label, p.policy
			jobs = append(jobs, job{cfg, t})
		}
	}
	return jobs, nil
}

// writeHTML writes the report. It leaves no incomplete file behind.
func writeHTML(path string, reports []sim.Report, w *world, args []string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := renderReport(f, reports, w, args); err != nil {
		f.Close()
		os.Remove(path)
		return err
	}
	return f.Close()
}
