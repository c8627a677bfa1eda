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

// errDrift means that the report has something that must not be.
var errDrift = errors.New("the node was not kept as it should be")

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

// start runs the program in namespaces of its own.
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
	fs.DurationVar(&o.duration, "for", 30*time.Second, "how `long` to do damage, in each layout")
	fs.DurationVar(&o.bound, "bound", 150*time.Millisecond, "how `long` after a damage packets may be lost, beside the time until its repair")
	layout := fs.String("layout", "", "flat or per-pod; both if empty")
	fs.StringVar(&o.format, "o", "table", "output `format`: table or json")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	switch datapath.Layout(*layout) {
	case "":
	case datapath.Flat, datapath.PerPod:
		o.layouts = []datapath.Layout{datapath.Layout(*layout)}
	default:
		fmt.Fprintf(fs.Output(), "-layout %q is neither flat nor per-pod\n", *layout)
		return o, errors.New("usage")
	}
	if o.format != "table" && o.format != "json" || o.duration <= 0 || o.bound <= 0 {
		fmt.Fprintln(fs.Output(), "-o wants table or json, -for and -bound more than 0")
		return o, errors.New("usage")
	}
	return o, nil
}

// run does damage in each layout, and prints.
func run(ctx context.Context, out io.Writer, o options) error {
	var r report
	for _, layout := range o.layouts {
		row, err := harass(ctx, o, layout)
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
