// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// options are the values of the command line.
type options struct {
	Nodes        int
	Pods         int // on each node
	InstanceType string
	Layout       string
	JSON         bool
	Keep         bool
	Remove       bool
}

const (
	layoutFlat   = "flat"
	layoutPerPod = "per-pod"

	maxNodes = 16
)

// errUsage means that the error has already been printed.
var errUsage = errors.New("wrong usage")

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("lab", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&o.Nodes, "nodes", 3, "number of `nodes` of the VPC, 2 or more; they alternate between two availability zones")
	fs.IntVar(&o.Pods, "pods", 2, "number of `pods` of each node; node-1 gets more, until one has an address of its second ENI")
	fs.StringVar(&o.InstanceType, "instance-type", "t3.medium", "EC2 instance `type` of the nodes, which determines how many ENIs and addresses a node can have")
	fs.StringVar(&o.Layout, "layout", layoutFlat, "`how` pods are routed: flat (rules do not grow with pods) or per-pod (as amazon-vpc-cni-k8s)")
	fs.BoolVar(&o.JSON, "json", false, "print one JSON object instead of the walk")
	fs.BoolVar(&o.Keep, "keep", false, "keep the lab running and print how to enter it")
	fs.BoolVar(&o.Remove, "rm", false, "only remove the labs that -keep has left running")
	fs.Usage = func() {
		fmt.Fprintf(stderr, "Usage: go run ./examples/lab [flags]\n\nLab builds a VPC on this machine, explains it step by step, and checks it.\n\n")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, errUsage
	}
	if err := o.validate(fs.Args()); err != nil {
		fmt.Fprintln(stderr, "lab:", err)
		return o, errUsage
	}
	return o, nil
}

func (o options) validate(rest []string) error {
	limits, known := instancetype.Lookup(o.InstanceType)
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q; run with -help for the flags", rest[0])
	case o.Nodes < 2 || o.Nodes > maxNodes:
		return fmt.Errorf("-nodes %d: want 2 to %d, because pods send packets across nodes", o.Nodes, maxNodes)
	case o.Layout != layoutFlat && o.Layout != layoutPerPod:
		return fmt.Errorf("-layout %s: want %s or %s", o.Layout, layoutFlat, layoutPerPod)
	case !known:
		return fmt.Errorf("-instance-type %s: not a known EC2 instance type; try t3.medium", o.InstanceType)
	}
	return fits(o, limits)
}

// fits returns an error if the nodes have too few addresses for the pods of the
// walk.
func fits(o options, l instancetype.Limits) error {
	enis, per := l.MaxENIs(l.DefaultCard), l.SlotsPerENI()
	// Each node temporarily gets two more pods, and the first node gets as many as
	// need a second ENI.
	const further = 2
	most := enis*per - further
	switch {
	case enis < 2 || per+1 > most:
		return fmt.Errorf("-instance-type %s: has too few ENIs or addresses for the walk (%d x %d); try t3.medium", o.InstanceType, enis, per)
	case o.Pods < 1 || o.Pods > most:
		return fmt.Errorf("-pods %d: want 1 to %d on a %s, which has %d x %d addresses for pods", o.Pods, most, o.InstanceType, enis, per)
	}
	return nil
}
