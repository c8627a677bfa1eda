// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"
)

// report is the output of the program. Times are in milliseconds.
type report struct {
	Rounds int      `json:"rounds"`
	Burst  int      `json:"burst"`
	Bursts int      `json:"bursts"`
	Tables []*table `json:"tables"`
}

// table holds the results of one scenario.
type table struct {
	Scenario string `json:"scenario"`
	Rows     []*row `json:"rows"`
}

// row holds the results of one contender.
type row struct {
	Name string `json:"name"`
	Add  times  `json:"add"`
	Del  times  `json:"del"`
	// BurstAdd and BurstDel are medians, from the first exec to the last exit. They are 0
	// in a scenario without bursts.
	BurstAdd float64 `json:"burstAdd"`
	BurstDel float64 `json:"burstDel"`
	// BurstAddUse and BurstDelUse are medians of what a burst uses.
	BurstAddUse burstUsage `json:"burstAddUse"`
	BurstDelUse burstUsage `json:"burstDelUse"`
	// AddUse and DelUse are medians of what the processes use.
	AddUse usage `json:"addUse"`
	DelUse usage `json:"delUse"`
	// Syncs is how often the agent has waited for the disk in all rounds and bursts. It is
	// known for the agent on the slow disk only.
	Syncs int `json:"syncs"`
	// ToFloor holds the medians divided by those of the floor.
	ToFloor ratios `json:"toFloor"`

	add, del           []cost
	burstAdd, burstDel []burst
}

// burstUsage is what a burst uses: the CPU time of all its processes in milliseconds, and
// the part of the time of the machine's CPUs that was idle.
type burstUsage struct {
	CPU  float64 `json:"cpu"`
	Idle float64 `json:"idle"`
}

func burstUsageOf(all []burst) burstUsage {
	return burstUsage{
		ms(median(all, func(b burst) time.Duration { return b.cpu })),
		median(all, func(b burst) float64 { return b.idle }),
	}
}

// usage is what the process of one command uses. CPU is in milliseconds, in user mode and
// in the kernel.
type usage struct {
	CPU      float64 `json:"cpu"`
	Faults   int64   `json:"faults"`
	Switches int64   `json:"switches"`
}

func usageOf(all []cost) usage {
	return usage{
		ms(median(all, func(c cost) time.Duration { return c.cpu })),
		median(all, func(c cost) int64 { return c.faults }),
		median(all, func(c cost) int64 { return c.switches }),
	}
}

