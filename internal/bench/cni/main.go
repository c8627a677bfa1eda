// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/internal/isolate"
)

// upstream is the release of github.com/containernetworking/plugins that is measured.
const upstream = "v1.9.1"

// formats are the values of -o.
var formats = []string{"table", "json", "ratios"}

// options are the program's flags.
type options struct {
	rounds, burst, bursts int
	pods                  []int
	format, plugins, bin  string
	// before is another build of vpc-cni, scenario is part of the names of the scenarios.
	before, scenario string
	slowDisk         time.Duration
	parts            bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "cni:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	var o options
	fs := flag.NewFlagSet("cni", flag.ContinueOnError)
	fs.IntVar(&o.rounds, "rounds", 50, "`number` of pods, one after another, of each kind")
	fs.IntVar(&o.burst, "burst", 100, "`number` of pods at once")
	fs.IntVar(&o.bursts, "bursts", 3, "`number` of bursts of each kind")
	fs.Func("pods", "`numbers` of pods that a node has already, with commas (default 0,250,737)", func(s string) (err error) {
		o.pods, err = parsePods(s)
		return err
	})
	fs.StringVar(&o.format, "o", "table", "output `format`: table, json, or ratios, one Markdown table")
	fs.StringVar(&o.plugins, "plugins", "", "`directory` with ptp and host-local; built if empty")
	fs.StringVar(&o.before, "before", "", "another build of vpc-cni, a `file`, that is measured in turn with this one")
	fs.StringVar(&o.scenario, "scenario", "", "`text` that the names of the scenarios to measure have; all if empty")
	fs.DurationVar(&o.slowDisk, "slow-disk", 0, "`time` that each fsync and fdatasync of ipamd takes longer on a further node; needs strace")
	fs.BoolVar(&o.parts, "parts", false, "print where the time of an ADD and a DEL goes, and nothing else; needs strace")
	fs.StringVar(&o.bin, "bin", "", "`directory` with the measured programs, for the inner process only")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.rounds < 1 || o.burst < 1 || o.bursts < 1 || !slices.Contains(formats, o.format) {
		return fmt.Errorf("-rounds %d, -burst %d, -bursts %d, -o %q: want at least 1, 1 and 1, and table, json or ratios", o.rounds, o.burst, o.bursts, o.format)
	}
	if _, err := exec.LookPath("strace"); (o.slowDisk > 0 || o.parts) && err != nil {
		return fmt.Errorf("-slow-disk and -parts: %w", err)
	}
	if o.pods == nil {
		o.pods = []int{0, 250, 737}
	}
	if o.bin == "" {
		return runIsolated(ctx, out, o, args)
	}
	if err := isolate.Init(); err != nil {
		return err
	}
	if o.parts {
		return measureParts(ctx, o, out)
	}
	report, err := measure(ctx, o)
	if err != nil {
		return err
	}
	return report.print(out, o.format)
}

// maxPods is what the addresses of a contender suffice for.
const maxPods = 10_000

func parsePods(s string) (pods []int, err error) {
	for _, f := range strings.Split(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 0 || n > maxPods {
			return nil, fmt.Errorf("%q is not a number from 0 to %d", f, maxPods)
		}
		pods = append(pods, n)
	}
	return pods, nil
}

// runIsolated builds the measured programs and runs this program again in new
// namespaces, which cannot reach the module proxy.
func runIsolated(ctx context.Context, out io.Writer, o options, args []string) error {
	if err := isolate.Available(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-cni")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := build(ctx, dir, o.plugins); err != nil {
		return err
	}
	if o.before != "" {
		if err := link(o.before, filepath.Join(dir, "before")); err != nil {
			return err
		}
	}
	cmd, err := isolate.Command(append(args, "-bin", dir)...)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	return isolate.Run(cmd)
}

// build builds all programs into dir, with the flags of a release.
func build(ctx context.Context, dir, plugins string) error {
	empty := filepath.Join(dir, "empty.go")
	if err := os.WriteFile(empty, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		return err
	}
	const modules = "github.com/containernetworking/plugins/plugins/"
	for _, args := range [][]string{
		{"build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "empty"), empty},
		{"build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "vpc-cni"), "github.com/vpcnet/vpcnet/examples/vpc-cni"},
		{"build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "ipamd"), "github.com/vpcnet/vpcnet/examples/ipamd"},
		{"build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "floor"), "github.com/vpcnet/vpcnet/internal/bench/cni/floor"},
		{"install", "-trimpath", "-ldflags=-s -w", modules + "main/ptp@" + upstream, modules + "ipam/host-local@" + upstream},
	} {
		if args[0] == "install" && plugins != "" {
			continue
		}
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+dir)
		if msg, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %v: %w\n%s", args, err, msg)
		}
	}
	if plugins == "" {
		return nil
	}
	for _, name := range []string{"ptp", "host-local"} {
		if err := link(filepath.Join(plugins, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// link makes a symbolic link to a program.
func link(program, at string) error {
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	return os.Symlink(program, at)
}
