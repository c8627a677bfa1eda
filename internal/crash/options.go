// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// options are the values of the command line.
type options struct {
	duration, batch time.Duration
	layout          string
	workers         int
	seed            uint64
	json            bool
	clock           bool
	continues       bool // go on after a violation
	kinds           []kind
	// programs is the directory of ipamd and vpc-cni; empty builds them.
	programs string
	node     node
}

// node has the settings of the node, which the command line does not change.
type node struct {
	instanceType string
	cooldown     time.Duration
	flags        []string // further flags of the agent
}

// theNode has 3 ENIs with 9 secondary addresses each.
var theNode = node{instanceType: "m5.large", cooldown: 2 * time.Second}

// vmEnv is set in the emulated machine of internal/vm. Tests may change the clock of
// that machine.
const vmEnv = "VPCNET_VM"

// errUsage means that the error has already been printed.
var errUsage = errors.New("wrong usage")

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{node: theNode}
	var only, skip string
	fs := flag.NewFlagSet("crash", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.DurationVar(&o.duration, "for", time.Minute, "how `long` to inject faults; the last batch and the checks at the end take additional time")
	fs.DurationVar(&o.batch, "batch", 8*time.Second, "how `long` the faults of one batch last")
	fs.StringVar(&o.layout, "layout", "flat", "`how` pods are routed: flat or per-pod")
	fs.IntVar(&o.workers, "workers", 8, "number of `workers` that add and delete pods concurrently, each up to 3 pods")
	fs.Uint64Var(&o.seed, "seed", 0, "`seed` of the first batch; each further batch uses the next number; 0 means a random seed")
	fs.BoolVar(&o.json, "json", false, "print the result as one JSON object instead of a table")
	fs.BoolVar(&o.clock, "clock", false, "also step the machine's clock; only in the machine of internal/vm")
	fs.BoolVar(&o.continues, "continue", false, "after a violation, count it and go on with a new VPC")
	fs.StringVar(&only, "only", "", "comma-separated `kinds` of faults to inject; no others are injected")
	fs.StringVar(&skip, "skip", "", "comma-separated `kinds` of faults to leave out")
	fs.StringVar(&o.programs, "programs", "", "`directory` with ipamd and vpc-cni; built with the go command if empty")
	fs.Usage = func() {
		fmt.Fprint(stderr, "Usage: go run ./internal/crash [flags]\n\nCrash injects faults into a node and checks that no running pod is affected.\n\n")
		fs.PrintDefaults()
		fmt.Fprint(stderr, "\nKinds of faults:\n")
		for _, k := range kinds() {
			fmt.Fprintf(stderr, "  %-16s %s\n", k, k.about())
		}
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, errUsage
	}
	err := o.choose(only, skip)
	if err == nil {
		err = o.validate(fs.Args())
	}
	if err != nil {
		fmt.Fprintln(stderr, "crash:", err)
		return o, errUsage
	}
	return o, nil
}

// choose sets the kinds: those in only, or all if it is empty, without those in skip.
// The clock needs its own flag.
func (o *options) choose(only, skip string) error {
	o.kinds = slices.DeleteFunc(kinds(), func(k kind) bool { return k == clockStep && !o.clock })
	for _, list := range []struct {
		text string
		drop bool // remove the kinds in the list, or else the kinds that are not in it
	}{{only, false}, {skip, true}} {
		if list.text == "" {
			continue
		}
		names := strings.Split(list.text, ",")
		for _, n := range names {
			if !slices.Contains(o.kinds, kind(n)) {
				return fmt.Errorf("kind %q: want one of %v", n, o.kinds)
			}
		}
		o.kinds = slices.DeleteFunc(o.kinds, func(k kind) bool { return slices.Contains(names, string(k)) == list.drop })
	}
	return nil
}

func (o *options) validate(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q; run with -help for the flags", rest[0])
	case o.layout != "flat" && o.layout != "per-pod":
		return fmt.Errorf("-layout %s: want flat or per-pod", o.layout)
	case o.workers < 1 || o.workers > 8:
		return fmt.Errorf("-workers %d: want 1 to 8, because the node has addresses for 27 pods", o.workers)
	case o.duration <= 0 || o.batch <= 0:
		return fmt.Errorf("-for %v, -batch %v: want more than 0", o.duration, o.batch)
	case o.clock && os.Getenv(vmEnv) == "":
		return fmt.Errorf("-clock changes the clock of the whole machine: it works only in the emulated machine of internal/vm, where %s is set", vmEnv)
	}
	return nil
}