// median returns the median of one part of measurements.
func median[M any, T cmp.Ordered](all []M, part func(M) T) T {
	var values []T
	for _, c := range all {
		values = append(values, part(c))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// walls returns the times of costs.
func walls(all []cost) (times []time.Duration) {
	for _, c := range all {
		times = append(times, c.wall)
	}
	return times
}

type times struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
}

type ratios struct {
	Add      float64 `json:"add"`
	Del      float64 `json:"del"`
	BurstAdd float64 `json:"burstAdd"`
	BurstDel float64 `json:"burstDel"`
}

func timesOf(all []time.Duration) times {
	all = slices.Sorted(slices.Values(all))
	return times{ms(all[0]), ms(all[len(all)/2]), ms(all[len(all)*9/10])}
}

// finish computes the results from the measured times.
func (t *table) finish() {
	var floor *row
	for _, w := range t.Rows {
		w.Add, w.Del = timesOf(walls(w.add)), timesOf(walls(w.del))
		w.AddUse, w.DelUse = usageOf(w.add), usageOf(w.del)
		if len(w.burstAdd) > 0 {
			wall := func(b burst) time.Duration { return b.wall }
			w.BurstAdd, w.BurstDel = ms(median(w.burstAdd, wall)), ms(median(w.burstDel, wall))
			w.BurstAddUse, w.BurstDelUse = burstUsageOf(w.burstAdd), burstUsageOf(w.burstDel)
		}
		if w.Name == floorName {
			floor = w
		}
	}
	for _, w := range t.Rows {
		w.ToFloor = ratios{Add: w.Add.Median / floor.Add.Median, Del: w.Del.Median / floor.Del.Median}
		if floor.BurstAdd > 0 {
			w.ToFloor.BurstAdd, w.ToFloor.BurstDel = w.BurstAdd/floor.BurstAdd, w.BurstDel/floor.BurstDel
		}
	}
}

// about describes the contenders, by name.
var about = map[string]string{
	emptyName:   "a Go program that does nothing",
	floorName:   "a Go program that makes the kernel changes of flat, and nothing else",
	flatName:    "vpc-cni, flat layout; the agent deletes links after DEL",
	beforeName:  "the build of vpc-cni that -before names, as flat",
	perPodName:  "vpc-cni, per-pod layout; the agent deletes links after DEL",
	ipamdName:   "vpc-cni with ipamd on a node of a VPC of namespaces",
	slowName:    "the same with the slow disk of -slow-disk",
	noSweepName: "vpc-cni, flat layout; the plugin deletes links in DEL",
	ptpName:     "upstream ptp with host-local, " + upstream + " unless -plugins is given",
}

func (r *report) print(w io.Writer, format string) error {
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		return enc.Encode(r)
	case "ratios":
		return r.printRatios(w)
	}
	fmt.Fprintf(w, "%d pods each, one after another, and %d times %d at once; ms, and ratios of medians to the floor\n", r.Rounds, r.Bursts, r.Burst)
	for _, t := range r.Tables {
		fmt.Fprintf(w, "\n%s\n", t.Scenario)
		if err := t.print(w, r.Burst); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	for _, name := range slices.Sorted(maps.Keys(about)) {
		fmt.Fprintf(w, "%-13s %s\n", name, about[name])
	}
	return nil
}

// printRatios prints one Markdown table of medians and their ratios to the floor, for the
// README.
func (r *report) printRatios(w io.Writer) error {
	text := fmt.Sprintf("| | | ADD | DEL | %d ADDs | %d DELs |\n|---|---|---|---|---|---|\n", r.Burst, r.Burst)
	for _, t := range r.Tables {
		for _, x := range t.Rows {
			text += fmt.Sprintf("| %s | %s | %.1f (%.2f) | %.1f (%.2f) |", t.Scenario, x.Name, x.Add.Median, x.ToFloor.Add, x.Del.Median, x.ToFloor.Del)
			if x.BurstAdd > 0 {
				text += fmt.Sprintf(" %.0f (%.2f) | %.0f (%.2f) |", x.BurstAdd, x.ToFloor.BurstAdd, x.BurstDel, x.ToFloor.BurstDel)
			} else {
				text += " | |"
			}
			text += "\n"
		}
	}
	_, err := io.WriteString(w, text)
	return err
}

func (t *table) print(w io.Writer, burst int) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	head, bursts := "\tADD min\tmedian\tp90\t/floor\tCPU\tfaults\tswitches\tDEL min\tmedian\tp90\t/floor\tCPU\tfaults\tswitches\t", t.Rows[0].BurstAdd > 0
	if bursts {
		head += fmt.Sprintf("%d ADDs\t/floor\t%d DELs\t/floor\t", burst, burst)
	}
	fmt.Fprintln(tab, head)
	for _, x := range t.Rows {
		fmt.Fprintf(tab, "%s\t", x.Name)
		for _, v := range []struct {
			times
			ratio float64
			usage
		}{{x.Add, x.ToFloor.Add, x.AddUse}, {x.Del, x.ToFloor.Del, x.DelUse}} {
			fmt.Fprintf(tab, "%.1f\t%.1f\t%.1f\t%.2f\t%.1f\t%d\t%d\t", v.Min, v.Median, v.P90, v.ratio, v.CPU, v.Faults, v.Switches)
		}
		if bursts {
			fmt.Fprintf(tab, "%.0f\t%.2f\t%.0f\t%.2f\t", x.BurstAdd, x.ToFloor.BurstAdd, x.BurstDel, x.ToFloor.BurstDel)
		}
		fmt.Fprintln(tab)
	}
	return tab.Flush()
}
