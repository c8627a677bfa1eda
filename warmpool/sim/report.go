// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"text/tabwriter"
)

// Report is the result of a simulation.
type Report struct {
	Policy string `json:"policy"`
	Trace  string `json:"trace"`
	// Pods counts the ADDs in the measured time, Unserved those that never got an
	// address.
	Pods     int `json:"pods"`
	Unserved int `json:"unserved"`
	// The waits are the times from the ADD of a pod until it has an address.
	WaitP50Seconds float64 `json:"waitP50Seconds"`
	WaitP99Seconds float64 `json:"waitP99Seconds"`
	WaitMaxSeconds float64 `json:"waitMaxSeconds"`
	PodWaitSeconds float64 `json:"podWaitSeconds"`
	PodsThatWaited int     `json:"podsThatWaited"`
	// EC2Calls counts attempts by API action, throttled ones included.
	EC2Calls           map[string]int `json:"ec2Calls"`
	EC2CallsTotal      int            `json:"ec2CallsTotal"`
	PeakCallsPerSecond int            `json:"peakCallsPerSecond"`
	Throttled          int            `json:"throttled"`
	// Refused counts operations for which the subnet had not even one slot.
	Refused int `json:"refused"`
	// IdleAddressHours is the integral over time of the addresses held that no
	// pod used, HeldAddressHours that of all addresses held.
	IdleAddressHours float64 `json:"idleAddressHours"`
	HeldAddressHours float64 `json:"heldAddressHours"`
	// ENIChurn counts the creations and deletions of ENIs.
	ENIChurn int `json:"eniChurn"`
	// SubnetHighWater is the largest number of addresses that the fleet used in
	// the subnet, including the primary private IPs of the ENIs.
	SubnetHighWater int `json:"subnetHighWater"`
	// The release times are the times that slots were idle before their release;
	// Released counts the slots.
	ReleaseP50Seconds float64 `json:"releaseP50Seconds"`
	ReleaseMaxSeconds float64 `json:"releaseMaxSeconds"`
	Released          int     `json:"released"`
	// Events and Decisions count the work of the simulator.
	Events    int `json:"events"`
	Decisions int `json:"decisions"`

	Series []Point `json:"series,omitempty"`
}

func (e *engine) report() Report {
	m := e.m
	r := Report{
		Policy: e.cfg.Name, Trace: e.trace.Name,
		Pods: m.pods, Unserved: m.unserved, PodsThatWaited: len(m.waits),
		WaitP50Seconds: quantile(m.waits, m.pods, 0.5),
		WaitP99Seconds: quantile(m.waits, m.pods, 0.99),
		WaitMaxSeconds: quantile(m.waits, m.pods, 1),
		PodWaitSeconds: m.waitArea,
		EC2Calls:       map[string]int{},
		Throttled:      m.throttled, Refused: m.refused,
		IdleAddressHours: m.idleArea / 3600, HeldAddressHours: m.heldArea / 3600,
		ENIChurn: m.churned, SubnetHighWater: e.subnet.highWater,
		ReleaseP50Seconds: quantile(m.idleTimes, len(m.idleTimes), 0.5),
		ReleaseMaxSeconds: quantile(m.idleTimes, len(m.idleTimes), 1),
		Released:          len(m.idleTimes),
		Events:            m.events, Decisions: m.decisions,
		Series: m.series,
	}
	for c, n := range m.calls {
		r.EC2Calls[string(c)] = n
		r.EC2CallsTotal += n
	}
	for _, n := range m.perSecond {
		r.PeakCallsPerSecond = max(r.PeakCallsPerSecond, int(n))
	}
	return r
}

// Dominates reports whether r is at least as good as o in p99 wait, EC2 calls and
// idle address-hours, and better in one of them.
func (r Report) Dominates(o Report) bool {
	a, b := r.cost(), o.cost()
	better := false
	for i := range a {
		if a[i] > b[i] {
			return false
		}
		better = better || a[i] < b[i]
	}
	return better
}

func (r Report) cost() [3]float64 {
	return [3]float64{r.WaitP99Seconds, float64(r.EC2CallsTotal), r.IdleAddressHours}
}

// Frontier returns the reports that no other report dominates, in the order given.
func Frontier(reports []Report) []Report {
	var out []Report
	for _, r := range reports {
		if !slices.ContainsFunc(reports, func(o Report) bool { return o.Dominates(r) }) {
			out = append(out, r)
		}
	}
	return out
}

// columns lists the columns of the table and of the CSV.
var columns = []struct {
	name  string
	value func(Report) string
}{
	{"policy", func(r Report) string { return r.Policy }},
	{"trace", func(r Report) string { return r.Trace }},
	{"pods", func(r Report) string { return strconv.Itoa(r.Pods) }},
	{"wait p50 s", func(r Report) string { return seconds(r.WaitP50Seconds) }},
	{"wait p99 s", func(r Report) string { return seconds(r.WaitP99Seconds) }},
	{"wait max s", func(r Report) string { return seconds(r.WaitMaxSeconds) }},
	{"pod-seconds", func(r Report) string { return fmt.Sprintf("%.0f", r.PodWaitSeconds) }},
	{"unserved", func(r Report) string { return strconv.Itoa(r.Unserved) }},
	{"EC2 calls", func(r Report) string { return strconv.Itoa(r.EC2CallsTotal) }},
	{"peak/s", func(r Report) string { return strconv.Itoa(r.PeakCallsPerSecond) }},
	{"throttled", func(r Report) string { return strconv.Itoa(r.Throttled) }},
	{"idle addr-h", func(r Report) string { return fmt.Sprintf("%.0f", r.IdleAddressHours) }},
	{"ENI churn", func(r Report) string { return strconv.Itoa(r.ENIChurn) }},
	{"subnet high", func(r Report) string { return strconv.Itoa(r.SubnetHighWater) }},
	{"release p50 s", func(r Report) string { return fmt.Sprintf("%.0f", r.ReleaseP50Seconds) }},
}

func seconds(s float64) string { return fmt.Sprintf("%.2f", s) }

// WriteTable writes the reports as an aligned table.
func WriteTable(w io.Writer, reports []Report) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, c := range columns {
		fmt.Fprint(out, c.name, "\t")
	}
	fmt.Fprintln(out)
	for _, r := range reports {
		for _, c := range columns {
			fmt.Fprint(out, c.value(r), "\t")
		}
		fmt.Fprintln(out)
	}
	return out.Flush()
}

// WriteCSV writes the reports as CSV: the columns of the table, and one column for
// each EC2 action in the reports.
func WriteCSV(w io.Writer, reports []Report) error {
	actions := map[string]bool{}
	for _, r := range reports {
		for a := range r.EC2Calls {
			actions[a] = true
		}
	}
	names := slices.Sorted(maps.Keys(actions))
	var head []string
	for _, c := range columns {
		head = append(head, c.name)
	}
	out := csv.NewWriter(w)
	if err := out.Write(append(head, names...)); err != nil {
		return err
	}
	for _, r := range reports {
		var line []string
		for _, c := range columns {
			line = append(line, c.value(r))
		}
		for _, a := range names {
			line = append(line, strconv.Itoa(r.EC2Calls[a]))
		}
		if err := out.Write(line); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}
