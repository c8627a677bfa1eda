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

// options is what the command line asks for.
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

// node is what the loop does not let choose.
type node struct {
	instanceType string
	cooldown     time.Duration
	flags        []string // further ones of the agent
}

// theNode has 3 ENIs with 9 secondary addresses each.
var theNode = node{instanceType: "m5.large", cooldown: 2 * time.Second}

// vmEnv is set in the emulated machine of internal/vm, whose clock may be set.
const vmEnv = "VPCNET_VM"

// errUsage says that the mistake has been printed already.
var errUsage = errors.New("wrong usage")

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{node: theNode}
	var only, skip string
	fs := flag.NewFlagSet("crash", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.DurationVar(&o.duration, "for", time.Minute, "how `long` to make trouble; the last batch and the checks at the end come on top")
	fs.DurationVar(&o.batch, "batch", 8*time.Second, "how `long` the trouble of one batch lasts")
	fs.StringVar(&o.layout, "layout", "flat", "`how` pods are routed: flat or per-pod")
	fs.IntVar(&o.workers, "workers", 8, "how many `workers` add and delete pods at once, each up to 3 pods")
	fs.Uint64Var(&o.seed, "seed", 0, "`seed` of the first batch, each further one has the next; 0 takes one at random")
	fs.BoolVar(&o.json, "json", false, "print the result as one JSON object instead of a table")
	fs.BoolVar(&o.clock, "clock", false, "step the machine's clock too; only in the machine of internal/vm")
	fs.BoolVar(&o.continues, "continue", false, "go on after a violation, with a new VPC, and count")
	fs.StringVar(&only, "only", "", "comma-separated `kinds` of trouble to make, and no others")
	fs.StringVar(&skip, "skip", "", "comma-separated `kinds` of trouble to leave out")
	fs.StringVar(&o.programs, "programs", "", "`directory` with ipamd and vpc-cni; built with the go command if empty")
	fs.Usage = func() {
		fmt.Fprint(stderr, "Usage: go run ./internal/crash [flags]\n\nCrash breaks a node in every way it knows and checks that no running pod is harmed.\n\n")
		fs.PrintDefaults()
		fmt.Fprint(stderr, "\nKinds of trouble:\n")
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

// choose sets the kinds: all, or only some, without those to skip. The clock is
// asked for by its own flag.
func (o *options) choose(only, skip string) error {
	o.kinds = slices.DeleteFunc(kinds(), func(k kind) bool { return k == clockStep && !o.clock })
	for _, list := range []struct {
		text string
		drop bool // those in the list, or those that are not
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
		return fmt.Errorf("-workers %d: want 1 to 8, as the node has addresses for 27 pods", o.workers)
	case o.duration <= 0 || o.batch <= 0:
		return errors.New("-for and -batch want more than 0")
	case o.clock && os.Getenv(vmEnv) == "":
		return fmt.Errorf("-clock sets the clock of the whole machine: it works in the emulated machine of internal/vm only, where %s is set", vmEnv)
	}
	return nil
}
