// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "journal:", err)
		os.Exit(1)
	}
}

// settings are the flags.
type settings struct {
	appends, pods, files int
	dir, read            string
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var s settings
	f := flag.NewFlagSet("journal", flag.ContinueOnError)
	f.IntVar(&s.appends, "appends", 2000, "`number` of appends for each disk")
	f.IntVar(&s.pods, "pods", 1000, "`number` of pods for the restart")
	f.IntVar(&s.files, "files", 400, "`number` of damaged files for each contender")
	f.StringVar(&s.dir, "dir", "", "`directory` on the disk to measure; that for temporary files if empty")
	f.StringVar(&s.read, "read", "", "read the journal in -dir with the contender of this `name` and print its events; for the processes that read damaged files only")
	if err := f.Parse(args); err != nil {
		return err
	}
	if s.read != "" {
		return read(s.read, s.dir, out)
	}
	fmt.Fprintf(out, "| journal | ADD, no sync | fdatasync 0.2 ms | fdatasync 3 ms | restart, %d pods | %d damaged files: as before | refused | another list | crash | hang |\n",
		s.pods, s.files)
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|---|---|---|")
	for _, c := range contenders() {
		fmt.Fprintf(out, "| %s ", c.name)
		for _, disk := range []time.Duration{0, 200 * time.Microsecond, 3 * time.Millisecond} {
			took, err := appends(ctx, c, s, disk)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			fmt.Fprintf(out, "| %v ", took)
		}
		took, err := restart(c, s)
		if err != nil {
			return fmt.Errorf("%s: restart: %w", c.name, err)
		}
		n, err := damaged(ctx, c, s)
		if err != nil {
			return fmt.Errorf("%s: damage: %w", c.name, err)
		}
		fmt.Fprintf(out, "| %v | %d | %d | %d | %d | %d |\n", took, n[same], n[refused], n[other], n[crashed], n[hung])
	}
	return nil
}
