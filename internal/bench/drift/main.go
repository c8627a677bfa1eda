// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/isolate"
)

// options are the program's flags.
type options struct {
	duration, bound time.Duration
	layouts         []datapath.Layout
	format          string
}

// errDrift is the error of a report with late losses, damages that were not repaired,
// or changes to the state of other programs.
var errDrift = errors.New("packets were lost late, damage was not repaired, or foreign state has changed; want none of these")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := start(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		if isolate.Inside() {
			fmt.Fprintln(os.Stderr, "drift:", err)
		}
		os.Exit(1)
	}
}

// start runs the program in new namespaces.
func start(ctx context.Context, out io.Writer, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if !isolate.Inside() {
		cmd, err := isolate.Command(args...)
		if err != nil {
			return err
		}
		cmd.Stdout, cmd.Stderr = out, os.Stderr
		return isolate.Run(cmd)
	}
	if err := isolate.Init(); err != nil {
		return err
	}
	return run(ctx, out, o)
}

func parse(args []string) (options, error) {
	o := options{layouts: []datapath.Layout{datapath.Flat, datapath.PerPod}}
	fs := flag.NewFlagSet("drift", flag.ContinueOnError)
	fs.DurationVar(&o.duration, "for", 30*time.Second, "`duration` of the damage, in each layout")
	fs.DurationVar(&o.bound, "bound", 150*time.Millisecond, "`duration` after a damage in which packets may be lost, even if it is repaired before")
	layout := fs.String("layout", "", "`layout` to measure: flat or per-pod; both if empty")
	fs.StringVar(&o.format, "o", "table", "output `format`: table or json")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	switch datapath.Layout(*layout) {
	case "":
	case datapath.Flat, datapath.PerPod:
		o.layouts = []datapath.Layout{datapath.Layout(*layout)}
	default:
		fmt.Fprintf(fs.Output(), "-layout %q: want flat or per-pod\n", *layout)
		return o, errors.New("usage")
	}
	if o.format != "table" && o.format != "json" || o.duration <= 0 || o.bound <= 0 {
		fmt.Fprintf(fs.Output(), "-o %q, -for %v, -bound %v: want table or json, and durations of more than 0\n", o.format, o.duration, o.bound)
		return o, errors.New("usage")
	}
	return o, nil
}

// run measures each layout and prints the report.
func run(ctx context.Context, out io.Writer, o options) error {
	var r report
	for _, layout := range o.layouts {
		row, err := measure(ctx, o, layout)
		if err != nil {
			return fmt.Errorf("%s: %w", layout, err)
		}
		r.Rows = append(r.Rows, row)
	}
	if err := r.print(out, o.format); err != nil {
		return err
	}
	for _, row := range r.Rows {
		if row.LostAfter > 0 || row.Unrepaired > 0 || row.Foreign > 0 {
			return errDrift
		}
	}
	return nil
}
