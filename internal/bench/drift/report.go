// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/vpcnet/vpcnet/datapath"
)

// report is the output of the program.
type report struct {
	Rows []row `json:"rows"`
}

// row holds the results of one layout.
type row struct {
	Layout  datapath.Layout `json:"layout"`
	Seconds float64         `json:"seconds"`
	Damages int             `json:"damages"`
	// Unrepaired is the number of damages that were not repaired, and Stayed lists
	// them.
	Unrepaired int      `json:"unrepaired"`
	Stayed     []string `json:"stayed,omitempty"`
	// Repair is the time from the kernel's report to the end of the repair. Total is
	// the time from the damage until another program observes the desired state.
	Repair times `json:"repairMs"`
	Total  times `json:"totalMs"`
	// Passing is the time from the damage until new packets pass again.
	Passing times `json:"passingMs"`
	// Packets is the number of packets sent. LostWithin of them were lost in the
	// windows after the damages, and LostAfter at other times.
	Packets    int `json:"packets"`
	LostWithin int `json:"lostWithin"`
	LostAfter  int `json:"lostAfter"`
	// Late says when each of the LostAfter packets was sent.
	Late []string `json:"late,omitempty"`
	// Foreign is the number of items that differ between the state of the node before
	// the first damage and at the end.
	Foreign int `json:"foreign"`
}

// times holds percentiles in milliseconds.
type times struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func (r report) print(w io.Writer, format string) error {
	if format == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		return enc.Encode(r)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tseconds\tdamages\tunrepaired\trepair p50 ms\tp99\tmax\tseen p50\tp99\tpassing p50\tp99\tpackets\tlost within bound\tafter\tforeign changed\t")
	for _, x := range r.Rows {
		fmt.Fprintf(t, "%s\t%.0f\t%d\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%d\t%d\t%d\t%d\t\n", x.Layout, x.Seconds, x.Damages, x.Unrepaired,
			x.Repair.P50, x.Repair.P99, x.Repair.Max, x.Total.P50, x.Total.P99, x.Passing.P50, x.Passing.P99, x.Packets, x.LostWithin, x.LostAfter, x.Foreign)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, x := range r.Rows {
		for _, s := range x.Stayed {
			fmt.Fprintf(w, "%s: not repaired: %s\n", x.Layout, s)
		}
		for _, s := range x.Late[:min(len(x.Late), 10)] {
			fmt.Fprintf(w, "%s: lost %s\n", x.Layout, s)
		}
	}
	return nil
}
