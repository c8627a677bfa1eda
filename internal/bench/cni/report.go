// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// report is the output of the program. Times are in milliseconds.
type report struct {
	Rounds int    `json:"rounds"`
	Burst  int    `json:"burst"`
	Bursts int    `json:"bursts"`
	Rows   []*row `json:"rows"`
}

// row holds the results of one contender.
type row struct {
	Name string `json:"name"`
	Add  times  `json:"add"`
	Del  times  `json:"del"`
	// BurstAdd and BurstDel are medians, from the first exec to the last exit.
	BurstAdd float64 `json:"burstAdd"`
	BurstDel float64 `json:"burstDel"`
	// ToPtp holds the medians divided by those of ptp.
	ToPtp ratios `json:"toPtp"`

	add, del, burstAdd, burstDel []time.Duration
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
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return times{ms(all[0]), ms(all[len(all)/2]), ms(all[len(all)*9/10])}
}

// finish computes the results from the measured times.
func (r *report) finish() {
	var ptp *row
	for _, w := range r.Rows {
		w.Add, w.Del = timesOf(w.add), timesOf(w.del)
		w.BurstAdd, w.BurstDel = timesOf(w.burstAdd).Median, timesOf(w.burstDel).Median
		if w.Name == ptpName {
			ptp = w
		}
	}
	for _, w := range r.Rows {
		w.ToPtp = ratios{
			w.Add.Median / ptp.Add.Median, w.Del.Median / ptp.Del.Median,
			w.BurstAdd / ptp.BurstAdd, w.BurstDel / ptp.BurstDel,
		}
	}
}

// about describes the contenders, by name.
var about = map[string]string{
	emptyName:   "a Go program that does nothing",
	flatName:    "vpc-cni, flat layout; the agent deletes links after DEL",
	perPodName:  "vpc-cni, per-pod layout; the agent deletes links after DEL",
	noSweepName: "vpc-cni, flat layout; the plugin deletes links in DEL",
	ptpName:     "upstream ptp with host-local, " + upstream + " unless -plugins is given",
}

func (r *report) print(w io.Writer, format string) error {
	if format == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		return enc.Encode(r)
	}
	fmt.Fprintf(w, "%d pods each, one after another, and %d times %d at once; ms, and ratios of medians to ptp\n\n", r.Rounds, r.Bursts, r.Burst)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "\tADD min\tmedian\tp90\t/ptp\tDEL min\tmedian\tp90\t/ptp\t%d ADDs\t/ptp\t%d DELs\t/ptp\t\n", r.Burst, r.Burst)
	for _, x := range r.Rows {
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f\t%.2f\t%.1f\t%.1f\t%.1f\t%.2f\t%.0f\t%.2f\t%.0f\t%.2f\t\n", x.Name,
			x.Add.Min, x.Add.Median, x.Add.P90, x.ToPtp.Add, x.Del.Min, x.Del.Median, x.Del.P90, x.ToPtp.Del,
			x.BurstAdd, x.ToPtp.BurstAdd, x.BurstDel, x.ToPtp.BurstDel)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, x := range r.Rows {
		fmt.Fprintf(w, "%-13s %s\n", x.Name, about[x.Name])
	}
	return nil
}
